"""Measured runs while they go, on stderr: on a terminal a table that is drawn anew every second,
since the machine that draws is the one that is measured; without one an event of JSON when a run
begins and ends, or at every step for another program."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from lora_profiler.measuring.harness import Heartbeat
from lora_profiler.measuring.records.record import MEASURED, readings_dict
from lora_profiler.memory.prediction import Prediction
from lora_profiler.report.json import picked
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measured_runs import run_texts
from lora_profiler.report.measured.measurements import distinctions
from lora_profiler.report.progress import terminal
from lora_profiler.runs.campaign.progress import CaseRow, Progress
from lora_profiler.runs.comparison.errors import counted_peak
from lora_profiler.units import bytes_text, clock_text, count_text

if TYPE_CHECKING:
    from rich.console import Group


COLUMNS = ("model", "method", "setup", "status", "time", "peak", "predicted", "error")
_STYLES = {"running": "bold cyan", "waiting": "dim", "stored": "dim", "interrupted": "yellow"}
_STATUS_STYLES = {"ok": "green", "noisy": "yellow", "oom": "yellow"}
_WIDTHS = {"method": 9, "status": 20, "time": 7, "peak": 12, "predicted": 12, "error": 8}
"""Of columns that must neither jump nor lose a letter; model and setup share what is left."""
_GAP = 2
_LEAST_FOR_NAMES = 20
"""Where model and setup would get less, the predicted peak is left out, then the error."""
_SECONDS_BETWEEN = 1.0
_MOST_ROWS = 20
"""Of a taller terminal too: drawing them takes 6 ms of the machine that is measured."""


@contextmanager
def shown_runs(
    progress: Progress,
    *,
    total: int | None,
    deadline_seconds: float | None,
    transient: bool,
    as_json: bool = False,
) -> Iterator[None]:
    """Shows `progress` while the block runs. `total` is the number of cases where it is known
    beforehand. `transient` takes the table away at the end; `as_json` is for other programs."""
    console = None if as_json else terminal()
    if console is None:

        def write(index: int, row: CaseRow) -> None:
            event = run_event(index, row, total, progress.seconds_left())
            print(event, file=sys.stderr, flush=True)

        progress.tell = write
        if as_json:
            progress.beat = write
        yield
        return
    from rich.live import Live

    words: list[str] = []

    def draw() -> Any:
        if len(words) != len(progress.rows):  # of a hundred cases this is most of a drawing
            words[:] = row_distinctions(progress.rows)
        return drawn(progress, words, console.width, console.height, deadline_seconds)

    with Live(
        console=console,
        get_renderable=draw,
        refresh_per_second=1 / _SECONDS_BETWEEN,
        transient=transient,
        redirect_stdout=False,
    ):
        yield


def row_distinctions(rows: Sequence[CaseRow]) -> list[str]:
    cases = [row.planned.case for row in rows]
    repeated = len({case.repeat for case in cases}) > 1
    runs = [f"run {case.repeat + 1}" if repeated else "" for case in cases]
    words = distinctions([case.workload for case in cases])
    return [", ".join(filter(None, parts)) for parts in zip(words, runs, strict=True)]


def run_event(index: int, row: CaseRow, total: int | None, left_seconds: float | None) -> str:
    """Where one case is, as an object: `status` and `record_id` once it has a record, else `phase`,
    `step` and `done` as the measured process says them, and `read`, what it read since. `left_s` is
    of all cases.
    `case` counts from 1; `predicted_bytes` is the peak with BLAS workspaces, which a card's
    counters hold too, null where a part of it is not known."""
    workload, prediction = row.planned.case.workload, row.planned.prediction
    is_known = prediction.is_whole
    beat = row.heartbeat if row.state == "running" else None
    event: dict[str, Any] = {
        "case": index + 1,
        "of": total,
        "model": workload.model.id,
        "method": workload.setup.method,
        "state": row.state,
        "predicted_bytes": counted_peak(prediction) if is_known else None,
        **(picked(beat, "phase step done") if beat else dict.fromkeys(("phase", "step", "done"))),
        "read": readings_dict(beat.read) if beat else {},
        "status": row.record.measurement.status if row.record else None,
        "record_id": row.record.id if row.record else None,
        "left_s": None if left_seconds is None else round(left_seconds),
    }
    return json.dumps(event, allow_nan=False)


# --- the live table -------------------------------------------------------------------------------


def drawn(
    progress: Progress,
    words: Sequence[str],
    width: int,
    height: int,
    deadline_seconds: float | None = None,
) -> "Group":
    """The rows around the one that runs, as many as the terminal has lines for, and how far the
    whole is. `words` are those of `row_distinctions`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    widths = column_widths(width, [_model(row) for row in progress.rows], words)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for name, size in widths.items():
        side: Literal["left", "right"] = "left" if name in COLUMNS[:4] else "right"
        table.add_column(name, justify=side, no_wrap=True, overflow="ellipsis", width=size)
    first, last = window(progress.rows, min(height - 4, _MOST_ROWS))
    for row, what in list(zip(progress.rows, words, strict=True))[first:last]:
        cells = dict(zip(COLUMNS, _cells(progress, row, what), strict=True))
        styles = dict.fromkeys(widths, _STYLES.get(row.state, ""))
        if row.record is not None and row.state == "done":
            styles["status"] = _STATUS_STYLES.get(row.record.measurement.status, "red")
        table.add_row(*(Text(cells[name], style=styles[name]) for name in widths))
    return Group(table, Text(footer(progress, deadline_seconds), style="dim"))


def column_widths(width: int, models: Sequence[str], words: Sequence[str]) -> dict[str, int]:
    """The columns that a terminal of `width` characters shows, in order, and how wide each is."""
    has_setup = any(words)
    names = [name for name in COLUMNS if name != "setup" or has_setup]
    for name in ("predicted", "error", ""):
        fixed = sum(_WIDTHS.get(n, 0) for n in names) + _GAP * (len(names) - 1)
        rest = max(_LEAST_FOR_NAMES, width - fixed)
        if width - fixed >= _LEAST_FOR_NAMES or not name:
            break
        names.remove(name)
    longest = max(map(len, (*models, "model")))
    of_setup = max(map(len, ("setup", *words)))
    of_model = min(longest, max(rest - of_setup - 1, rest // 2) if has_setup else rest)
    shared = {"model": of_model, "setup": min(of_setup, rest - of_model)}
    return {name: (_WIDTHS | shared)[name] for name in names}


def _model(row: CaseRow) -> str:
    return row.planned.case.workload.model.id.rpartition("/")[2]


def window(rows: Sequence[CaseRow], most: int) -> tuple[int, int]:
    """The first row to show and the one after the last: the row that runs in the lower half, what
    comes next below it."""
    most = max(3, most)
    now = next((i for i, row in enumerate(rows) if row.state == "running"), None)
    if now is None:
        now = next((i for i, row in enumerate(rows) if row.state == "waiting"), len(rows))
    first = min(max(0, now - most * 2 // 3), max(0, len(rows) - most))
    return first, min(len(rows), first + most)


def _cells(progress: Progress, row: CaseRow, what: str) -> tuple[str, ...]:
    model, method = _model(row), method_label(row.planned.prediction)
    seconds = progress.elapsed(row)
    time = "" if seconds is None else clock_text(seconds)
    if row.record is None:
        predicted = predicted_text(row.planned.prediction)
        return (model, method, what, status_text(row), time, "", predicted, "")
    status, *peaks, _, _ = run_texts(row.record, row.planned.prediction)
    status = f"{status} (stored)" if row.state == "stored" else status
    return (model, method, what, status, time, *peaks)


def status_text(row: CaseRow) -> str:
    """Where a row without a record stands: 'waiting', 'loading the weights', 'step 2: backward',
    'timing, 40 steps'."""
    return beat_text(row.heartbeat) if row.state == "running" else row.state


def beat_text(beat: Heartbeat | None) -> str:
    """What a measured process does: 'loading the model', 'step 2: backward', 'timing, 40 steps';
    'starting' before it says so."""
    if beat is None:
        return run_labels.STAGE_LABELS["start"]
    if beat.step is not None:
        return f"step {beat.step}: {run_labels.PHASE_SHORT.get(beat.phase, beat.phase)}"
    done = "" if beat.done is None else f", {count_text(beat.done)} step{'s' * (beat.done != 1)}"
    return run_labels.STAGE_LABELS.get(beat.phase, beat.phase) + done


def predicted_text(prediction: Prediction) -> str:
    peak = bytes_text(counted_peak(prediction))
    return peak if prediction.is_whole else f">= {peak}"


def footer(progress: Progress, deadline_seconds: float | None = None) -> str:
    """'2 of 8 done (1 out of memory); 3:12 gone, about 9:00 left. Ctrl-C keeps what is done.'"""
    statuses = [row.record.measurement.status for row in progress.rows if row.record is not None]
    short = Counter(run_labels.STATUS_LABELS[each] for each in statuses if each not in MEASURED)
    counts = f"{len(statuses)} of {len(progress.rows)} done"
    if short:
        counts += f" ({', '.join(f'{count} {status}' for status, count in short.items())})"
    times = [f"{clock_text(progress.seconds_gone)} gone"]
    if left := progress.seconds_left():
        times.append(f"about {clock_text(left)} left")
    if deadline_seconds is not None:
        rest = max(0.0, deadline_seconds - progress.seconds_gone)
        times.append(f"{clock_text(rest)} to the deadline")
    return f"{counts}; {', '.join(times)}. Ctrl-C keeps what is done."
