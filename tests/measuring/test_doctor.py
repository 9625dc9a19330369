"""What `doctor` says of measuring: over fake cards and made-up findings, and from real processes
that end in every way."""

import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from commands import lora_profile
from fake_nvml import FakeDevice, FakeNvml
from lora_profiler.measuring.harness import doctor
from lora_profiler.measuring.harness.capabilities import Abilities, abilities

HAS_TORCH = find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs torch")
FOUND = Abilities(
    torch="2.13.0", devices=("cuda", "cpu"), bfloat16={"cuda": "yes", "cpu": "in software"}
)
ON_CPU = Abilities(torch="2", devices=("cpu",))


def sections(
    monkeypatch: pytest.MonkeyPatch,
    found: Abilities = FOUND,
    absent: tuple[str, ...] = (),
    nvml: FakeNvml | None = None,
    **env: str,
) -> dict[str, dict[str, str]]:
    monkeypatch.setattr(doctor, "abilities", lambda environ: found)
    monkeypatch.setattr(
        doctor, "_version", lambda name: "not installed (x)" if name in absent else "1.0"
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml or FakeNvml(driver=False))
    return {name: of for each in doctor.diagnosed(env) for name, of in each.as_dict().items()}


def measuring(
    monkeypatch: pytest.MonkeyPatch, found: Abilities = FOUND, *absent: str
) -> dict[str, str]:
    return sections(monkeypatch, found, absent)["measuring"]


# --- lines ----------------------------------------------------------------------------------------


def test_what_can_be_trained_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(FOUND, four_bit={"cuda": "yes", "cpu": "yes"}, vram_method="pid")
    lines = measuring(monkeypatch, found)
    assert lines["full, LoRA"] == lines["QLoRA"] == "yes, on cuda, cpu"
    assert lines["torch"] == "2.13.0, sees cuda, cpu"
    assert lines["bfloat16"] == "cuda: yes, cpu: in software"
    assert lines["memory of one process"] == "yes"
    assert "inquiry" not in lines


def test_qlora_on_some_devices_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(FOUND, four_bit={"cuda": "yes", "cpu": "no (RuntimeError: AVX2)"})
    assert measuring(monkeypatch, found)["QLoRA"] == "yes, on cuda; cpu: no (RuntimeError: AVX2)"
    hidden = replace(ON_CPU, four_bit={"cpu": "no (OSError: lib)"}, vram_method="device_delta")
    lines = measuring(monkeypatch, hidden)
    assert lines["QLoRA"] == "cpu: no (OSError: lib)"
    assert lines["memory of one process"].startswith("no, the driver hides it")


def test_what_is_missing_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("torch", "peft", "bitsandbytes")
    lines = measuring(monkeypatch, Abilities(problem="torch is not installed"), *absent)
    install = "pip install 'lora-profiler[measure]'"
    assert lines["full, LoRA"] == f"no: torch, peft not installed; {install}"
    assert lines["QLoRA"] == "no: bitsandbytes not installed; pip install 'lora-profiler[qlora]'"
    assert "torch" not in lines
    assert measuring(monkeypatch, FOUND, "transformers")["QLoRA"] == "no, as above"


def test_an_inquiry_that_ended_early_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = measuring(monkeypatch, Abilities(problem="importing torch: ended by signal 4"))
    assert lines["full, LoRA"] == "no: importing torch: ended by signal 4"
    assert lines["QLoRA"] == "no, as above"
    found = replace(ON_CPU, bfloat16={"cpu": "yes"}, problem="4 bit on cpu: ended by signal 4")
    lines = measuring(monkeypatch, found)
    assert lines["full, LoRA"] == "yes, on cpu"
    assert lines["QLoRA"] == "not known"
    assert lines["inquiry"] == "stopped at 4 bit on cpu: ended by signal 4"


def test_records_and_the_room_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "not" / "there"))
    lines = measuring(monkeypatch)
    if sys.platform == "linux":
        path = tmp_path / "not" / "there" / "lora_profiler" / "records.jsonl"
        assert lines["records"] == str(path)
    assert lines["free disk there"].endswith("iB")
    assert list(tmp_path.iterdir()) == []


def test_cards_and_their_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    library = FakeNvml(
        FakeDevice("GPU-1", name="NVIDIA H100 80GB HBM3", total=80 * gib, used=2 * gib),
        FakeDevice("GPU-2", mig=1, energy=None),
    )
    lines = sections(monkeypatch, nvml=library, CUDA_VISIBLE_DEVICES="1")["devices"]
    assert lines == {
        "NVML": "driver 580.65.06",
        "0: NVIDIA H100 80GB HBM3": "80.00 GiB, 2.00 GiB in use, MIG off, energy counter",
        "1: NVIDIA Example": "74.51 GiB, 953.67 MiB in use, MIG on, no energy counter",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert library.opened == 0
    assert sections(monkeypatch)["devices"] == {"NVML": "no NVIDIA driver here (Driver Not Loaded)"}
    assert sections(monkeypatch, nvml=FakeNvml())["devices"] == {"NVML": "no NVIDIA device here"}


# --- the inquiry ----------------------------------------------------------------------------------


def inquiry(tmp_path: Path, timeout_seconds: float = 60.0, **modules: str) -> Abilities:
    """Of a process in which the named modules are the given source."""
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source)
    return abilities(os.environ | {"PYTHONPATH": str(tmp_path)}, timeout_seconds)


@needs_torch
def test_the_inquiry_finds_what_torch_finds(tmp_path: Path) -> None:
    """4 bit is left to a bitsandbytes that hands back what it got, or takes the process down with
    it."""
    import torch

    identity = (
        "def quantize_4bit(weight, **_): return weight, None\ndef dequantize_4bit(weight, _):"
        " return weight\n"
    )
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("")
    functional = tmp_path / "bitsandbytes" / "functional.py"
    functional.write_text(identity)
    found = inquiry(tmp_path)
    assert (found.torch, found.problem) == (torch.__version__, "")
    assert found.devices[-1] == "cpu"
    assert (len(found.devices) > 1) == torch.accelerator.is_available()
    assert found.bfloat16["cpu"] in ("yes", "in software")
    assert found.four_bit["cpu"] == "yes"
    functional.write_text(identity.replace("return weight, None", "return 2 * weight, None"))
    assert inquiry(tmp_path).four_bit["cpu"] == "no (values come back 1 off)"


@needs_torch
def test_what_was_found_before_a_crash_counts(tmp_path: Path) -> None:
    found = inquiry(tmp_path, bitsandbytes="import os; os.abort()")
    assert (found.devices[-1], found.four_bit) == ("cpu", {})
    assert found.problem == f"4 bit on {found.devices[0]}: ended by signal 6"


@needs_torch
def test_a_torch_that_cannot_be_used(tmp_path: Path) -> None:
    found = inquiry(tmp_path, torch="raise ImportError('libcudart.so.13 is missing')")
    assert found == Abilities(problem="importing torch: ImportError: libcudart.so.13 is missing")
    aborted = inquiry(tmp_path, torch="import os; os.abort()")
    assert aborted.problem == "importing torch: ended by signal 6"
    slow = inquiry(tmp_path, timeout_seconds=0.5, torch="import time; time.sleep(60)")
    assert slow == Abilities(problem="importing torch: took longer than 0.5 s")


def test_without_torch_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_profiler.measuring.harness.capabilities.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", None)
    assert abilities() == Abilities(problem="torch is not installed")


@needs_torch
def test_the_command_line_s_json() -> None:
    document = json.loads(lora_profile("doctor", "--format", "json").stdout)
    named = {"full, LoRA", "QLoRA", "torch", "bfloat16", "records", "free disk there"}
    assert named <= set(document["measuring"])
    if find_spec("bitsandbytes") is not None and find_spec("peft") is not None:
        assert document["measuring"]["QLoRA"].startswith("yes, on ")
