"""The stages of the loss, forward and backward: plain, smoothed, in chunks, and a trainer's own."""

from collections.abc import Iterable, Iterator

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, constant
from lora_profiler.memory.analytic.activations import Activations, loss_of
from lora_profiler.memory.analytic.candidates import (
    Breakdown,
    Candidate,
    candidate,
    largest_of,
    with_communication,
)
from lora_profiler.memory.analytic.losses import SCALAR, ChunkedHead, LossOfLogits, LossPath
from lora_profiler.memory.analytic.sharding import ShardState
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.prediction import Category
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.workload import TrainSetup

Both = tuple[tuple[Candidate, ...], tuple[Candidate, ...]]
"""Of the end of forward, and of the loss's backward."""


def loss_candidates(
    forward: ForwardPass,
    kept: Activations,
    shards: ShardState,
    ahead: dict[Category, Polynomial],
    running: dict[Category, Polynomial],
    setup: TrainSetup,
    returned: dict[Category, Polynomial] | None,
) -> Both:
    """What is alive while the loss is made, on `ahead`, and while its backward runs, on
    `running`. `returned`: what it is made on where the loop has a name for the logits before."""
    at_end = kept.saved - kept.ids - kept.capped - kept.loss + kept.held + kept.scalars
    stored = at_end - kept.moved.freed
    last = ZERO if forward.hidden.storage in forward.head.saved else forward.hidden.bytes
    gathered = shards.in_loss, shards.before_layers
    comes_after = loss_facts(setup.loss).after_forward or setup.label_smoothing_factor > 0
    if shards.is_sharded and comes_after:
        gathered = shards.after_forward, shards.after_forward
    before, after = with_communication(ahead, gathered[0]), with_communication(running, gathered[1])
    in_forward = at_end + last + kept.cached
    loss = loss_of(forward, setup)
    if isinstance(loss, LossOfLogits):
        back = largest_of(_stage_candidates(after, stored, kept.capped, loss.back))
        if not setup.label_smoothing_factor:
            stages = (*_gathered(forward), *loss.ahead)
            end = _stage_candidates(before, in_forward, kept.capped, stages)
            if shards.head is not None:  # which is there until it has run
                stages = (forward.logits.bytes, constant(shards.head.sent))
                end += _stage_candidates(before, in_forward, constant(shards.head.held), stages)
            return largest_of(end), back
        logits = kept.capped + forward.logits.bytes
        made = candidate(before, activations=in_forward, logits_and_loss=logits)
        return largest_of([made, *_stage_candidates(before, at_end, kept.capped, loss.ahead)]), back
    if isinstance(loss, LossPath):
        both = _in_path(forward, loss, at_end, kept, before, after, setup, returned)
    else:
        accumulates = setup.accumulation > 1
        both = _in_chunks(forward, loss, at_end, kept, before, after, accumulates)
    cast = ZERO if comes_after else shards.sent_as_backward_begins
    if cast == ZERO:
        return both
    begins = candidate(after, activations=stored, temporaries=cast, **_begun(loss, kept))
    return both[0], largest_of([*both[1], begins])


def _gathered(forward: ForwardPass) -> Iterator[Polynomial]:
    """The stage that brings the logits together where each rank makes a part of them: its part and
    all of them one after the other; a rank with fewer words has a padded copy of its part too."""
    for node in forward.head.nodes:
        if node.op == "all_gather":
            (part,), (parts,) = node.inputs, node.outputs
            copies = 1 + (parts.elements != forward.logits.elements)
            yield forward.logits.bytes + part.bytes * copies + parts.bytes


def _begun(loss: LossPath | ChunkedHead, kept: Activations) -> dict[str, Polynomial]:
    """What there is of a loss without all logits when its backward begins."""
    scalars = constant(2 * SCALAR)
    if isinstance(loss, LossPath):
        return {"logits_and_loss": loss.kept + scalars}
    if loss.fused:
        return {"gradients": loss.trained, "logits_and_loss": loss.made + scalars}
    return {"logits_and_loss": kept.labels + scalars}


def _in_path(
    forward: ForwardPass,
    path: LossPath,
    stored: Polynomial,
    kept: Activations,
    before: Breakdown,
    running: Breakdown,
    setup: TrainSetup,
    returned: Breakdown | None,
) -> Both:
    """(end of forward, loss's backward) of a trainer's own loss. The last two instants of the first
    are the loss's own."""
    ahead = stored
    if not path.is_apart:
        ahead = ahead + kept.cached
        if path.hidden.storage not in forward.head.saved:
            ahead = ahead + path.hidden.bytes
    end = _stage_candidates(before, ahead, ZERO, path.ahead)
    if returned is not None:
        made = _stage_candidates(returned, ahead, ZERO, path.ahead[-2:])
        end[-2:] = [each._replace(holds_last=False) for each in made]
    counted = path.output if path.is_overwritten and setup.hold_outputs else ZERO
    back = _stage_candidates(running, stored - kept.moved.freed, ZERO - counted, path.back)
    return largest_of(end), largest_of(back)


def _in_chunks(
    forward: ForwardPass,
    chunks: ChunkedHead,
    stored: Polynomial,
    kept: Activations,
    before: Breakdown,
    running: Breakdown,
    accumulates: bool,
) -> Both:
    """(end of forward, loss's backward) where the head runs in chunks.

    The gradients of the head's own weights become those of the parameters, unless there are some
    already or autocast lowered the weights: then they are converted at the end of the loss's
    backward, while the lowered ones still exist.
    """
    owned: Category = "logits_and_loss" if accumulates or chunks.lowered else "gradients"
    hidden = chunks.hidden.bytes
    if not chunks.fused:
        stored = stored - chunks.copied  # saved, but the loss's own
    ahead = stored + kept.cached
    if chunks.hidden.storage not in forward.head.saved:
        ahead = ahead + hidden
    stored = stored - kept.moved.freed

    def found(
        base: Breakdown,
        activations: Polynomial,
        rest: Polynomial,
        stages: Iterable[Polynomial],
        makes: bool,
    ) -> list[Candidate]:
        more = {owned: chunks.trained} if makes else {}
        held = candidate(base, activations=activations, **more).bytes
        return [
            candidate(held, logits_and_loss=rest + stage + chunks.made * makes) for stage in stages
        ]

    labels = kept.labels + chunks.copied + 2 * SCALAR
    wide = forward.hidden.bytes if chunks.hidden is not forward.hidden else ZERO
    if forward.hidden.storage not in forward.head.saved:
        ahead = ahead + wide  # the model has a name for it
    scalars = constant((2 + accumulates) * SCALAR)  # the loss, divided or not, and gradients of 1
    if chunks.fused:
        shifted = chunks.shifted if chunks.is_copied else ZERO
        unshifted = hidden if chunks.tokens != TOKENS and chunks.hidden.requires_grad else ZERO
        end = found(before, ahead, labels + shifted, chunks.gradients(), True)
        back = found(running, stored, scalars, [unshifted], True)
    else:
        end = found(before, ahead, labels, [chunks.losses()], False)
        back = found(running, stored, labels + scalars, chunks.gradients(), True)
    if chunks.lowered:
        left = stored if chunks.fused else stored - hidden
        own: dict[Category, Polynomial] = {
            "logits_and_loss" if accumulates else "gradients": chunks.parameter_gradients
        }
        for more in (chunks.trained, wide):
            held = candidate(running, activations=left, **own).bytes
            back.append(candidate(held, logits_and_loss=chunks.made + more + 2 * SCALAR))
    return largest_of(end), largest_of(back)


def _stage_candidates(
    base: Breakdown, activations: Polynomial, rest: Polynomial, stages: Iterable[Polynomial]
) -> list[Candidate]:
    """The stages of a loss, with `rest` of it besides."""
    return [
        candidate(base, activations=activations, logits_and_loss=rest + stage) for stage in stages
    ]
