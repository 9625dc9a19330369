"""Evaluation between two steps: the forward pass without gradients at a batch of its own.

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

from lora_profiler.algebra.polynomial import TOKENS, ZERO, Polynomial, S, total
from lora_profiler.analytic.activations import has_one_row, mask_bytes, table_bytes, unsmoothed
from lora_profiler.analytic.candidates import Candidate, candidate, with_communication
from lora_profiler.analytic.forward_rules import attention_kernels
from lora_profiler.analytic.loss_paths import LossPath
from lora_profiler.analytic.losses import SCALAR
from lora_profiler.analytic.moments import input_bytes
from lora_profiler.analytic.sharding import ShardState
from lora_profiler.analytic.structure import ForwardPass
from lora_profiler.loss import loss_facts
from lora_profiler.prediction import Category
from lora_profiler.support.library_memory import pass_scalar_bytes
from lora_profiler.support.unsloth import returns_all_hidden_states
from lora_profiler.workload import TrainSetup, Workload


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
        if returns_all_hidden_states(setup):  # but for the first, and this one's input
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
