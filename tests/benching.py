"""`lora-profile bench` in this process, with a stand-in for the measured one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import families
from commands import Done, Run
from lora_profiler.measuring.harness import Case, Heartbeat
from lora_profiler.measuring.records.record import Failure, Record
from lora_profiler.measuring.records.store import Store
from lora_profiler.planning.engine import predict
from lora_profiler.runs.campaign import runs, session
from records import make_record

Answer = Callable[[Case], Record]
SIZES = ("--device", "cpu", "-b", "2", "-s", "24", "--dtype", "float32")


def record_of(case: Case, status: str = "ok", **measured: Any) -> Record:
    """A record of `case` whose peak is the predicted one."""
    peak = predict(case.workload).peak
    fields: dict[str, Any] = {
        "status": status,
        "peak_requested_bytes": peak.total_bytes,
        "peak_allocated_bytes": peak.total_bytes,
        "attribution_bytes": dict(peak.bytes),
        "phase_peak_bytes": {"backward": peak.total_bytes},
        "step1_phase_peak_bytes": None,
        "persistent_bytes": None,
        "saved_activation_bytes": None,
    }
    if status not in ("ok", "noisy"):
        failure = Failure(reason="as planned", phase="forward", step=1)
        fields = dict.fromkeys(fields) | {"status": status, "failure": failure}
        fields["step_seconds"] = None
    whose: Any = {"conditions": case.conditions, "repeat": case.repeat}
    return make_record(case.workload, **whose, **fields | measured)


class Bench:
    """The command in this process. Cases are answered by `answer` and kept in `asked`; no process
    is started."""

    def __init__(self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store_path = folder / "records.jsonl"
        self.model = folder / "tiny" / "config.json"
        self.model.parent.mkdir()
        self.model.write_text(json.dumps(families.TINY["llama"]))
        self.asked: list[Case] = []
        self.options: list[dict[str, Any]] = []
        self.answer: Answer = record_of
        self._run = run
        monkeypatch.setattr(session, "measure_case", self._measure)
        monkeypatch.setattr(runs, "environment_of", lambda *a, **o: make_record().environment)

    def _measure(
        self, case: Case, *, progress: Callable[[Heartbeat], None], **options: Any
    ) -> Record:
        self.asked.append(case)
        self.options.append(options)
        progress(Heartbeat(phase="forward", step=1))
        return self.answer(case)

    def __call__(self, *arguments: str, records: Path | None = None) -> Done:
        self.asked.clear()
        done = self._run("bench", *arguments, "--records", str(records or self.store_path))
        assert "Traceback" not in done.stderr
        return done

    def tiny(self, *arguments: str) -> Done:
        return self(str(self.model), *SIZES, *arguments)

    def stored(self) -> list[Record]:
        return Store(self.store_path).records()


@pytest.fixture
def bench(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(run, tmp_path, monkeypatch)


def statuses(*found: str) -> Answer:
    """Answers in turn; the last one for all that follow."""
    left = list(found)
    return lambda case: record_of(case, left.pop(0) if len(left) > 1 else left[0])
