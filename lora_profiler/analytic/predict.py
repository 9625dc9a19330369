"""`predict`: one workload in, one Prediction out. `peak_bytes`: only the number, for searches over
thousands of sizes."""

from dataclasses import replace

from lora_profiler.algebra.polynomial import Polynomial, Values
from lora_profiler.analytic.families import unmodelled
from lora_profiler.analytic.losses import ChunkedHead
from lora_profiler.analytic.moments import held_outputs
from lora_profiler.analytic.optimizers import paged_state_bytes
from lora_profiler.analytic.plan import EXACT_MOMENTS, Plan, plan_for, program_of
from lora_profiler.analytic.sharding import Part
from lora_profiler.platform import CUDA_RULES
from lora_profiler.prediction import (
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
from lora_profiler.support.engines import left_out, why_unruled
from lora_profiler.support.evaluation import evaluation_words, generation_words
from lora_profiler.support.generations import version_words
from lora_profiler.support.liger import ASSUMPTION
from lora_profiler.support.losses import (
    AFTER_FORWARD,
    LOSS_WORDS,
    OUTPUTS_HELD,
    OWN_LOSSES,
    SMOOTHED,
)
from lora_profiler.support.packing import rows_words
from lora_profiler.support.sdpa import kernel_words
from lora_profiler.workload import DEEPSPEED_ZERO, FLAT, FULLY_SHARDED, TrainSetup, Workload

LAYER_ERROR, CHECKPOINTED_LAYER_ERROR = 0.03, 0.05
"""Largest relative error seen of a peak that falls inside a layer, without and with checkpointing,
rounded up: `benchmarks/results/peaks.md`. `tests/test_moments.py` holds the published results to
it."""

EVALUATED_LAYER_ERROR = 0.10
"""The same where it falls inside a layer of evaluation, whose names outlive more than is followed:
5 % seen without autocast, 9 % with it, in models of hardly any vocabulary
(`tests/test_evaluation.py`)."""

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
    return Values(workload.setup.batch_size, workload.setup.seq_len, lora.r if lora else 1)


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
    unchecked = _is_unchecked(setup) or plan.masks_in_math
    exactness, is_checked = _exactness(plan, setup, totals), not unchecked
    moments = _moments(plan, totals, at)
    peak = max((m for m in moments if m.step == "steady"), key=lambda m: m.total_bytes)
    return Prediction(
        workload=workload,
        engine="analytic",
        exactness=exactness,
        assumptions=assumptions(workload, plan),
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
                tokens=setup.batch_size * setup.seq_len,
            )
            if known
            else None
        ),
        traffic=plan.shards.traffic(setup),
    )


def layers_of(prediction: Prediction) -> tuple[LayerCost, ...]:
    """What each module costs, by the rules that gave `prediction`."""
    from lora_profiler.analytic.layers import layer_costs

    return layer_costs(plan_for(prediction.workload), values(prediction.workload))


_SHARED = {
    "ddp": (
        "One of several equal ranks under DDP; its buckets are as large as the gradients, which are"
        " no views of them (gradient_as_bucket_view=False)."
    ),
    "zero1": "The rank whose optimizer holds most, under DDP with ZeroRedundancyOptimizer.",
    "zero2": (
        "The rank that holds most under DeepSpeed's ZeRO-2: all weights in the model's format, a"
        " float32 copy of its part among optimizer states, one bucket of gradients through"
        " backward, a second one with overlap_comm left out."
    ),
    "zero3": (
        "Each rank under DeepSpeed's ZeRO-3 with its defaults: weights of up to 100,000 elements"
        " stay whole, of the others a billion elements at most is gathered at once"
        " (stage3_max_live_parameters); a float32 copy of its part is among optimizer states."
    ),
    "tp": (
        "Every rank under tensor parallelism: its part of heads and MLP, whole norms, embedding and"
        " head."
    ),
    "fsdp": (
        "Rank 0, which holds no less than another, under FSDP2 with every decoder layer a unit;"
        " gradients are reduced after every micro-batch."
    ),
    "fsdp1": (
        "A rank under FSDP1 with torch's defaults, every decoder layer a flat parameter, the next"
        " one fetched ahead in backward; with --precision amp of float32 weights layers run in"
        " bfloat16."
    ),
    "fsdp1-no-prefetch": (
        "A rank under FSDP1 as accelerate wraps it, every decoder layer a flat parameter, none"
        " fetched ahead; with --precision amp of float32 weights layers run in bfloat16."
    ),
    "fsdp-no-reshard": (
        "Rank 0, which holds no less than another, under FSDP2 with every decoder layer a unit,"
        " kept whole from forward to backward; gradients are reduced after every micro-batch."
    ),
}
"""How the ranks share, in words."""


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
    for moment, (_, number) in _largest(plan, totals).items():
        polynomials = plan.candidate(moment, number).bytes
        found: dict[Category, int] = {
            c: polynomials[c].evaluate(*at) for c in CATEGORIES if c in polynomials
        }
        steady.append(Moment(moment=moment, step="steady", bytes=found))
        masters = plan.shards.masters.evaluate(*at)
        fresh = found | {"optimizer_states": masters} if moment in _STATES_FROM_STEP_2 else found
        if moment == "setup" and "activations" in found:
            fresh = fresh | {"activations": 0}  # no forward pass has left anything yet
        if moment == "setup" or (moment in _OF_THE_LAST_PASS and setup.accumulation == 1):
            fresh = fresh | {c: max(fresh[c] - held[c], 0) for c in held}
        first.append(Moment(moment=moment, step=1, bytes=fresh))
    return (*first, *steady)


def _exactness(plan: Plan, setup: TrainSetup, totals: list[int]) -> Exactness:
    """Exact if an exact moment holds the peak even when the moments inside layers are as much
    larger as they ever were."""
    if plan.forward is None or _doubts(plan, setup):
        return "estimate"
    exact, inside = 0, 0.0
    for (moment, number), size in zip(plan.order, totals, strict=True):
        followed = moment != "evaluation" or setup.loop_state == "none"  # else losses pile up
        if moment in EXACT_MOMENTS or (moment in _BETWEEN_STEPS and number == 0 and followed):
            exact = max(exact, size)
        else:
            inside = max(inside, size * (1 + _error_inside(moment, setup)))
    return "exact" if inside <= exact else "estimate"


def _is_unchecked(setup: TrainSetup) -> bool:
    """Whether the sharding's rule was held against no trace; how adapters are cut with their layers
    was not, nor how other optimizers than torch's first two share their states."""
    shares_states = setup.sharding in ("zero1", "tp") and setup.optimizer not in ("adamw", "sgd")
    cuts_adapters = setup.sharding == "tp" and setup.lora is not None
    unchecked = (*DEEPSPEED_ZERO, *FLAT)
    return setup.sharding in unchecked or cuts_adapters or shares_states


def _doubts(plan: Plan, setup: TrainSetup) -> list[str]:
    """What is set that the ledger does not follow to the byte, a sentence each."""
    found = [f"The config's {name} is not modelled." for name in unmodelled(plan.workload.model)]
    found += left_out(setup)
    if setup.kernels == "torchtune" and plan.workload.model.model_type == "gemma2":
        found.append(
            "torchtune's Gemma 2 asked for 0.09 % more when torchtune itself was rehearsed: its own"
            " attention, and a cap on the hidden state, are answered as transformers' eager."
        )
    if any(a.kind == "Embedding" for a in plan.adapters):
        found.append("Activations of LoRA on an embedding are not modelled.")
    if plan.workload.setup.autocast_dtype and any(a.parameter is not None for a in plan.adapters):
        found.append(
            "Adapters on packed experts under autocast: saved bytes were off by up to 1 KiB on"
            " small models."
        )
    if setup.quantization is not None and setup.sharding in FULLY_SHARDED:
        name = plan.workload.model.output_embedding
        if any(
            m.is_linear and len(m.weights) > 1
            for n, m in plan.workload.model.modules()
            if n != name
        ):
            # Linear4bit.forward: self.bias.data = self.bias.data.to(x.dtype)
            found.append(
                "Where their format is not that of a 4-bit layer's input, bitsandbytes puts copies"
                " in place of the biases that FSDP gathered, which stay; they are left out (0.1 %"
                " of OPT-6.7B's peak after k-bit preparation)."
            )
    if any(".experts." in adapter.module for adapter in plan.adapters):
        found.append(
            "Adapters on experts that are layers of their own: what A makes is counted for more"
            " tokens than take the expert."
        )
    if plan.masks_in_math:
        # masks' copies are left out: it was 6 % too low in a tiny model of packed rows
        found.append(
            "SDPA's math kernel with a mask, of packed rows, padding or a filled sliding window, is"
            " not followed to the byte."
        )
    if setup.eval_batch_size is not None and (
        setup.loss in OWN_LOSSES or setup.label_smoothing_factor > 0
    ):
        found.append(
            "Evaluation with this loss is counted as its training pass (a trainer's own) or as the"
            " plain loss (label smoothing), and was held against no trace."
        )
    if setup.eval_batch_size is not None and setup.sharding in (*FULLY_SHARDED, "tp"):
        found.append("No trace of evaluation under this sharding was held against its rule.")
    if (
        setup.loss == "fused"
        and setup.accumulation > 1
        and setup.lora
        and setup.lora.modules_to_save
    ):
        found.append(
            "Liger's loss with a copied head that trains, over several micro-batches: the one"
            " rehearsal of it asked for 380 bytes more."
        )
    if setup.loss in AFTER_FORWARD and setup.sharding in FULLY_SHARDED:
        found.append(
            "The loss was held against traces of transformers' model under FSDP2; torchtune and"
            " LitGPT shard models of their own, LitGPT by FSDP1."
        )
    if setup.sharding == "tp" and setup.optimizer_impl == "foreach":
        found.append(
            "torch's foreach optimizers refuse weights of which some are cut and some whole; take"
            " forloop or fused."
        )
    if setup.sharding in DEEPSPEED_ZERO:
        found.append(
            "What lives through the step is DeepSpeed 0.19.8's to the byte; what it holds for a"
            " while was read off its source, and held against no run."
        )
    elif _is_unchecked(setup):
        found.append("No trace and no measurement of this sharding was held against its rule.")
    if plan.workload.setup.device in ("mps", "xpu"):
        found.append(f"The rules of {plan.workload.setup.device} are those of CUDA, unchecked.")
    return found


def assumptions(workload: Workload, plan: Plan) -> tuple[str, ...]:
    """What the answer takes for granted, a sentence each."""
    setup = workload.setup
    found = [
        "Bytes that live tensors ask for; allocator rounding, workspaces and the CUDA context come"
        " on top."
    ]
    if plan.forward is None:
        whose = why_unruled(setup) or f"model type {workload.model.model_type}"
        found.append(
            f"Activations of {whose} are not known to this engine:"
            " parameters, gradients and optimizer states are exact, the peak is a lower bound. One"
            " real step on a GPU tells the rest: torch.cuda.max_memory_allocated()."
        )
        return tuple(found)
    found.append(rows_words(setup, plan.kernel_text))
    found += (*evaluation_words(workload), *generation_words(setup))
    if setup.world_size > 1:
        found.append(_SHARED[setup.sharding])
    if setup.precision == "fsdp-mixed":
        found.append(
            "MixedPrecisionPolicy(param_dtype=bfloat16): what trains is float32 on its shards,"
            " gathered, computed and reduced in bfloat16, as accelerate makes it under FSDP2."
        )
    if setup.kernels == "liger":
        found.append(ASSUMPTION)
    found += version_words(workload)
    if setup.label_smoothing_factor:
        found.append(SMOOTHED)
    if setup.hold_outputs:
        found.append(OUTPUTS_HELD)
    if setup.loss in LOSS_WORDS:
        found.append(LOSS_WORDS[setup.loss])
    elif isinstance(plan.forward.chunks, ChunkedHead):
        rows = plan.forward.chunks.rows.evaluate(*values(workload))
        found.append(
            f"The {setup.loss} loss makes the logits of {rows:,} tokens at a time, as measuring"
            " does; other code for it may hold other copies."
        )
    found += kernel_words(workload, plan.kernels)
    if setup.device == "cuda":
        found.append(CUDA_RULES)
    if setup.autocast_dtype and not setup.label_smoothing_factor:
        found.append(
            f"Autocast to {setup.autocast_dtype} covers the forward pass alone; logits are not"
            " converted to float32 afterwards."
        )
    return (*found, *_doubts(plan, setup))
