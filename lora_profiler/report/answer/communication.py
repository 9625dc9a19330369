"""What ranks send each other, as a table and a line."""

from collections.abc import Sequence

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.network import Communication
from lora_profiler.report import labels
from lora_profiler.report.blocks import Rows, Table
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.units import between_text, byte_unit, bytes_text, count_text, seconds_text


def communication_table(answers: Sequence[Answer]) -> Table | None:
    """A row for each kind of collective and phase, a column a method; None where nobody sends
    anything."""
    found = [answer.communication for answer in answers]
    known = [each for each in found if each is not None]
    if not known:
        return None
    world = answers[0].prediction.workload.setup.world_size
    unit, size = byte_unit(max(each.sent_bytes for each in known))
    rows = Rows()
    rows.size = size
    for kind in dict.fromkeys((t.collective, t.phase) for each in known for t in each.traffic):
        label = f"{labels.COLLECTIVE_LABELS[kind[0]]}, {run_labels.PHASE_SHORT[kind[1]]}"
        rows.add(label, *(_cell(each, kind, rows) for each in found))
    sent = (rows.text(each.sent_bytes) if each else "" for each in found)
    rows.add("a rank sends", *sent, kind="total")
    network = known[0].network
    if network is not None:
        texts = ("" if e is None or e.seconds is None else seconds_text(e.seconds) for e in found)
        rows.add(f"at least, over {network.key}", *texts, kind="peak")
        bounds = [step_bounds(answer) for answer in answers]
        longest = max((b[1] for b in bounds if b), default=0.0)
        ends = ("step, if all of it is hidden behind compute", "step, if nothing is")
        for end, label in enumerate(ends if any(bounds) else ()):
            rows.add(label, *("" if b is None else seconds_text(b[end], longest) for b in bounds))
    columns = (unit, *(method_label(answer.prediction) for answer in answers))
    title = f"Communication of a step among {world} ranks"
    return Table(title=title, columns=columns, rows=tuple(rows.rows))


def _cell(each: Communication | None, kind: tuple[str, str], rows: Rows) -> str:
    for traffic in each.traffic if each else ():
        if (traffic.collective, traffic.phase) == kind:
            return f"{count_text(traffic.count)} x, {rows.text(traffic.size_bytes)}"
    return "-"


def step_bounds(answer: Answer) -> tuple[float, float] | None:
    """Seconds of a step at least and at most, sending included; None where compute or link is not
    known."""
    step = answer.timing.step if answer.timing else None
    seconds = answer.communication.seconds if answer.communication else None
    if step is None or seconds is None:
        return None
    return max(step.time.low, seconds), step.time.high + seconds


def communication_lines(answers: Sequence[Answer]) -> list[str]:
    """What the times leave out where several ranks train and no link was named."""
    for a in answers:
        if a.communication and a.communication.network is None and a.timing and a.timing.step:
            return [
                "Times are of compute alone; --interconnect adds what the ranks send each other."
            ]
    return []


def sending_lines(answers: Sequence[Answer]) -> list[str]:
    """'full: a rank sends 37.55 GiB a step, at least 89.60 ms over nvlink4; with it a step takes
    174.07 ms to 359.25 ms.'"""
    lines = []
    for answer in answers:
        found, bounds = answer.communication, step_bounds(answer)
        if found is None:
            continue
        label = method_label(answer.prediction)
        words = f"{label}: a rank sends {bytes_text(found.sent_bytes)} a step"
        if found.network is not None and found.seconds is not None:
            words += f", at least {seconds_text(found.seconds)} over {found.network.key}"
        if bounds is not None:
            words += f"; with it a step takes {between_text(*bounds)}"
        lines.append(f"{words}.")
    return lines + communication_lines(answers)
