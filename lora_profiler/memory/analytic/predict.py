"""`predict`: one workload in, one Prediction out. `peak_bytes`: only the number, for searches over
thousands of sizes."""

from dataclasses import replace

from lora_profiler._common.polynomial import ZERO, Polynomial, Values
from lora_profiler.memory.analytic.assumptions import assumptions, doubts, is_unchecked
from lora_profiler.memory.analytic.host_memory import host_bytes
from lora_profiler.memory.analytic.moments import held_outputs
from lora_profiler.memory.analytic.optimizers import paged_state_bytes
from lora_profiler.memory.analytic.plan import EXACT_MOMENTS, Plan, plan_for, program_of
from lora_profiler.memory.analytic.sharding import Part
from lora_profiler.memory.analytic.tensor_parallel import traffic
from lora_profiler.memory.prediction import (
    CATEGORIES,
    MOMENTS,
    Category,
    Exactness,
    FlopCount,
    LayerCost,
    Moment,
    MomentName,
    ParameterCount,
    Prediction,
)
from lora_profiler.question.feature import part
from lora_profiler.question.workload import TrainSetup, Workload

LAYER_ERROR, CHECKPOINTED_LAYER_ERROR = 0.03, 0.05
"""Largest relative error seen of a peak that falls inside a layer, without and with checkpointing,
rounded up: `benchmarks/results/peaks.md`. `tests/memory/test_moments.py` holds the published
results to it."""

EVALUATED_LAYER_ERROR = 0.10
"""The same where it falls inside a layer of evaluation, whose names outlive more than is followed:
5 % seen without autocast, 9 % with it, in models of hardly any vocabulary
(`tests/measuring/test_evaluation.py`)."""

_BETWEEN_STEPS: tuple[MomentName, ...] = ("evaluation", "generation", "saving")
_STATES_FROM_STEP_2 = frozenset(MOMENTS) - {"optimizer_step", *_BETWEEN_STEPS}
_OF_THE_LAST_PASS: tuple[MomentName, ...] = ("setup", "last_layer_forward", "end_of_forward")
"""Moments at which the output of the last forward pass is still there if the loop holds it."""


def knows(workload: Workload) -> bool:
    """Whether there is a program of what the model's layers keep."""
    return program_of(workload) is not None


def shared_parts(workload: Workload, moment: MomentName) -> dict[Part, int]:
    """Bytes that a rank of `workload` holds for the others' sake at `moment`, by what they are.
    Raises what `predict` raises."""
    return plan_for(workload).shards.parts(moment, values(workload).rank)


def values(workload: Workload) -> Values:
    lora = workload.setup.lora
    return Values(workload.setup.batch_size, workload.setup.rank_seq_len, lora.r if lora else 1)


def peak_bytes(workload: Workload) -> int:
    """Steady-state peak of live bytes: `predict(workload).peak.total_bytes` without the rest.

    Raises what `predict` raises.
    """
    plan = plan_for(workload)
    return max(plan.totals.evaluate(values(workload)))


def paged_bytes(workload: Workload) -> int:
    """Bytes of optimizer states in CUDA's unified memory, which no moment counts. Raises what
    `predict` raises."""
    return paged_state_bytes(plan_for(workload).shards.stepped.trainable, workload.setup)


def peak_polynomials(workload: Workload) -> tuple[Polynomial, ...]:
    """Polynomials in batch, sequence and rank whose maximum is the steady-state peak, where the
    facts of `workload` hold."""
    return plan_for(workload).peaks


def predict(workload: Workload) -> Prediction:
    """Memory at every moment, FLOPs and cost per layer of one training step, worked out from rules
    alone.

    A family that the ledger does not know gets exact parameters, gradients and optimizer states;
    its activations are None, and only the moments that need none of them are given.

    Raises TargetModulesError where PEFT refuses the adapter.
    """
    plan = plan_for(workload)
    at = values(workload)
    totals = plan.totals.evaluate(at)
    saved, forward, backward, recompute, adapter, trainable, adapter_size, gradients, states = (
        plan.counts.evaluate(at)
    )
    known = plan.forward is not None
    setup = workload.setup
    base = workload.model.num_parameters
    if setup.sharding == "tp":  # numbers are of the whole model, bytes of the rank's part
        one = plan_for(replace(workload, setup=replace(setup, world_size=1, sharding="none")))
        _, _, _, _, adapter, trainable, *_ = one.counts.evaluate(at)
    moves_all = setup.offload_activations and (not setup.checkpointing or setup.world_size > 1)
    own = part("losses", setup.loss, "", "is_unchecked")
    is_in_others = own is not None and own(setup)
    unchecked = is_unchecked(setup) or plan.masks_in_math or moves_all or is_in_others
    exactness, is_checked = _exactness(plan, setup, totals), not unchecked
    moments = _moments(plan, totals, at)
    peak = max((m for m in moments if m.step == "steady"), key=lambda m: m.total_bytes)
    return Prediction(
        workload=workload,
        engine="analytic",
        exactness=exactness,
        assumptions=assumptions(workload, plan, at),
        error_bound=(
            _error_inside(peak.moment, setup)
            if exactness == "estimate" and known and is_checked
            else None
        ),
        attention_kernel=plan.kernel_text,
        parameters=ParameterCount(base=base, adapter=adapter, trainable=trainable),
        persistent_bytes={
            "parameters": plan.state.parameter_bytes,
            "quantization_state": plan.state.quantization_bytes,
            "adapters": adapter_size,
            "gradients": gradients,
            "optimizer_states": states,
        },
        saved_activation_bytes=saved if known else None,
        moments=moments,
        flops=(
            FlopCount(
                forward=forward,
                backward=backward,
                recompute=recompute,
                tokens=setup.batch_size * setup.rank_seq_len,
            )
            if known
            else None
        ),
        traffic=(
            traffic(plan.forward, workload)
            if setup.sharding == "tp" and plan.forward is not None
            else plan.shards.traffic(setup)
        ),
        host_bytes={
            category: size.evaluate(*at)
            for category, size in host_bytes(plan.kept, plan.shards).items()
            if size != ZERO
        },
    )


def layers_of(prediction: Prediction) -> tuple[LayerCost, ...]:
    """What each module costs, by the rules that gave `prediction`."""
    from lora_profiler.memory.analytic.layers import layer_costs

    return layer_costs(plan_for(prediction.workload), values(prediction.workload))


def layer_error(checkpointing: bool) -> float:
    return CHECKPOINTED_LAYER_ERROR if checkpointing else LAYER_ERROR


def _error_inside(moment: MomentName, setup: TrainSetup) -> float:
    """Of a moment inside a layer."""
    if moment in _BETWEEN_STEPS:
        return EVALUATED_LAYER_ERROR
    return layer_error(setup.checkpointing)


def _largest(plan: Plan, totals: list[int]) -> dict[MomentName, tuple[int, int]]:
    """Per moment its largest candidate: (total bytes, candidate number)."""
    best: dict[MomentName, tuple[int, int]] = {}
    for (moment, number), size in zip(plan.order, totals, strict=True):
        if moment not in best or size > best[moment][0]:
            best[moment] = (size, number)
    return best


def _moments(plan: Plan, totals: list[int], at: Values) -> tuple[Moment, ...]:
    """Every moment in step order, first for step 1, then in steady state."""
    first, steady = [], []
    setup, held = plan.workload.setup, {}
    if plan.forward is not None:
        sizes = held_outputs(plan.forward, setup)
        held = {category: size.evaluate(*at) for category, size in sizes.items()}

    def lacks(moment: MomentName, number: int) -> bool:
        """Whether there is nothing yet that a loop holds of the last pass."""
        of_pass = moment in _OF_THE_LAST_PASS and setup.accumulation == 1
        return plan.candidate(moment, number).holds_last and (moment == "setup" or of_pass)

    def categories_of(moment: MomentName, number: int) -> dict[Category, int]:
        polynomials = plan.candidate(moment, number).bytes
        return {c: polynomials[c].evaluate(*at) for c in CATEGORIES if c in polynomials}

    lacked = sum(held.values())
    begun = [size - lacked * lacks(*each) for each, size in zip(plan.order, totals, strict=True)]
    begins = _largest(plan, begun)
    for moment, (_, number) in _largest(plan, totals).items():
        categories = categories_of(moment, number)
        steady.append(Moment(moment=moment, step="steady", bytes=categories))
        _, number = begins[moment]
        categories = categories_of(moment, number)
        masters = plan.shards.masters.evaluate(*at)
        fresh = (
            categories | {"optimizer_states": masters}
            if moment in _STATES_FROM_STEP_2
            else categories
        )
        if moment == "setup" and "activations" in categories:
            fresh = fresh | {"activations": 0}  # no forward pass has left anything yet
        if lacks(moment, number):
            fresh = fresh | {c: max(fresh[c] - held[c], 0) for c in held}
        first.append(Moment(moment=moment, step=1, bytes=fresh))
    return (*first, *steady)


def _exactness(plan: Plan, setup: TrainSetup, totals: list[int]) -> Exactness:
    """Exact if an exact moment holds the peak even when the moments inside layers are as much
    larger as they ever were."""
    if plan.forward is None or doubts(plan, setup):
        return "estimate"
    exact, inside = 0, 0.0
    for (moment, number), size in zip(plan.order, totals, strict=True):
        followed = moment == "saving" or setup.loop_state == "none"  # else losses pile up
        if moment in EXACT_MOMENTS or (moment in _BETWEEN_STEPS and number == 0 and followed):
            exact = max(exact, size)
        else:
            inside = max(inside, size * (1 + _error_inside(moment, setup)))
    return "exact" if inside <= exact else "estimate"
