"""What losses hold at once that a trainer's loop makes of all logits, line by line. LLaMA-Factory
0.9.6: `train/dpo/trainer.py` (concatenated_forward, get_batch_loss_metrics), `train/sft/trainer.py`
and `train/trainer_utils.py` (get_batch_logps, dft_loss_func, eaft_loss_func, asft_loss_func).
axolotl 0.19: TRL 1.9 `dpo_trainer.py` (_compute_loss) with `monkeypatch/trainer/utils.py`
(selective_log_softmax). torchtune 0.7: `recipes/lora_dpo_single_device.py` and
`rlhf/sequence_processing.py` (get_batch_log_probs).

The policy's logits in float32, as accelerate hands them on, have a name until the metrics are made.
The reference, the model with its adapters switched off or a copy, runs beside them and beside what
autograd kept of the policy.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, constant
from lora_profiler.analytic.families.blocks import heads_of
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import (
    INDEX,
    SCALAR,
    Head,
    LossPath,
    Product,
    head_weights,
    labelled,
)
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec

_COLUMNS = 3
"""Ids, mask and labels, which each pass of LLaMA-Factory has copies of (`nested_detach`)."""
_TOP = 20
"""Logits of a token by which EAFT takes its entropy."""
_BLOCK, _DIGITS = 16_384, 256
"""Of torch's topk, which counts the digits of so many numbers at a time (`native/cuda/
TensorTopK.cu`, mbtopk)."""


class Logits(NamedTuple):
    """Bytes of all logits of a micro-batch: `narrow` as the head makes them where that is not in
    float32, `wide` in float32 and `part` of them without each row's last, of `tokens`. `copies` are
    autocast's of the head, `kept_copy` what stays of them, `lasting` what lives on until backward
    is over. `tail` are the last instants of that, before whose last the head's gradients are
    `converting`."""

    hidden: Tensor
    head: Head
    tokens: Polynomial
    narrow: Polynomial
    wide: Polynomial
    part: Polynomial
    copies: Polynomial
    kept_copy: Polynomial
    lasting: Polynomial
    tail: tuple[Polynomial, ...]
    converting: Polynomial

    @property
    def made(self) -> Polynomial:
        """While they are made."""
        return self.copies + self.narrow + self.wide

    @property
    def placed(self) -> Polynomial:
        """In backward, while the gradient of a part is laid into that of all."""
        return self.kept_copy + self.lasting + self.wide + self.part

    @property
    def places(self) -> Polynomial:
        """Labels as places, and which there are."""
        return self.tokens * (INDEX + 1)

    def path(self, kept: Polynomial, ahead: tuple[Polynomial, ...], *back: Polynomial) -> LossPath:
        """A loss of the loop's own; `back` are the instants of backward before the last ones."""
        return LossPath(
            hidden=self.hidden,
            head=self.head,
            kept=kept,
            ahead=ahead,
            back=(*(size + 2 * SCALAR for size in back), *self.tail),
            is_apart=True,
        )


def all_logits(op: Ledger, hidden: Tensor, model: ModelSpec, lasting: Polynomial = ZERO) -> Logits:
    """Notes what the head keeps."""
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    product = Product.of(op, hidden, head)
    size, made_low = product.size, product.made
    tokens = labelled(one_row=op.rules.one_row)
    wide = TOKENS * (vocab * 4)
    narrow = TOKENS * (vocab * size) if size != 4 else ZERO
    read = op.lowered(hidden)
    if weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    of_read = read.bytes * hidden.requires_grad
    widened = hidden.bytes * (hidden.requires_grad and read is not hidden)
    is_copied = weight.dtype != (op.rules.autocast or hidden.dtype)
    kept_copy = weight.elements * (size * (is_copied and hidden.requires_grad))
    ends = lasting + 2 * SCALAR
    converted = product.returned if made_low != product.returned else ZERO
    return Logits(
        hidden=hidden,
        head=head,
        tokens=tokens,
        narrow=narrow,
        wide=wide,
        part=tokens * (vocab * 4),
        copies=product.copies,
        kept_copy=kept_copy,
        lasting=lasting,
        tail=(
            kept_copy + wide + narrow + ends,
            kept_copy + (narrow if size != 4 else wide) + made_low + of_read + ends,
            product.returned + of_read + widened + ends,
        ),
        converting=made_low + converted + of_read + ends,
    )


# --- of pairs -------------------------------------------------------------------------------------


def _log_probabilities(logits: Logits) -> LossPath:
    """Log-softmax of all but a row's last logits, which are copied for it."""
    rows = B * INDEX  # how many of a row there are
    kept = logits.part + logits.places + rows + logits.kept_copy + logits.lasting
    made = logits.kept_copy + logits.wide + logits.part * 2 + logits.places
    return logits.path(kept, (logits.made, made), kept + logits.part * 2, logits.placed)


def log_probabilities_without_reference(
    op: Ledger, hidden: Tensor, model: ModelSpec, regime: int
) -> LossPath:
    """LLaMA-Factory's of the policy alone."""
    return _log_probabilities(all_logits(op, hidden, model))


def log_probabilities_of_pairs(
    op: Ledger, hidden: Tensor, model: ModelSpec, regime: int
) -> LossPath:
    """The same, and then of the reference."""
    embeds = any(m.kind == "Embedding" and name in op.trainable for name, m in model.modules())
    ids = TOKENS * (INDEX * embeds)  # a copy, which a trained embedding keeps
    logits = all_logits(op, hidden, model, ids)
    path = _log_probabilities(logits)
    inputs = TOKENS * (_COLUMNS * INDEX)
    means = B * SCALAR + B * (SCALAR // 2)  # sums of rows, and the mean of each pair's chosen one
    before = path.kept + logits.wide + means
    others = (
        before + logits.narrow + logits.wide,
        before + logits.wide + logits.part * 2 + logits.places,
    )
    return path._replace(ahead=tuple(size + inputs for size in (*path.ahead, *others)))


def kto_log_probabilities(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """KTO of LLaMA-Factory, `train/kto/trainer.py`: as of pairs, of answers alone. Each model runs
    over those of other prompts too, beside its own logits; of the policy's the loss then holds
    copies, one of the desirable ones and one of the rest."""
    path = log_probabilities_of_pairs(op, hidden, model, regime)
    wide = TOKENS * (path.head.vocab * SCALAR)
    more = TOKENS * (_COLUMNS * INDEX)  # the other answers' columns
    uncopied = wide - constant(path.head.vocab * SCALAR) if op.rules.one_row else ZERO
    begun, made, after, compared = (size + more for size in path.ahead)
    # beside what pairs have: sums and means of rows of either model, and which are desirable, twice
    # for autograd and once in a copy of the batch
    beside = wide + B * (3 * SCALAR + 3)
    ahead = (begun, made - uncopied, after + beside, compared + beside - uncopied)
    return path._replace(ahead=ahead)


def odds_ratios(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """A kernel reads all logits where they are, and cross-entropy a copy of the chosen half, whose
    log-softmax it keeps. In backward the gradients of both, as large as all logits, meet."""
    logits = all_logits(op, hidden, model)
    vocab, chosen = logits.head.vocab, logits.tokens * (logits.head.vocab * SCALAR // 2)
    half = TOKENS * (vocab * SCALAR // 2)
    # labels as places, two sums, which there are; the chosen ones' labels; how many of a row
    each = logits.tokens * (INDEX + 2 * SCALAR + 1 + INDEX // 2) + B * INDEX + SCALAR
    kept = logits.wide + chosen + each + logits.kept_copy
    of_two = logits.kept_copy + logits.wide
    return logits.path(
        kept,
        (logits.made, kept + chosen + TOKENS * INDEX),
        kept + logits.part,
        of_two + chosen * 3,
        of_two + half + logits.wide,
    )


def selected_log_probabilities(
    op: Ledger, hidden: Tensor, model: ModelSpec, regime: int
) -> LossPath:
    """A kernel reads a copy of all but a row's last logits, which autograd keeps, and writes the
    gradient into another one; the reference's logits have a copy too."""
    logits = all_logits(op, hidden, model)
    each = logits.tokens * (INDEX + SCALAR)  # labels as places, and a sum of exponentials
    kept = logits.part + each + logits.kept_copy
    before = kept + logits.wide + logits.tokens * SCALAR
    scored = before + logits.wide + logits.part + each + logits.tokens * SCALAR
    ahead = (logits.made, before + logits.made, scored)
    return logits.path(kept, ahead, kept + logits.part, logits.placed)


def gathered_log_probabilities(
    op: Ledger, hidden: Tensor, model: ModelSpec, regime: int
) -> LossPath:
    """Log-softmax of all but a row's last logits, divided by a temperature. The policy's logits are
    dropped before the reference runs, whose own are held as an output is: those of the step before
    while the policy runs."""
    # sums of rows of both passes, three numbers a pair, and two means, which are the step before's
    # while the policy runs
    row_bytes = B * (2 * SCALAR + 3 * SCALAR // 2) + 2 * SCALAR
    logits = all_logits(op, hidden, model, row_bytes)
    kept = logits.part + logits.places + logits.kept_copy
    labels = TOKENS * INDEX + row_bytes
    twice = logits.part * 2 + logits.places + labels
    ahead = (
        labels + logits.made,
        logits.kept_copy + logits.wide + twice,
        kept + labels + logits.copies + logits.narrow,
        kept + twice,
    )
    path = logits.path(kept, ahead, kept + row_bytes + logits.part * 2, logits.placed)
    return path._replace(output=logits.wide)


# --- that weigh each token ------------------------------------------------------------------------


def weighted_by_probability(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """DFT: log-softmax of all logits; a loss of each token and its weight."""
    return _weighted(all_logits(op, hidden, model), TOKENS * INDEX)


def weighted_by_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """EAFT: beside log-softmax of all logits a copy of those that have a label, and the largest of
    each, which topk counts digits for."""
    logits = all_logits(op, hidden, model)
    blocks = -(-logits.head.vocab // _BLOCK)
    counts = blocks * (2 * _DIGITS + 2 * SCALAR) + _DIGITS * SCALAR + 3 * SCALAR
    largest = logits.tokens * (_TOP * (SCALAR + INDEX) + counts + SCALAR)
    return _weighted(logits, logits.part + largest)


def _weighted(logits: Logits, more: Polynomial) -> LossPath:
    """Log-softmax of all logits, and what the loss has of each token while they are there: labels
    with one more a row, losses, and `more`."""
    token_bytes = TOKENS * (INDEX + SCALAR) + B * INDEX + logits.tokens * SCALAR + more
    # labels as places, which count, and their weights
    weights = TOKENS * (INDEX + 1) + logits.tokens * SCALAR + SCALAR
    kept = logits.wide + weights + logits.kept_copy
    ahead = (logits.made, logits.wide + kept + token_bytes)
    return logits.path(kept, ahead, logits.wide * 3 + logits.kept_copy, kept + logits.wide)


def asft_divergence(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """ASFT: the reference's logits, then the model's, with a loss of its own that is not used;
    copies of both without a row's last; log-softmax of the one for either loss, and softmax of the
    other. The divergence has three more of them for a moment. The reference's output has its keys
    and values too."""
    logits = all_logits(op, hidden, model)
    part, wide, heads = logits.part, logits.wide, heads_of(model.config)
    size = ITEMSIZE[op.rules.autocast or hidden.dtype]
    cached = TOKENS * (model.num_layers * 2 * heads.key_value * heads.dim * size)
    saved = part * 3 + logits.tokens * (INDEX + 1 + SCALAR) + SCALAR + logits.kept_copy
    held = cached + wide * 3 + TOKENS * INDEX + part * 2 + 2 * SCALAR
    ahead = (cached + logits.made + wide * 2 + TOKENS * INDEX, held + saved + part * 3)
    which = logits.tokens * SCALAR  # count, as numbers
    return logits.path(saved + which, ahead, saved + part * 3)
