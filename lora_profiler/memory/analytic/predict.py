"""`predict`: one workload in, one Prediction out. `peak_bytes`: only the number, for searches over
thousands of sizes."""

from dataclasses import replace
from functools import cache

from lora_profiler._common.polynomial import ZERO, Polynomial, Values
from lora_profiler.memory.analytic.families import unmodelled
from lora_profiler.memory.analytic.host_memory import host_bytes
from lora_profiler.memory.analytic.losses import ChunkedHead
from lora_profiler.memory.analytic.moments import held_outputs
from lora_profiler.memory.analytic.persistent import paged_state_bytes
from lora_profiler.memory.analytic.plan import (
    EXACT_MOMENTS,
    Plan,
    known_program,
    plan_for,
    program_of,
)
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
from lora_profiler.question.gpu_platform import CUDA_RULES
from lora_profiler.question.kernel_set import of_set
from lora_profiler.question.loop import loop_facts, of_loop
from lora_profiler.question.loss import CORE, loss_facts
from lora_profiler.question.support.check import (
    BY_ROWS,
    STOPPED,
    omissions,
    profile_unsupported_reason,
    rules_unsupported_reason,
)
from lora_profiler.question.support.generations import version_words
from lora_profiler.question.support.library_memory import evaluation_words, generation_words
from lora_profiler.question.support.losses import OUTPUTS_HELD, SMOOTHED, loss_words
from lora_profiler.question.support.offloading import ON_NVME, PINNED, PINNED_BY_DEEPSPEED
from lora_profiler.question.support.packing import rows_words
from lora_profiler.question.support.sdpa import kernel_words
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    FLAT,
    FULLY_SHARDED,
    TrainSetup,
    Workload,
)

# --- what an answer takes for granted -------------------------------------------------------------

# What an answer takes for granted, and what is set that the ledger does not follow to the byte, in
# words.

_SHARED = {
    "ddp": (
        "One of several equal ranks under DDP; its buckets are as large as the gradients, which are"
        " no views of them (gradient_as_bucket_view=False)."
    ),
    "zero1": "The rank with the largest optimizer state, under DDP with ZeroRedundancyOptimizer.",
    "zero1-deepspeed": (
        "The largest rank under DeepSpeed's ZeRO-1. It has all weights, whole gradients until"
        " backward ends, and one bucket for them. Its part has a float32 copy in optimizer state. A"
        " second bucket of overlap_comm is left out."
    ),
    "zero2": (
        "The largest rank under DeepSpeed's ZeRO-2. It has all weights, and one bucket of"
        " gradients, copied while it is reduced. Its part has a float32 copy in optimizer state. A"
        " second bucket of overlap_comm is left out."
    ),
    "zero3": (
        "Each rank under DeepSpeed's ZeRO-3 with its defaults: weights up to 100,000 elements stay"
        " whole. Of the others about a billion elements are gathered at once"
        " (stage3_max_live_parameters). Its part has a float32 copy in optimizer state."
    ),
    "tp": (
        "Rank 0 under transformers' tensor parallelism: its part of heads, MLP and vocabulary,"
        " whole norms; the optimizer steps what is cut and what is whole as two groups."
    ),
    "fsdp": (
        "Rank 0, which holds no less than another, under FSDP2 with every decoder layer a unit;"
        " gradients are reduced after every micro-batch."
    ),
    "fsdp1": (
        "A rank under FSDP1 with torch's defaults: each decoder layer and adapter tensor is a flat"
        " parameter. The next layer is fetched ahead in backward. With --precision amp float32"
        " weights"
        " are gathered in bfloat16."
    ),
    "fsdp1-no-prefetch": (
        "A rank under FSDP1 as in accelerate: each decoder layer and adapter tensor is a flat"
        " parameter. None is fetched ahead. With --precision amp float32 weights are gathered in"
        " bfloat16."
    ),
    "fsdp-no-reshard": (
        "Rank 0, the largest, under FSDP2: each decoder layer is a unit, kept whole from forward to"
        " backward. Gradients are reduced after every micro-batch."
    ),
}
"""How the ranks share, in words."""


def is_unchecked(setup: TrainSetup) -> bool:
    """Whether the sharding's rule was held against no trace."""
    return setup.sharding in FLAT and setup.loss != "plain"


def doubts(plan: Plan, setup: TrainSetup) -> list[str]:
    """What is set that the ledger does not follow to the byte, a sentence each."""
    model, lora, loss = plan.workload.model, setup.lora, setup.loss
    evaluates = setup.eval_batch_size is not None
    is_dealt = setup.sharding in DEEPSPEED_ZERO
    words = plan.forward.logits.elements.evaluate(1, 1, 1) if plan.forward else 0
    own = part("losses", loss, "", "doubts")
    of_kernels = of_set(setup.kernels, "doubts")
    loop, of_its_loop = loop_facts(setup.loop_state), of_loop(setup.loop_state, "doubts")
    apply = {
        **(of_kernels(plan.workload) if of_kernels else {}),
        "Activations of LoRA on an embedding are not modelled.": (
            any(a.kind == "Embedding" for a in plan.adapters)
        ),
        "Adapters on packed experts under autocast: saved bytes were off by up to 1 KiB on small"
        " models.": (setup.autocast_dtype and any(a.parameter is not None for a in plan.adapters)),
        # Linear4bit.forward: self.bias.data = self.bias.data.to(x.dtype)
        "bitsandbytes copies biases that FSDP gathered in another format. The copies are left out:"
        " 0.1 % of OPT-6.7B's peak after k-bit preparation.": (
            setup.quantization is not None
            and setup.sharding in FULLY_SHARDED
            and any(
                m.is_linear and len(m.weights) > 1
                for name, m in model.modules()
                if name != model.output_embedding
            )
        ),
        "Adapters on experts that are layers of their own: what A makes is counted for more tokens"
        " than take the expert.": any(".experts." in a.module for a in plan.adapters),
        # masks' copies are left out: it was 6 % too low in a tiny model of packed rows
        "SDPA's math kernel with a mask is not exact (packed rows, padding, sliding"
        " window).": plan.masks_in_math,
        "Evaluation with this loss is not checked. It is predicted as the training pass, with label"
        " smoothing as the plain loss.": (
            evaluates and (loss not in CORE or setup.label_smoothing_factor > 0)
        ),
        "No trace of evaluation under this sharding was held against its rule.": (
            evaluates and setup.sharding in FULLY_SHARDED
        ),
        "Liger's loss with a trained copy of the head needed 380 bytes more in a rehearsal.": (
            loss == "fused" and setup.accumulation > 1 and lora and lora.modules_to_save
        ),
        **(own(plan.workload) if own else {}),
        "Unsloth compiles these layers; they are counted operator by"
        " operator.": setup.compiles_layers,
        **(of_its_loop(setup) if of_its_loop else {}),
        "GRPO's completions with vLLM were not checked against a run.": (
            setup.use_vllm and loop.corrects_generated
        ),
        "Between steps GRPO is taken to keep batch x accumulation completions.": (
            loop.generates and setup.generation_batch_size is not None
        ),
        "The loss was held against traces of transformers' model under FSDP2; torchtune and LitGPT"
        " shard models of their own, LitGPT by FSDP1.": (
            loss_facts(loss).after_forward and setup.sharding in FULLY_SHARDED
        ),
        f"No run of {setup.loop_state}'s loop was held against context parallelism.": (
            setup.context_parallel_size > 1 and setup.loop_state != "none"
        ),
        "No run of a quantised base was held against context parallelism.": (
            setup.context_parallel_size > 1 and setup.quantization is not None
        ),
        "On the CPU some tensors of one number, 8 B each, are counted and not there.": (
            setup.sharding == "tp" and setup.device == "cpu"
        ),
        "With an uneven vocabulary the last rank's padded logits are counted, other padding is"
        " not.": setup.sharding == "tp" and words % setup.world_size,
        "Persistent tensors are DeepSpeed 0.19.8's to the byte. Temporary ones follow its source,"
        " rehearsed with the plain loss only.": is_dealt,
        "No trace and no measurement of this sharding was held against its rule.": (
            not is_dealt and is_unchecked(setup)
        ),
        f"The rules of {setup.device} are those of CUDA, unchecked.": (
            setup.device in ("mps", "xpu")
        ),
    }
    return [
        *(f"The config's {name} is not modelled." for name in unmodelled(model)),
        *omissions(setup),
        *(sentence for sentence, applies in apply.items() if applies),
    ]


def assumptions(workload: Workload, plan: Plan, at: Values) -> tuple[str, ...]:
    """What the answer takes for granted, a sentence each."""
    setup = workload.setup
    sentences = [
        "Bytes that live tensors request; allocator rounding, workspaces and the CUDA context are"
        " extra."
    ]
    if plan.forward is None:
        whose = rules_unsupported_reason(setup) or f"model type {workload.model.model_type}"
        sentences.append(
            f"Activations of {whose} are not known to this engine; the peak is a lower bound."
            " Parameters, gradients and optimizer states are exact. Measure the rest with one"
            " step on a"
            " GPU: torch.cuda.max_memory_allocated()."
        )
        return tuple(sentences)
    if modules_error(workload) is not None:
        from lora_profiler.memory.analytic.families.by_modules import states_words

        is_compilable = profile_unsupported_reason(workload) is None
        sentences.append(
            f"The layers of {workload.model.model_type} are estimated from the names and shapes of"
            " their modules."
            + (" `lora-profile compile` makes it exact where torch is installed." * is_compilable)
            + states_words(workload.model)
        )
    sentences.append(rows_words(setup, plan.kernel_text))
    sentences += (*evaluation_words(workload), *generation_words(setup))
    if setup.is_shared:
        sentences += [_SHARED[setup.sharding], *[PINNED] * setup.offload_params]
        if setup.sharding == "tp" and any(a.module.endswith(BY_ROWS) for a in plan.adapters):
            sentences.append(STOPPED)
        sentences += [PINNED_BY_DEEPSPEED] * setup.offloads_by_deepspeed
        sentences += [ON_NVME] * (
            "nvme" in (setup.offload_optimizer_device, setup.offload_param_device)
        )
    if setup.context_parallel_size > 1:
        sentences.append(
            f"torch's context_parallel over {setup.context_parallel_size} ranks, as in accelerate:"
            f" {setup.rank_seq_len:,} tokens of each sequence per rank, keys and values gathered."
            " This is rank 0. Others need up to 2.5 times its queries more in attention's forward"
            " pass. With cuDNN they need 1.5 times in backward."
        )
    if setup.precision == "fsdp-mixed":
        sentences.append(
            "MixedPrecisionPolicy(param_dtype=bfloat16): trained shards are float32; they are"
            " gathered,"
            " computed and reduced in bfloat16, as accelerate does under FSDP2."
        )
    sentences += version_words(workload)
    if setup.label_smoothing_factor:
        sentences.append(SMOOTHED)
    if setup.hold_outputs:
        sentences.append(OUTPUTS_HELD)
    if words := loss_words(setup):
        sentences.append(words)
    elif isinstance(plan.forward.chunks, ChunkedHead):
        rows = plan.forward.chunks.rows.evaluate(*at)
        sentences.append(
            f"The {setup.loss} loss makes the logits of {rows:,} tokens at a time, as measuring"
            " does; other code for it may hold other copies."
        )
    sentences += kernel_words(workload, plan.kernels)
    if setup.device == "cuda":
        sentences.append(CUDA_RULES)
    converts = setup.label_smoothing_factor > 0 or loss_facts(setup.loss).of_all_logits
    if setup.autocast_dtype and not converts:
        sentences.append(
            f"Autocast to {setup.autocast_dtype} covers the forward pass alone; logits are not"
            " converted to float32 afterwards."
        )
    return (*sentences, *doubts(plan, setup))


# --- answers --------------------------------------------------------------------------------------

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
    return known_program(workload) is not None


def tells(workload: Workload) -> bool:
    """Whether the whole peak is known, or estimated from the model's modules."""
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
    of_modules = modules_error(workload)
    moments = _moments(plan, totals, at)
    peak = max((m for m in moments if m.step == "steady"), key=lambda m: m.total_bytes)
    return Prediction(
        workload=workload,
        engine="analytic",
        exactness=exactness,
        assumptions=assumptions(workload, plan, at),
        error_bound=(
            max(_error_inside(peak.moment, setup), of_modules or 0.0)
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
        modules_error=of_modules,
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


def modules_error(workload: Workload) -> float | None:
    """How far off a peak may be whose layers are estimated from the model's modules; None where a
    program of the type is known, or no estimate can be made."""
    if knows(workload) or not tells(workload):
        return None
    from lora_profiler.memory.analytic.families.by_modules import error_of

    return error_of(workload)


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

    @cache
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
    if plan.forward is None or modules_error(plan.workload) or doubts(plan, setup):
        return "estimate"
    exact, inside = 0, 0.0
    for (moment, number), size in zip(plan.order, totals, strict=True):
        followed = moment == "saving" or setup.loop_state == "none"  # else losses pile up
        if moment in EXACT_MOMENTS or (moment in _BETWEEN_STEPS and number == 0 and followed):
            exact = max(exact, size)
        else:
            inside = max(inside, size * (1 + _error_inside(moment, setup)))
    return "exact" if inside <= exact else "estimate"
