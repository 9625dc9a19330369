"""Records and predictions made by hand, for tests of what is worked out from them. Imports no
torch.

The default is a tiny GPT-2, trained in full on a processor with batch 2 x 8 tokens; its numbers are
round but consistent: the attribution adds up to the peak, the peak is the largest of the phases,
and the counts are those of the model.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import families
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.records.record import (
    Conditions,
    Device,
    Environment,
    Measurement,
    Record,
)
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.memory.prediction import (
    Details,
    FlopCount,
    Moment,
    MomentName,
    ParameterCount,
    Prediction,
    Step,
)
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

MODEL = model_from_config(dict(families.TINY["gpt2"]), id="tiny-gpt2", source="file")
WORKLOAD = Workload(
    model=MODEL, setup=TrainSetup(batch_size=2, seq_len=8, dtype="float32", device="cpu")
)
LORA_WORKLOAD = replace(WORKLOAD, setup=replace(WORKLOAD.setup, lora=LoraConfig(r=4)))

CPU = Device(kind="cpu", name="A processor", total_bytes=8 * 2**30)
H100 = Device(
    kind="cuda",
    name="NVIDIA H100 80GB HBM3",
    total_bytes=81_559 * 2**20,
    uuid_hash="aaaa",
    driver="580.1",
)
PACKAGES = {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"}
ENVIRONMENT = Environment(
    python="3.11.7", platform="Linux", packages=PACKAGES, device=CPU, cpu="A processor", threads=2,
    commit="0123abc", dirty=False,
)  # fmt: skip

PERSISTENT = {"parameters": 400_000, "gradients": 400_000, "optimizer_states": 800_000}
PEAK = PERSISTENT | {
    "activations": 1_000, "logits_and_loss": 4, "temporaries": 398_000, "unattributed": 996
}  # fmt: skip
PHASE_PEAKS = {
    "setup": 1_200_128, "forward": 1_350_000, "loss": 1_360_000, "backward": 1_800_000,
    "optimizer": 2_000_000, "zero": 1_600_000,
}  # fmt: skip
STEP1_PHASE_PEAKS = {
    "setup": 400_128, "forward": 550_000, "loss": 560_000, "backward": 1_000_000,
    "optimizer": 2_000_000,
}  # fmt: skip
SECONDS = (0.11, 0.10, 0.12, 0.10, 0.09, 0.10, 0.11, 0.10, 0.10, 0.10)
"""Ten steps: median 0.1 s."""


def make_record(
    workload: Workload = WORKLOAD,
    *,
    device: Device = CPU,
    conditions: Conditions | None = None,
    environment: Mapping[str, Any] | None = None,
    repeat: int = 0,
    **measured: Any,
) -> Record:
    """A record of `workload` that went well; `measured` are fields of `Measurement` to set or, with
    None, to leave unmeasured.

    The workload is asked for on the device that is given.
    """
    workload = replace(workload, setup=replace(workload.setup, device=device.kind))  # type: ignore[arg-type]
    setup = workload.setup
    tokens = setup.batch_size * setup.seq_len * setup.accumulation
    fields: dict[str, Any] = {
        "status": "ok", "num_parameters": workload.model.num_parameters,
        "num_trainable_parameters": workload.model.num_parameters, "attention_kernel": "cpu",
        "tokens_per_step": tokens, "nonpad_tokens_per_step": tokens,
        "supervised_tokens_per_step": tokens, "step_seconds": SECONDS,
        "warmup_seconds": (0.5, 0.11, 0.1), "block_seconds": sum(SECONDS), "loss": (4.7, 4.6, 4.5),
        "peak_requested_bytes": sum(PEAK.values()), "peak_allocated_bytes": sum(PEAK.values()),
        "peak_phase": "optimizer", "phase_peak_bytes": PHASE_PEAKS,
        "step1_phase_peak_bytes": STEP1_PHASE_PEAKS, "attribution_bytes": PEAK,
        "persistent_bytes": PERSISTENT, "saved_activation_bytes": 150_000,
    }  # fmt: skip
    sizes = ("attribution", "persistent", "phase_peak", "step1_phase_peak")
    unmeasured: dict[str, Any] = {f"{name}_bytes": {} for name in sizes}
    unmeasured |= {"step_seconds": (), "warmup_seconds": (), "loss": ()}
    fields |= {n: unmeasured.get(n) if value is None else value for n, value in measured.items()}
    return Record(
        workload=workload,
        conditions=conditions or Conditions(),
        environment=replace(ENVIRONMENT, **{"device": device, **(environment or {})}),
        measurement=Measurement(**fields),
        repeat=repeat,
        started_at="2026-11-01T10:00:00+00:00",
        ended_at="2026-11-01T10:01:00+00:00",
    )


_HELD = {"parameters": 400_000, "optimizer_states": 800_000}
STEADY: dict[MomentName, dict[str, int]] = {
    "setup": {**_HELD, "buffers": 0},
    "last_layer_forward": {**_HELD, "activations": 140_000},
    "end_of_forward": {**_HELD, "activations": 150_000, "logits_and_loss": 10_000},
    "loss_backward": {**_HELD, "activations": 150_000, "logits_and_loss": 20_000},
    "last_layer_backward": {**_HELD, "activations": 130_000, "temporaries": 90_000},
    "first_layer_backward": {**PERSISTENT, "activations": 20_000, "temporaries": 180_000},
    "optimizer_step": {**PERSISTENT, "inputs": 128, "temporaries": 399_872},
}
"""A prediction of the default record: 2,000,000 B at the optimizer step, and exactly right in
forward and backward."""


def make_prediction(
    workload: Workload = WORKLOAD,
    steady: Mapping[MomentName, Mapping[str, int]] = STEADY,
    **changes: Any,
) -> Prediction:
    """A prediction with the given moments; those of step 1 have no optimizer states but in the
    optimizer step."""
    fields: dict[str, Any] = {
        "workload": workload,
        "engine": "analytic",
        "exactness": "exact",
        "assumptions": ("All lengths are equal.",),
        "error_bound": None,
        "attention_kernel": "cpu",
        "parameters": ParameterCount(
            base=workload.model.num_parameters, adapter=0, trainable=workload.model.num_parameters
        ),
        "persistent_bytes": {"quantization_state": 0, "adapters": 0, **PERSISTENT},
        "saved_activation_bytes": 150_000,
        "moments": (
            *(_moment(name, 1, parts) for name, parts in steady.items()),
            *(_moment(name, "steady", parts) for name, parts in steady.items()),
        ),
        "flops": FlopCount(forward=4_000, backward=8_000, recompute=0, tokens=16),
        "details": Details(),
    }
    return Prediction(**{**fields, **changes})


def _moment(name: MomentName, step: Step, parts: Mapping[str, int]) -> Moment:
    fresh = {"optimizer_states": 0} if step == 1 and name != "optimizer_step" else {}
    return Moment(moment=name, step=step, bytes={**parts, **fresh})  # type: ignore[dict-item]


def jsonl(made: Iterable[Record]) -> str:
    """A file of them."""
    return "".join(json.dumps(record_dict(record)) + "\n" for record in made)
