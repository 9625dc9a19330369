"""A workload with batch, sequence and rank left open, worked out once: every later answer only puts
numbers in.

Some facts flip a rule instead of scaling it (one sample, one token, a sequence that fills a sliding
window); each combination of them is a plan of its own. `plan_for` keeps the plans of this process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any

from lora_profiler._common.polynomial import (
    ZERO,
    Polynomial,
    PolynomialTable,
    constant,
    total,
    undominated,
)
from lora_profiler.memory.analytic.activations import Activations, activations
from lora_profiler.memory.analytic.cut_layers import has_long_positions
from lora_profiler.memory.analytic.evaluation import (
    evaluation,
    evaluation_workload,
    generation,
    generation_workload,
    scores,
)
from lora_profiler.memory.analytic.families import Family, family_of, program_by_type
from lora_profiler.memory.analytic.forward_rules import (
    attention_kernels,
    masked_layers,
    rules_for,
    sequences_of,
)
from lora_profiler.memory.analytic.host_memory import without_embeddings
from lora_profiler.memory.analytic.ledger import VocabularyShards
from lora_profiler.memory.analytic.losses import chunk_regime
from lora_profiler.memory.analytic.moments import (
    Candidate,
    Moments,
    batch_kept_bytes,
    candidate,
    merged,
    moments,
    persistent_only,
)
from lora_profiler.memory.analytic.persistent import Persistent, persistent
from lora_profiler.memory.analytic.sharding import ShardState, alone
from lora_profiler.memory.analytic.sharding_units import gathered_to_save, shard_state
from lora_profiler.memory.analytic.structure import ForwardPass, forward_pass
from lora_profiler.memory.analytic.tensor_parallel import part_of, stepped
from lora_profiler.memory.prediction import MOMENTS, MomentName
from lora_profiler.question.adapters import Adapter, adapters, saved_modules
from lora_profiler.question.feature import part
from lora_profiler.question.kernel_set import of_set
from lora_profiler.question.model_spec import ModelSpec, Module
from lora_profiler.question.support.check import rules_unsupported_reason
from lora_profiler.question.support.offloading import is_offloaded
from lora_profiler.question.support.optimizers import counts_in_steps
from lora_profiler.question.support.sdpa import efficient_keeps_seeds, efficient_takes_grouped
from lora_profiler.question.workload import TrainSetup, Workload

EXACT_MOMENTS: frozenset[MomentName] = frozenset(
    {"setup", "end_of_forward", "loss_backward", "optimizer_step"}
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything about a workload that does not depend on batch, sequence and rank.

    `kernels` are those of attention; `masks_in_math` whether the math one gets masks. `totals` are
    the candidates of all moments in `order`. `forward` and `kept` are None where the ledger does
    not know the family, `evaluation`, `generation` and `scoring` (by GRPO's reference, of all
    completions at once) where there is none too.
    """

    workload: Workload
    family: Family | None
    kernels: tuple[str, ...]
    masks_in_math: bool
    adapters: tuple[Adapter, ...]
    copies: tuple[tuple[str, Module], ...]
    shards: ShardState
    forward: ForwardPass | None
    kept: Activations | None
    evaluation: ForwardPass | None
    generation: ForwardPass | None
    scoring: ForwardPass | None
    moments: Moments
    order: tuple[tuple[MomentName, int], ...]
    totals: PolynomialTable
    of_passes: Callable[[], Sequence[Polynomial]]
    """Saved bytes, FLOPs of forward, backward and recompute."""

    @cached_property
    def counts(self) -> PolynomialTable:
        """`of_passes`; then parameters of adapters, all that train, and bytes of adapters,
        gradients and optimizer states."""
        state, shards = self.state, self.shards
        numbers = (state.adapter_parameters, shards.trained, state.adapter_bytes)
        states = self.moments["setup"][0].bytes["optimizer_states"]
        return PolynomialTable.of([*self.of_passes(), *numbers, state.gradient_bytes, states])

    @cached_property
    def peaks(self) -> tuple[Polynomial, ...]:
        """Those of `totals` that can be the largest of all: about a fifth fewer. To find them costs
        more than a few questions."""
        return undominated(self.totals.polynomials)

    @property
    def kernel_text(self) -> str:
        return " and ".join(self.kernels)

    @property
    def state(self) -> Persistent:
        """A rank's share of what lives through the step."""
        return self.shards.state

    def candidate(self, moment: MomentName, number: int) -> Candidate:
        return self.moments[moment][number]


def plan_for(workload: Workload) -> Plan:
    """The plan that answers `workload`, from this process's memory or worked out now.

    Raises TargetModulesError where PEFT refuses the adapter.
    """
    setup, model = workload.setup, workload.model
    lora = setup.lora
    windows = windows_of(model)
    key = (
        *(model.id, model.architecture, model.fingerprint, model.stored),
        None
        if lora is None
        else (_OF_LORA(lora), lora.r if counts_in_steps(setup) or setup.is_shared else 0),
        _OF_SETUP(setup),
        setup.accumulation > 1,
        setup.batch_size == 1,
        setup.seq_len == 1,
        setup.label_smoothing_factor > 0,
        setup.loop_state != "none" and setup.accumulation,
        chunk_regime(workload),
        setup.beta > 0,
        chunk_regime(evaluation_workload(workload)) if setup.eval_batch_size else None,
        sequences_of(setup),
        is_offloaded(workload),
        own(workload) if (own := of_set(setup.kernels, "positions")) else None,
        has_long_positions(setup),
        tuple([setup.seq_len >= w for w in windows]) if windows else (),
        _of_platform(workload),
    )
    plan = _PLANS.get(key)
    if plan is None:
        if len(_PLANS) >= _MAX_PLANS:
            _PLANS.clear()
        plan = _PLANS[key] = _build(workload)
    return plan


def _of_platform(workload: Workload) -> tuple[object, ...]:
    """What a plan depends on of the GPU and torch: the kernels of attention. Passes of other sizes
    may take other ones."""
    setup, platform = workload.setup, workload.platform
    if setup.eval_batch_size or setup.completions_at_once or setup.runs_reference:
        return platform.capability, platform.torch
    keeps_seeds = efficient_keeps_seeds(platform, 0.0)
    return attention_kernels(workload), efficient_takes_grouped(platform), keeps_seeds


_adapters = lru_cache(maxsize=64)(adapters)
_OF_LORA = attrgetter(
    "target_modules", "lora_dropout", "layers_to_transform", "target_parameters", "modules_to_save",
    "adapter_dtype", "use_dora", "fast_lora", "lora_kernels", "peft_type", "feedforward_modules",
    "oft_block_size",
)  # fmt: skip
_OPTIONS = (
    "quantization", "qat", "qat_group_size", "dtype", "precision", "optimizer", "optimizer_impl",
    "optimizer_rank", "optimizer_in_bwd", "checkpointing", "attention", "device", "world_size",
    "sharding", "context_parallel_size", "reduce_bucket_size", "offload_params", "use_orig_params",
    "offload_optimizer_device", "offload_param_device", "loss", "hold_outputs", "loop_state",
    "is_packed", "is_padded", "eval_batch_size", "generation_batch_size", "max_completion_length",
    "use_vllm", "kernels", "transformers", "is_reentrant", "offload_checkpoints",
    "offload_activations", "offload_embedding",
)  # fmt: skip
"""What decides by its value; of the rest a plan knows a fact, as whether there is one sample."""
_OF_SETUP = attrgetter(*_OPTIONS)
_OF_SHARDS = attrgetter(*(name for name in _OPTIONS if name not in ("checkpointing", "loss")))
_SHARED_SHARDS = ("ddp", "zero1", "fsdp", "fsdp-no-reshard")
"""Shardings under which what a rank holds between passes does not depend on checkpointing."""
_SAME_LOSSES = ("plain", "fused")
"""Losses beside which nothing else is held."""
_PLANS: dict[object, Plan] = {}
_MAX_PLANS = 1024
_SHARDS: dict[object, tuple[ShardState, int | None]] = {}
_MAX_SHARDS = 256


@lru_cache(maxsize=256)
def windows_of(model: ModelSpec) -> tuple[int, ...]:
    """The distinct sliding windows of the model's layers, in tokens."""
    family = program_by_type(model)
    if family is None:
        return ()
    found = {family.window(model.config, i) for i in range(model.num_layers)}
    return tuple(sorted(w for w in found if w is not None))


def known_program(workload: Workload) -> Family | None:
    """What the model's layers run, None where no rule describes that."""
    return _program(workload, family_of)


def program_of(workload: Workload) -> Family | None:
    """`known_program`, else an estimate made from the model's modules."""
    return _program(workload, program_by_type)


def _program(workload: Workload, of_type: Callable[[ModelSpec], Family | None]) -> Family | None:
    if rules_unsupported_reason(workload.setup):
        return None
    own = part("kernels", workload.setup.kernels, "law", "program")
    program: Family | None = own(workload) if own else None
    return program or of_type(workload.model)


def _build(workload: Workload, *, spread: VocabularyShards | None = None, **changes: Any) -> Plan:
    """`spread`: how ranks share the vocabulary; `changes`: of the rules."""
    setup, model = workload.setup, workload.model
    family = program_of(workload)
    if setup.is_shared:
        return _shared(workload)
    found = _adapters(model, setup.lora) if setup.lora else ()
    copies = saved_modules(model, setup.lora) if setup.lora else ()
    state = persistent(model, setup, found, copies)
    kernels = attention_kernels(workload)
    masked = masked_layers(workload, family) if family else frozenset()
    taken = {kernels.masked if i in masked else kernels.plain for i in range(model.num_layers)}
    forward = kept = evaluation_pass = generation_pass = scoring_pass = None
    if family is not None:
        rules = rules_for(workload, kernels, masked)._replace(spread=spread, **changes)
        trainable = frozenset(n for n, _ in (model.modules() if setup.lora is None else copies))
        forward = forward_pass(model, family, rules, found, trainable)
        kept = activations(forward, family, workload, kernels.plain)
        if setup.scores_at_once:  # adapters that are switched off run in the same functions
            scoring_pass = pass_alone(workload, family, found, trainable, spread)
        if setup.eval_batch_size is not None:
            evaluation_pass = pass_alone(
                evaluation_workload(workload), family, found, trainable, spread
            )
        if setup.completions_at_once:
            generation_pass = pass_alone(generation_workload(workload), family, found, trainable)
    one = Plan(
        workload=workload,
        family=family,
        kernels=tuple(sorted(taken)),
        masks_in_math=bool(masked) and kernels.masked == "math",
        adapters=found,
        copies=copies,
        shards=without_embeddings(alone(state), workload),
        forward=forward,
        kept=kept,
        evaluation=evaluation_pass,
        generation=generation_pass,
        scoring=scoring_pass,
        moments={},
        order=(),
        totals=_NOTHING,
        of_passes=lambda: _of_passes(workload, family, forward, kept),
    )
    return _with_moments(one)


def _shared(workload: Workload) -> Plan:
    """The plan of one rank of several: the passes are those of a process alone, under tensor
    parallelism of a part."""
    if workload.setup.sharding == "tp":
        spread = VocabularyShards(
            int(workload.model.config["vocab_size"]), workload.setup.world_size
        )
        one = _build(part_of(workload), spread=spread)
        shards = stepped(one.workload, one.state, one.adapters, spread.words)
        return _with_moments(replace(one, shards=shards))
    process = replace(workload, setup=workload.setup.of_one_process)
    is_low = workload.setup.gathers_adapters_low
    # DeepSpeed 0.19.8 `runtime/zero/linear.py`, LinearFunctionForZeroStage3
    keeps_inputs = workload.setup.sharding == "zero3"
    one = (
        _build(process, gathers_low=is_low, keeps_inputs=keeps_inputs)
        if is_low or keeps_inputs
        else plan_for(process)
    )
    shards, gathered = _sharded(workload, one)
    return _with_moments(replace(one, workload=workload, shards=shards), gathered)


def _sharded(workload: Workload, one: Plan) -> tuple[ShardState, int | None]:
    """What a rank of `workload` holds, `one` being the plan of a process alone, and what it gathers
    to save; worked out once for all that differ in their passes alone, as a search asks for."""
    setup, model = workload.setup, workload.model
    if setup.sharding not in _SHARED_SHARDS or setup.loss not in _SAME_LOSSES:
        return _sharded_anew(workload, one)
    lora = setup.lora and (_OF_LORA(setup.lora), setup.lora.r)
    of_model = model.id, model.architecture, model.fingerprint, model.stored
    key = (*of_model, lora, _OF_SHARDS(setup))
    if key not in _SHARDS:
        if len(_SHARDS) >= _MAX_SHARDS:
            _SHARDS.clear()
        _SHARDS[key] = _sharded_anew(workload, one)
    return _SHARDS[key]


def _sharded_anew(workload: Workload, one: Plan) -> tuple[ShardState, int | None]:
    shards = shard_state(workload, one.state, one.adapters, one.copies)
    return shards, gathered_to_save(workload, shards, one.adapters, one.copies)


def pass_alone(
    other: Workload,
    family: Family,
    found: tuple[Adapter, ...],
    trainable: frozenset[str],
    spread: VocabularyShards | None = None,
) -> ForwardPass:
    """The forward pass of an evaluation, a generation or a reference, without dropout."""
    kernels = attention_kernels(other, trains=False)
    rules = rules_for(other, kernels, masked_layers(other, family))
    rules = rules._replace(trains=False, spread=spread)
    return forward_pass(other.model, family, rules, found, trainable)


_NOTHING = PolynomialTable.of([])


def _with_moments(plan: Plan, gathered: int | None = None) -> Plan:
    """`plan` with what its rank holds at every moment; `gathered` bytes are there to save."""
    workload, shards = plan.workload, plan.shards
    if plan.forward is None or plan.kept is None or plan.family is None:
        live: Moments = persistent_only(shards, workload, plan.adapters)
        between = live["setup"][0].bytes
    else:
        setup = workload.setup
        live = moments(plan.forward, plan.kept, shards, plan.family, workload)
        between = live["setup"][0].bytes
        held = merged(between, {"inputs": batch_kept_bytes(setup)})
        if plan.evaluation is not None:
            found = evaluation(plan.evaluation, held, shards, evaluation_workload(workload))
            live = {**live, "evaluation": found}
        if plan.generation is not None:
            steps = setup.accumulation if setup.generation_batch_size is None else None
            length, other = setup.max_completion_length, generation_workload(workload)
            drawn = generation(plan.generation, held, shards, other, length, steps)
            live = {**live, "generation": drawn}
        if plan.scoring is not None:
            scored = scores(plan.scoring, between, shards, workload)
            live = {**live, "generation": (*live.get("generation", ()), *scored)}
    if gathered is not None:
        saved = candidate(merged(between, {"communication": constant(gathered)}))
        live = {**live, "saving": (saved,)}
    order = tuple((m, i) for m in MOMENTS if m in live for i in range(len(live[m])))
    totals = [live[m][i].total for m, i in order]
    return replace(plan, moments=live, order=order, totals=PolynomialTable.of(totals))


def _of_passes(
    workload: Workload, family: Family | None, forward: ForwardPass | None, kept: Activations | None
) -> Sequence[Polynomial]:
    """See `Plan.of_passes`."""
    if family is None or forward is None or kept is None:
        return ZERO, ZERO, ZERO, ZERO
    setup = workload.setup
    ahead, back, again = _flops(forward, setup)
    if setup.runs_reference:
        reference = pass_alone(workload, family, (), frozenset())
        ahead = ahead + _flops(reference, setup)[0] * setup.passes_beside
    return kept.saved, ahead, back, again


def _flops(forward: ForwardPass, setup: TrainSetup) -> tuple[Polynomial, Polynomial, Polynomial]:
    """(forward, backward, recompute) FLOPs of one micro-batch."""
    runs = forward.runs
    ahead = total(total(node.forward_flops for node in run.nodes) * n for run, n in runs)
    back = total(total(node.backward_flops for node in run.nodes) * n for run, n in runs)
    if forward.chunks is not None:
        ahead, back = ahead + forward.chunks.forward_flops, back + forward.chunks.backward_flops
    again = (
        total(x.run.recompute_flops * len(x.indices) for x in forward.layers)
        if setup.checkpointing
        else ZERO
    )
    return ahead, back, again
