"""What losses of pairs hold at once that make all logits, line by line: LLaMA-Factory 0.9.6's,
`train/dpo/trainer.py` (concatenated_forward, get_batch_loss_metrics) and `train/trainer_utils.py`
(get_batch_logps), axolotl 0.19's, TRL 1.9 `dpo_trainer.py` (_compute_loss) with
`monkeypatch/trainer/utils.py` (selective_log_softmax), and torchtune 0.7's,
`recipes/lora_dpo_single_device.py` and `rlhf/sequence_processing.py` (get_batch_log_probs).

The policy's logits in float32 have a name until the metrics are made. The reference, the model with
its adapters switched off or a copy, runs beside them and beside what autograd kept of the policy.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import Head, LossPath, head_weights
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec

_SCALAR, _INDEX = 4, 8
_COLUMNS = 3
"""Ids, mask and labels, which each pass of LLaMA-Factory has copies of (`nested_detach`)."""


class Logits(NamedTuple):
    """Bytes of all logits of a micro-batch: `narrow` as the head makes them, `wide` in float32 and
    `part` of them without each row's last. `copies` are autocast's of the head, `kept_copy` what
    stays of them; `tail` the last instants of backward, when `ids` are kept beside."""

    head: Head
    tokens: Polynomial
    narrow: Polynomial
    wide: Polynomial
    part: Polynomial
    copies: Polynomial
    kept_copy: Polynomial
    tail: tuple[Polynomial, ...]


def all_logits(op: Ledger, hidden: Tensor, model: ModelSpec, ids: Polynomial) -> Logits:
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    compute = op.rules.autocast or hidden.dtype
    size = ITEMSIZE[compute]
    tokens = TOKENS - (constant(1) if op.rules.one_row else B)
    narrow = TOKENS * (vocab * size) if size != 4 else ZERO
    wide = TOKENS * (vocab * 4)
    made = total(t.bytes for t in head.trained)
    made_low = total(t.elements * size for t in head.trained)

    read = op.lowered(hidden)
    if weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    of_read = read.bytes * hidden.requires_grad
    widened = hidden.bytes * (hidden.requires_grad and read is not hidden)
    kept_copy = weight.elements * (size * (weight.dtype != compute and hidden.requires_grad))
    return Logits(
        head=head,
        tokens=tokens,
        narrow=narrow,
        wide=wide,
        part=tokens * (vocab * 4),
        copies=total(t.elements * size for t in head.tensors if t.dtype != compute),
        kept_copy=kept_copy,
        tail=(
            kept_copy + ids + wide + narrow + 2 * _SCALAR,
            kept_copy + ids + (narrow if size != 4 else wide) + made_low + of_read + 2 * _SCALAR,
            made + ids + of_read + widened + 2 * _SCALAR,
        ),
    )


def log_probabilities_of_pairs(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """Log-softmax of all but a row's last logits, which are copied for it."""
    embeds = any(m.kind == "Embedding" and name in op.trainable for name, m in model.modules())
    ids = TOKENS * (_INDEX * embeds)  # a copy, which a trained embedding keeps
    logits = all_logits(op, hidden, model, ids)
    inputs = TOKENS * (_COLUMNS * _INDEX)
    own = logits.tokens * (_INDEX + 1)  # labels as places, and which there are
    rows = B * _INDEX  # how many of a row there are
    means = B * _SCALAR + B * (_SCALAR // 2)  # sums of rows, and the mean of each pair's chosen one
    kept = logits.part + own + rows + logits.kept_copy + ids
    before = kept + logits.wide + means
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept,
        ahead=(
            inputs + logits.copies + logits.narrow + logits.wide,
            inputs + logits.kept_copy + logits.wide + logits.part * 2 + own,
            before + inputs + logits.narrow + logits.wide,
            before + inputs + logits.wide + logits.part * 2 + own,
        ),
        back=(
            kept + logits.part * 2 + 2 * _SCALAR,
            logits.kept_copy + ids + logits.wide + logits.part + 2 * _SCALAR,
            *logits.tail,
        ),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )


def log_probabilities_beside_others(
    op: Ledger, hidden: Tensor, model: ModelSpec, fact: int
) -> LossPath:
    """KTO of LLaMA-Factory, `train/kto/trainer.py`: as of pairs, of answers alone. Each model runs
    over those of other prompts too, beside its own logits; of the policy's the loss then holds
    copies, one of the desirable ones and one of the rest."""
    path = log_probabilities_of_pairs(op, hidden, model, fact)
    wide = TOKENS * (path.head.vocab * _SCALAR)
    more = TOKENS * (_COLUMNS * _INDEX)  # the other answers' columns
    uncopied = wide - constant(path.head.vocab * _SCALAR) if op.rules.one_row else ZERO
    begun, made, after, compared = (size + more for size in path.ahead)
    # beside what pairs have: sums and means of rows of either model, and which are desirable, twice
    # for autograd and once in a copy of the batch
    beside = wide + B * (3 * _SCALAR + 3)
    ahead = (begun, made - uncopied, after + beside, compared + beside - uncopied)
    return path._replace(ahead=ahead)


def log_probabilities_without_reference(
    op: Ledger, hidden: Tensor, model: ModelSpec, fact: int
) -> LossPath:
    """The same of the policy alone."""
    logits = all_logits(op, hidden, model, ZERO)
    own = logits.tokens * (_INDEX + 1)  # labels as places, and which there are
    kept = logits.part + own + B * _INDEX + logits.kept_copy
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept,
        ahead=(
            logits.copies + logits.narrow + logits.wide,
            logits.kept_copy + logits.wide + logits.part * 2 + own,
        ),
        back=(
            kept + logits.part * 2 + 2 * _SCALAR,
            logits.kept_copy + logits.wide + logits.part + 2 * _SCALAR,
            *logits.tail,
        ),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )


def odds_ratios(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """A kernel reads all logits where they are, and cross-entropy a copy of the chosen half, whose
    log-softmax it keeps. In backward the gradients of both, as large as all logits, meet."""
    logits = all_logits(op, hidden, model, ZERO)
    vocab, chosen = logits.head.vocab, logits.tokens * (logits.head.vocab * _SCALAR // 2)
    half = TOKENS * (vocab * _SCALAR // 2)
    # labels as places, two sums, which there are; the chosen ones' labels; how many of a row
    each = logits.tokens * (_INDEX + 2 * _SCALAR + 1 + _INDEX // 2) + B * _INDEX + _SCALAR
    kept = logits.wide + chosen + each + logits.kept_copy
    of_two = logits.kept_copy + logits.wide + 2 * _SCALAR
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept,
        ahead=(logits.copies + logits.narrow + logits.wide, kept + chosen + TOKENS * _INDEX),
        back=(
            kept + logits.part + 2 * _SCALAR,
            of_two + chosen * 3,
            of_two + half + logits.wide,
            *logits.tail,
        ),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )


def selected_log_probabilities(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """A kernel reads a copy of all but a row's last logits, which autograd keeps, and writes the
    gradient into another one; the reference's logits have a copy too."""
    logits = all_logits(op, hidden, model, ZERO)
    each = logits.tokens * (_INDEX + _SCALAR)  # labels as places, and a sum of exponentials
    kept = logits.part + each + logits.kept_copy
    before = kept + logits.wide + logits.tokens * _SCALAR
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept,
        ahead=(
            logits.copies + logits.narrow + logits.wide,
            before + logits.copies + logits.narrow + logits.wide,
            before + logits.wide + logits.part + each + logits.tokens * _SCALAR,
        ),
        back=(
            kept + logits.part + 2 * _SCALAR,
            logits.kept_copy + logits.wide + logits.part + 2 * _SCALAR,
            *logits.tail,
        ),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )


def gathered_log_probabilities(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """Log-softmax of all but a row's last logits, divided by a temperature. The policy's logits are
    dropped before the reference runs, whose own are held as an output is: those of the step before
    while the policy runs."""
    logits = all_logits(op, hidden, model, ZERO)
    own = logits.tokens * (_INDEX + 1)  # labels as places, and which there are
    kept = logits.part + own + logits.kept_copy
    # sums of rows of both passes, three numbers a pair, and two means, which are the step before's
    # while the policy runs
    told = B * (2 * _SCALAR + 3 * _SCALAR // 2) + 2 * _SCALAR
    labels = TOKENS * _INDEX + told
    twice = logits.part * 2 + own + labels
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept,
        ahead=(
            labels + logits.copies + logits.narrow + logits.wide,
            logits.kept_copy + logits.wide + twice,
            kept + labels + logits.copies + logits.narrow,
            kept + twice,
        ),
        back=(
            kept + told + logits.part * 2 + 2 * _SCALAR,
            logits.kept_copy + told + logits.wide + logits.part + 2 * _SCALAR,
            *[told + size for size in logits.tail],
        ),
        tokens=TOKENS,
        again=False,
        output=logits.wide,
        is_apart=True,
    )
