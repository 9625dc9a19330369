"""What runs between two steps: evaluation, a forward pass without gradients at a batch of its
own; and generation by transformers' generate, as GRPO needs it.

A layer's forward pass lets go of what autograd would keep, as inside a checkpoint; the loss makes
the logits, their float32 copy and the log-probabilities at once, and nothing else but the last
hidden state lives then. Gradients are gone (`zero_grad`), optimizer states are there. The first
candidate is the loss's, and exact; those inside layers are estimates. transformers `trainer.py`,
evaluation_loop and prediction_step: with a loss alone (no compute_metrics) nothing of one batch is
held while the next one runs. Accelerate's float32 copy of the logits comes after the loss, whose
own tensors are more. A trainer's loop has the step's own batch still, and the loss of every
sequence that was evaluated in float32, of which a batch's are counted: an estimate then.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.memory.analytic.activations import (
    has_one_row,
    mask_bytes,
    table_bytes,
    unsmoothed,
)
from lora_profiler.memory.analytic.families import Family
from lora_profiler.memory.analytic.families.blocks import heads_of
from lora_profiler.memory.analytic.forward_rules import attention_kernels
from lora_profiler.memory.analytic.ledger import ITEMSIZE
from lora_profiler.memory.analytic.losses import SCALAR, LossPath
from lora_profiler.memory.analytic.moments import (
    Candidate,
    candidate,
    input_bytes,
    with_communication,
)
from lora_profiler.memory.analytic.sharding import ShardState
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.prediction import Category
from lora_profiler.question.feature import part
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.support.library_memory import pass_scalar_bytes
from lora_profiler.question.support.losses import head_of
from lora_profiler.question.workload import TrainSetup, Workload


def evaluation_workload(workload: Workload) -> Workload:
    """The forward pass of evaluation, as a workload: its batch, without dropout in adapters and
    without checkpoints."""
    setup = workload.setup
    assert setup.eval_batch_size is not None
    return replace(
        workload,
        setup=replace(
            setup,
            batch_size=setup.eval_batch_size,
            eval_batch_size=None,
            accumulation=1,
            checkpointing=False,
            lora=replace(setup.lora, lora_dropout=0.0) if setup.lora else None,
        ),
    )


def evaluation(
    forward: ForwardPass,
    base: Mapping[Category, Polynomial],
    shards: ShardState,
    workload: Workload,
) -> tuple[Candidate, ...]:
    """Live bytes while `workload`, an `evaluation_workload`, runs; `base` are those between steps.
    The batch is a number, so that a search for the largest batch of training leaves it alone."""
    setup = workload.setup
    batch = setup.batch_size
    alone: dict[Category, Polynomial] = {c: p for c, p in base.items() if c != "communication"}
    inputs = _input_bytes(setup)
    cached = cached_bytes(forward)
    labels = TOKENS * 8 + (8 if has_one_row(setup) else 0)
    chunks, hidden = forward.chunks, forward.hidden.bytes
    if chunks is None:
        outcomes = list(unsmoothed(forward, setup).ahead)
    elif isinstance(chunks, LossPath):  # with what autograd would keep: an upper bound
        outcomes = list(chunks.ahead)
        if chunks.hidden.storage is not forward.hidden.storage:
            outcomes = [size + chunks.hidden.bytes for size in outcomes]
            hidden = ZERO if loss_facts(setup.loss).after_forward else hidden
    else:
        made = chunks.trained if chunks.fused and not chunks.lowered else ZERO
        loss = chunks.losses() + chunks.copied + made + labels + (2 + chunks.fused) * SCALAR
        if chunks.hidden.storage is not forward.hidden.storage:  # beside what the model names
            loss = loss + chunks.hidden.bytes
        outcomes = [loss]
    candidates = [
        candidate(
            with_communication(alone, shards.in_loss),
            temporaries=(inputs + hidden + cached).at_batch(batch),
            logits_and_loss=outcome.at_batch(batch),
        )
        for outcome in outcomes
    ]
    of_batch = partial(Polynomial.at_batch, batch=batch)
    return (*candidates, *layer_candidates(forward, alone, shards, workload, of_batch))


def layer_candidates(
    forward: ForwardPass,
    alone: dict[Category, Polynomial],
    shards: ShardState,
    workload: Workload,
    of_batch: Callable[[Polynomial], Polynomial],
) -> tuple[Candidate, ...]:
    """Of `evaluation` those inside layers, on `alone`; `of_batch` puts its batch for that of
    training."""
    setup, config, family = workload.setup, workload.model.config, forward.family
    inputs, candidates = _input_bytes(setup), list[Candidate]()
    cached = cached_bytes(forward)
    windows = {family.window(config, i) for i in range(forward.num_layers)}
    masks = mask_bytes(
        windows | set(family.masks(config)),
        setup=setup,
        dtype=forward.embed.output.dtype,
        kernel=attention_kernels(workload, trains=False).plain,
    )
    held = table_bytes(forward, family, workload) + inputs + masks
    if not setup.is_packed:
        held = held + (TOKENS if family.positions_per_sample else S) * 8
    for layer in forward.layers:
        newest = layer.indices[-1]
        own = total(s.bytes for s in layer.run.cached)
        # the model's own name for the embeddings outlives the first layer
        outside = held + cached - own + (forward.embed.output.bytes if newest else ZERO)
        if setup.returns_all_hidden_states:  # but for the first, and this one's input
            outside = outside + layer.run.input.bytes * max(newest - 1, 0)
        sent = shards.in_forward(newest)
        candidates += [
            candidate(
                with_communication(alone, sent),
                temporaries=of_batch(outside + layer.run.input.bytes + inside),
            )
            for inside in layer.run.checkpointed_candidates
        ]
    return tuple(candidates)


def _input_bytes(setup: TrainSetup) -> Polynomial:
    losses = setup.batch_size * SCALAR if setup.loop_state != "none" else 0
    return input_bytes(setup) + pass_scalar_bytes(setup) + losses


def cached_bytes(forward: ForwardPass) -> Polynomial:
    """Copies of weights that autocast keeps until the pass is over."""
    return total(s.bytes * n for run, n in forward.runs for s in run.cached)


# --- generation -----------------------------------------------------------------------------------


_FLOAT32_COPIES = 3
"""Of the last token's logits: the copy, the probabilities, the draws."""
_STILL_NAMED = 2
"""Of those the copy and the probabilities, while the next token is made."""
_INCREMENT, _BUCKET = 512, 256
"""Tokens by which Unsloth's cache grows, and of which it has whole groups."""
_COLUMNS = 2
"""Of int64: ids and attention mask, those of the prompts and those of the whole sequences."""


def generation_workload(workload: Workload) -> Workload:
    """The pass over the prompts, as a workload: its rows, without dropout, checkpoints and the
    trainer's loss."""
    setup = workload.setup
    lora = setup.lora
    return replace(
        workload,
        setup=replace(
            setup,
            batch_size=setup.completions_at_once,
            generation_batch_size=None,
            max_completion_length=None,
            beta=0.0,
            use_vllm=False,
            eval_batch_size=None,
            checkpointing=False,
            hold_outputs=False,
            label_smoothing_factor=0.0,
            loss="plain",
            loop_state="none",
            precision="pure" if lora is not None else setup.precision,
            lora=replace(lora, lora_dropout=0.0) if lora is not None else None,
        ),
    )


def generation(
    forward: ForwardPass,
    base: Mapping[Category, Polynomial],
    shards: ShardState,
    workload: Workload,
    completion: int | None,
    steps: int | None,
) -> tuple[Candidate, ...]:
    """Live bytes while `workload`, a `generation_workload`, makes `completion` tokens of each row,
    or any number. Its rows are those of `steps` batches, or a number that a search for the largest
    batch leaves alone. The first candidate is that of drawing the last token."""
    alone, family = dict(base), forward.family

    def of_batch(size: Polynomial) -> Polynomial:
        if steps is None:
            return size.at_batch(workload.setup.batch_size)
        return size.of_batches(steps)

    rows, head = of_batch(B), head_of(workload.model)
    words = (head.out_features or 0) if head else 0
    drawn = rows * words * (ITEMSIZE[forward.logits.dtype] + 4 * _FLOAT32_COPIES)
    prompt = S if completion is None else S - completion
    ids = (S + prompt) * rows * (8 * _COLUMNS)

    def cache(length: Polynomial) -> Polynomial:
        return rows * cache_bytes(family, workload, length)

    prompts = [  # their pass, beside their keys and values
        candidate(alone, activations=cache(prompt), temporaries=during.total.at_length(prompt))
        for during in layer_candidates(forward, {}, shards, workload, of_batch)
    ]
    grown, layers = cache(S - 1), workload.model.num_layers
    if decoding := part("kernels", workload.setup.kernels, "law", "decoding"):
        adapters = shards.state.adapter_bytes.ceil_div(2)
        others = {"logits_and_loss": drawn, "inputs": ids}
        own = decoding(alone, cache, prompt, completion, layers, adapters, others)
        return (*own, *prompts)
    last = candidate(alone, activations=grown, logits_and_loss=drawn, inputs=ids)
    spoken = rows * words * (4 * _STILL_NAMED)
    slides = any(family.window(workload.model.config, i) is not None for i in range(layers))
    twice = [grown.ceil_div(layers if slides else 2 * layers)]
    if attention_kernels(workload, trains=False).plain == "math":
        twice.append(rows * _in_math(workload, S - 1))
    attending = [
        candidate(alone, activations=grown + own, logits_and_loss=spoken, inputs=ids)
        for own in twice
    ]
    copies = cached_bytes(forward)
    made = rows * words * ITEMSIZE[forward.logits.dtype] + spoken
    heading = candidate(
        alone, activations=grown, temporaries=copies, logits_and_loss=made, inputs=ids
    )
    return (last, *attending, heading, *prompts)


def scores(
    forward: ForwardPass,
    base: Mapping[Category, Polynomial],
    shards: ShardState,
    workload: Workload,
) -> tuple[Candidate, ...]:
    """Live bytes in the layers of a reference that scores all completions of a step at once; of
    logits it makes no more at once than training does."""
    setup = workload.setup
    other = replace(workload, setup=replace(setup, checkpointing=False, accumulation=1))

    def of_step(size: Polynomial) -> Polynomial:
        return size.of_batches(setup.accumulation)

    return layer_candidates(forward, dict(base), shards, other, of_step)


def _in_math(workload: Workload, length: Polynomial) -> Polynomial:
    """What SDPA's math kernel makes of the keys and values of a row for one more token: those of
    all heads, where heads are grouped, keys times the scale, and scores (torch `aten/src/ATen/
    native/transformers/attention.cpp`, _scaled_dot_product_attention_math)."""
    setup, heads = workload.setup, heads_of(workload.model.config)
    whole = heads.query * heads.dim * (1 + 2 * (heads.groups > 1))
    return length * ((whole + heads.query) * ITEMSIZE[setup.autocast_dtype or setup.dtype])


def cache_bytes(family: Family, workload: Workload, length: Polynomial) -> Polynomial:
    """Keys and values of `length` tokens of a row, in all layers."""
    setup, config = workload.setup, workload.model.config
    heads = heads_of(config)
    computed = setup.autocast_dtype or setup.dtype
    # cos and sin are as wide as the residual stream, and so are keys that they turned
    turned = setup.dtype if family.rotary_sets(config) else computed
    token = heads.key_value * heads.dim * (ITEMSIZE[computed] + ITEMSIZE[turned])
    windows = (family.window(config, i) for i in range(workload.model.num_layers))
    return total(
        (constant(w) if w is not None and setup.seq_len > w else length) * token for w in windows
    )
