"""The loss without all logits at once: the head multiplies a few tokens at a time.

Both paths upcast to float32 and take cross-entropy as transformers does, `loss/loss_utils.py`
(ForCausalLMLoss), and write the gradient over the logits. "chunked" makes the logits of a chunk
again in backward; "fused" makes all gradients in forward, as Liger-Kernel's fused linear
cross-entropy does, and backward only scales them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_profiler.errors import UnbuildableError
from lora_profiler.question.feature import part
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.support.generations import shifts_logits
from lora_profiler.question.support.losses import chunk_rows, logit_scaling, refused
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.contents import output_head, within
from lora_profiler.trace.modeling.generations import shifted

IGNORED_LABEL = -100


class LossAndLogits(NamedTuple):
    """The loss, in the graph, and the logits that a loop which keeps its output has a name for."""

    loss: Tensor
    logits: object = None


def loss_without_logits(
    model: nn.Module, setup: TrainSetup, batch: Mapping[str, Tensor]
) -> LossAndLogits:
    """The loss of one micro-batch by the path that `setup.loss` names, in the graph, and the logits
    of a path whose trainer has a name for all of them.

    The model runs with a head that hands the hidden state on. The loss is made where its trainer
    makes it, which FSDP tells apart: after the model's forward pass, or inside it. Raises
    UsageError where something shows between the head and the loss, or a loss of the model's own.
    """
    base, name = within(model)
    head = output_head(base)
    layer: Any = head
    if hasattr(layer, "modules_to_save"):  # PEFT's wrapper, and the copy in it that trains
        layer = layer.modules_to_save[layer.active_adapters[0]]
    is_linear = type(layer) is nn.Linear or hasattr(layer, "weight_fake_quantizer")
    if head is None or not is_linear:
        raise refused(name, setup.loss, "no plain linear layer makes its logits")
    if not is_of_next_token(base):
        raise refused(name, setup.loss, "its loss is not that of the next token")
    seen: list[Tensor] = []
    made: list[LossAndLogits] = []

    def hand_on(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    def check(logits: Tensor) -> None:
        if len(seen) != 1 or logits is not seen[0]:
            raise refused(name, setup.loss, "it changes the logits that the head has made")

    def in_forward(logits: Tensor, labels: Tensor, *_: Any, **__: Any) -> Tensor:
        check(logits)
        made.append(_loss_of(setup, logits, layer.weight, layer.bias, labels))
        return made[0].loss

    facts = loss_facts(setup.loss)
    if facts.scales_logits:
        return _of_backbone(model, base, head, layer, setup, batch)
    comes_after = facts.after_forward
    given = {k: t for k, t in batch.items() if k != "labels"} if comes_after else batch
    with _forward_of(head, hand_on), _loss_function_of(base, in_forward):
        output: Any = model(**given, use_cache=False)
    check(output.logits)
    if getattr(output, "aux_loss", None) is not None:
        raise refused(name, setup.loss, "it adds a loss of its own")
    if comes_after:
        return _loss_of(setup, seen.pop(), layer.weight, layer.bias, batch["labels"])
    return made[0]


def _of_backbone(
    model: nn.Module,
    base: Any,
    head: nn.Module,
    layer: Any,
    setup: TrainSetup,
    batch: Mapping[str, Tensor],
) -> LossAndLogits:
    """The loss of a trainer that runs the model without its head, and caps and scales the logits
    itself: TRL 1.16, `trainer/utils.py` (add_fused_lm_head)."""
    from transformers.modeling_outputs import CausalLMOutput

    scaling = logit_scaling(base.config.get_text_config().to_dict())
    loss_of_hidden = part("losses", setup.loss, "stand_in", "scaled_loss")

    def forward(*args: Any, labels: Tensor, **others: Any) -> Any:
        outputs = base.base_model(*args, **others)
        hidden = head(outputs.last_hidden_state)
        loss = loss_of_hidden(setup, hidden, layer.weight, layer.bias, labels, scaling)
        return CausalLMOutput(loss=loss, logits=hidden)

    with _forward_of(head, lambda hidden: hidden), _forward_of(base, forward):
        return LossAndLogits(model(**batch, use_cache=False).loss)


def _loss_of(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    if own := part("losses", setup.loss, "stand_in", "loss"):
        made: LossAndLogits = own(setup, hidden, weight, bias, labels)
        return made
    if setup.autocast_dtype:
        lowered = getattr(torch, setup.autocast_dtype)
        hidden, weight = hidden.to(lowered), weight.to(lowered)
        bias = None if bias is None else bias.to(lowered)
    path = _Fused if setup.loss == "fused" else _Chunked
    if setup.loss == "fused" and shifts_logits(setup.transformers):
        rows, labels = shifted(hidden, labels)
    else:
        rows, labels = hidden.flatten(0, -2), _shifted(labels)
    loss: Tensor = path.apply(rows, weight, bias, labels)  # type: ignore[no-untyped-call]
    return LossAndLogits(loss)


def labels_for(base: nn.Module, labels: Tensor) -> Tensor:
    """Labels that the class of a model takes, of those of a language model, (texts, tokens): a
    class of each text, of one label a number, or of each token."""
    kind = type(base).__name__
    if not kind.endswith(("ForTokenClassification", "ForSequenceClassification")):
        return labels
    classes: int = cast(Any, base.config).num_labels
    if kind.endswith("ForTokenClassification"):
        return labels % classes
    of_text = labels[:, 0] % classes
    return of_text.to(cast(torch.dtype, base.dtype)) if classes == 1 else of_text


def contrastive_loss(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The loss of an embedding model, as sentence-transformers trains one: the mean of each text's
    last hidden states, and cross-entropy of each embedding's cosines with those of the whole
    micro-batch, times 20 (InfoNCE; MultipleNegativesRankingLoss' default scale).

    `hidden`: (texts, tokens, width); `mask`: (texts, tokens), 1 for what is no padding. A text's
    positive is its neighbour; of one text itself.
    """
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    weights = mask.unsqueeze(-1).expand_as(hidden).to(hidden.dtype)
    embedding = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    embedding = F.normalize(embedding, dim=-1)
    cosines = embedding @ embedding.T * 20.0
    neighbours = torch.arange(len(hidden), device=hidden.device).roll(1)
    return F.cross_entropy(cosines, neighbours)


def smoothed_loss(model: nn.Module, setup: TrainSetup, output: Any, labels: Tensor) -> Tensor:
    """The loss of transformers' own LabelSmoother, as its Trainer calls it in `compute_loss`.

    Under autocast accelerate has converted the logits to float32 (`convert_outputs_to_fp32`).
    Raises UnbuildableError for a class of models without logits.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.trainer_pt_utils import LabelSmoother

    base, name = within(model)
    if getattr(output, "logits", None) is None:
        raise UnbuildableError(f"{name} returns no logits to smooth; ask about one with a head.")
    if setup.autocast_dtype:
        output.logits = output.logits.float()
    is_causal = type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    smoother = LabelSmoother(epsilon=setup.label_smoothing_factor)
    count = (labels[..., is_causal:] != IGNORED_LABEL).sum()
    loss: Tensor = smoother(output, labels, shift_labels=is_causal, num_items_in_batch=count)
    return loss


def is_of_next_token(base: Any) -> bool:
    """Whether a transformers model makes its loss as causal language models do, of logits that it
    has turned into float32."""
    own: str = base.loss_function.__name__
    return own == "ForCausalLMLoss" and not base.config.is_encoder_decoder


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling `module` runs `forward`; its hooks are called as ever."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _loss_function_of(base: Any, path: Callable[..., Tensor]) -> Iterator[None]:
    """Inside, the transformers model makes its loss by `path`."""
    own = base.loss_function
    base.loss_function = path
    try:
        yield
    finally:
        base.loss_function = own


def _shifted(labels: Tensor) -> Tensor:
    """The label of each token, in one row: the next token's, and none for the last of a sample."""
    return F.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:].contiguous().view(-1)


def _count(labels: Tensor) -> Tensor:
    return (labels != IGNORED_LABEL).sum().float()


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    rows = chunk_rows(hidden.shape[0], *weight.shape)
    return (slice(start, start + rows) for start in range(0, hidden.shape[0], rows))


def _cross_entropy(logits: Tensor, labels: Tensor, scale: Tensor | None = None) -> Tensor:
    """The sum of the rows' losses. The logits are lost; given `scale`, their gradient times `scale`
    stands in their place."""
    wide = logits.float()
    kept, index = (labels != IGNORED_LABEL).float().unsqueeze(1), labels.clamp(min=0).unsqueeze(1)
    wide.sub_(wide.amax(1, keepdim=True))
    chosen = wide.gather(1, index)
    total = wide.exp_().sum(1, keepdim=True)
    loss = ((total.log() - chosen) * kept).sum()
    if scale is not None:
        share = kept * scale
        wide.mul_(share / total)
        wide.scatter_add_(1, index, -share)
        if wide is not logits:
            logits.copy_(wide)
    return loss


class _Gradients:
    """What the chunks' gradients add up to, for the tensors that need one."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]
    ) -> None:
        self._hidden, self._weight = hidden, weight
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight) if needed[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and needed[2] else None

    def add(self, rows: slice, of_logits: Tensor) -> None:
        if self.hidden is not None:
            self.hidden[rows] = of_logits @ self._weight
        if self.weight is not None:
            self.weight.addmm_(of_logits.t(), self._hidden[rows])
        if self.bias is not None:
            self.bias.add_(of_logits.sum(0))

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.hidden, self.weight, self.bias))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> Tensor:
        count = _count(labels)
        total = torch.zeros_like(count)
        for rows in _chunks(hidden, weight):
            total.add_(_cross_entropy(F.linear(hidden[rows], weight, bias), labels[rows]))
        ctx.save_for_backward(hidden, weight, bias, labels, count)
        return total.div_(count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, count = ctx.saved_tensors
        scale = grads[0] / count
        gradients = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        for rows in _chunks(hidden, weight):
            logits = F.linear(hidden[rows], weight, bias)
            _cross_entropy(logits, labels[rows], scale)
            gradients.add(rows, logits)
            del logits
        return *gradients, None


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> Tensor:
        scale = _count(labels).reciprocal_()
        total = torch.zeros_like(scale)
        gradients = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        for rows in _chunks(hidden, weight):
            logits = F.linear(hidden[rows], weight, bias)
            total.add_(_cross_entropy(logits, labels[rows], scale))
            gradients.add(rows, logits)
            del logits
        ctx.save_for_backward(*gradients)
        return total.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made = cast("tuple[Tensor | None, ...]", ctx.saved_tensors)
        return *(None if gradient is None else gradient.mul_(grads[0]) for gradient in made), None
