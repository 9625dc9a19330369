"""The harness' own case on a card that is not there: where it runs, and its record as an answer."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lora_profiler.errors import RehearsalError
from lora_profiler.facts.catalog import bundled_gpus
from lora_profiler.measuring.harness import MeasurementError, make_case, measure_case
from lora_profiler.measuring.harness.pretended import Pretended
from lora_profiler.measuring.records.record import Conditions, Measurement, Record
from lora_profiler.memory.prediction import (
    PHASE_OF,
    Category,
    Details,
    Moment,
    MomentName,
    Phase,
    Prediction,
    Step,
)
from lora_profiler.question.workload import Workload
from lora_profiler.rehearsal.build import find_compiler, stubs
from lora_profiler.rehearsal.environment import check_platform, find_python, read_environment
from lora_profiler.rehearsal.launch import PretendedCard, over_stubs, pretended
from lora_profiler.units import GIB, bytes_text

PYTHON_VARIABLE = "LORA_PROFILER_CUDA_PYTHON"
"""Names the Python with a CUDA build of torch where nobody else does."""


def cuda_python(python: str | None) -> Path:
    """`python`, else that of PYTHON_VARIABLE, else this one. Raises RehearsalError."""
    named = python or os.environ.get(PYTHON_VARIABLE) or sys.executable
    return find_python((), named)


def pretended_on(card: PretendedCard, count: int, python: str | None) -> Pretended:
    """`count` such cards in that environment, whose stub libraries are built if need be.

    Raises RehearsalError where it cannot be rehearsed in.
    """
    check_platform()
    environment = read_environment(cuda_python(python))
    libraries = stubs(environment, find_compiler())
    variables = over_stubs(libraries, card, count)
    variables["PYTHONPATH"] += f"{os.pathsep}{libraries.package}"
    return Pretended(
        python=environment.python,
        torch=environment.torch,
        variables=variables,
        capability=card.capability,
        count=count,
        missing=environment.missing,
    )


# --- as an answer to `predict` --------------------------------------------------------------------

_PLENTY_BYTES = 4096 * GIB
"""Of the card of a prediction: whether a peak fits is judged after it is known."""
_USUAL_CAPABILITY = 80
_MOMENT_OF: Mapping[Phase, MomentName] = {
    "setup": "setup",
    "forward": "last_layer_forward",
    "loss": "end_of_forward",
    "backward": "loss_backward",
    "clip": "optimizer_step",
    "optimizer": "optimizer_step",
}


def predict(workload: Workload, predict_base: Callable[[Workload], Prediction]) -> Prediction:
    """The steady peak of two real steps on a pretended card of the workload's compute capability;
    counts, FLOPs and layers are those that `predict_base` answers.

    Raises RehearsalError where no CUDA build of torch is at hand, MeasurementError where the steps
    did not go through.
    """
    try:
        host = pretended_on(_card(workload), workload.setup.world_size, None)
    except RehearsalError as error:
        raise RehearsalError(
            f"{error}\nFor --engine rehearsed, name that Python in {PYTHON_VARIABLE}."
        ) from None
    rehearsed = replace(workload, platform=host.platform)
    record = measure_case(make_case(rehearsed, Conditions(min_timed_steps=0)), pretended=host)
    if not record.measurement.went_through:
        failure = record.measurement.failure
        raise MeasurementError(
            f"the rehearsal of {workload.model.id} did not go through: "
            f"{failure.reason if failure else record.measurement.status}"
        )
    return _answer(record, predict_base(rehearsed))


def _card(workload: Workload) -> PretendedCard:
    """The first of the catalogue with that compute capability, and memory enough for anything."""
    capability = workload.platform.capability or _USUAL_CAPABILITY
    for gpu in bundled_gpus():
        if gpu.capability == capability and gpu.usable_bytes is not None:
            name = f"a GPU of compute capability {capability / 10}"
            card = pretended(gpu, context_bytes=0)
            return replace(card, name=name, total_bytes=_PLENTY_BYTES)
    raise RehearsalError(f"no GPU of compute capability {capability / 10} can be simulated.")


def _answer(record: Record, base: Prediction) -> Prediction:
    """`base` with the rehearsed bytes in place of its own. BLAS workspaces are left out, as other
    engines do: whoever judges a card adds them."""
    m = record.measurement
    return replace(
        base,
        engine="rehearsed",
        exactness="estimate" if _has_experts(record.workload) else "exact",
        error_bound=None,
        modules_error=None,
        assumptions=(_ran_on(record), *record.environment.limits),
        persistent_bytes={str(name): size for name, size in m.persistent_bytes.items()},
        saved_activation_bytes=m.saved_activation_bytes,
        attention_kernel=m.attention_kernel or base.attention_kernel,
        moments=(
            *_moments(m, m.step1_phase_peak_bytes, 1, base),
            *_moments(m, m.phase_peak_bytes, "steady", base),
        ),
        has_tape=False,
        details=Details(layers=base.layers),
    )


def _ran_on(record: Record) -> str:
    m, environment = record.measurement, record.environment
    sizes = ", ".join(
        f"{name} {bytes_text(size)}"
        for name, size in (
            ("requested", m.peak_requested_bytes),
            ("allocated", m.peak_allocated_bytes),
            ("reserved", m.peak_reserved_bytes),
        )
        if size is not None
    )
    return (
        f"Rehearsed, not measured: torch {environment.packages['torch']} on "
        f"{environment.device.name}; with {bytes_text(m.workspace_bytes or 0)} of BLAS workspaces "
        f"{sizes}."
    )


def _has_experts(workload: Workload) -> bool:
    return any("experts" in name for name in workload.model.config)


def _moments(
    m: Measurement, peaks: Mapping[Phase, int], step: Step, base: Prediction
) -> tuple[Moment, ...]:
    """The highest of each part of the step; only the steady peak is known by category."""
    moments: dict[MomentName, Moment] = {}
    for phase, size in peaks.items():
        name = _MOMENT_OF.get(phase)
        if name is None:  # zero_grad: nothing is asked for in it
            continue
        if PHASE_OF[base.peak.moment] == phase:
            name = base.peak.moment
        is_peak = step == "steady" and phase == m.peak_phase
        parts: dict[Category, int] = dict(m.attribution_bytes if is_peak else m.persistent_bytes)
        parts.pop("workspace", None)
        size -= m.workspace_bytes or 0
        if not is_peak:
            if step == 1 and phase != "optimizer":
                parts.pop("optimizer_states", None)
            if phase in ("setup", "forward", "loss"):
                parts.pop("gradients", None)
            parts["unattributed"] = size - sum(parts.values())
        moment = Moment(moment=name, step=step, bytes={k: v for k, v in parts.items() if v})
        if name not in moments or moments[name].total_bytes < moment.total_bytes:
            moments[name] = moment
    return tuple(moments.values())
