"""`--explain`: the formula behind each number of one prediction, with the numbers put in. The
arithmetic shown is exact.

A formula is worked out again here from the model's shapes and compared with the predicted number:
what a rule does not account for is shown as a rest, never hidden.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from lora_profiler.model_spec import ModelSpec, Stack
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.prediction import Moment, MomentName, Prediction
from lora_profiler.report import labels
from lora_profiler.report.answer.memory_formulas import (
    Line,
    allocator_lines,
    communication_formula,
    logits_formula,
    loss_definitions,
    persistent_lines,
    saved_lines,
)
from lora_profiler.report.blocks import Block, Table, by_category, heading, paragraph, table
from lora_profiler.report.labels import method_label
from lora_profiler.units import byte_unit, count_text, flops_text, in_unit, percent_text
from lora_profiler.workload import PeftType

LEGEND = "B batch, S sequence, R rank, V vocabulary; tokens = B x S. All bytes are exact integers."


_HEAD_AGAIN = {
    "chunked": "; the head once more",
    "fused": "; the head not at all",
    "trl": "; the head once more",
    "cce": "; the head once more",
}
"""What backward does with the head besides, by loss."""


def explain_blocks(answer: Answer) -> list[Block]:
    """The formulas of one prediction, a line each, then what is alive at each moment, and what each
    lever does to the peak."""
    prediction, levers = answer.prediction, answer.levers
    setup = prediction.workload.setup
    rank = f", R = {setup.lora.r}" if setup.lora and setup.lora.has_rank else ""
    sizes = f"B = {setup.batch_size}, S = {count_text(setup.rank_seq_len)}{rank}"
    lines = [f"{LEGEND} Here {sizes}."]
    for title, found in (
        ("parameters", parameter_lines(prediction)),
        ("persistent", persistent_lines(prediction)),
        ("saved for backward", saved_lines(prediction)),
        ("compute per micro-batch", compute_lines(prediction)),
        ("in CUDA's caching allocator, simulated over three steps", allocator_lines(prediction)),
    ):
        said = [f"  {what}: {value} = {formula}" for what, value, formula in found]
        lines += [title, *said] if said else []
    blocks: list[Block] = [
        heading(f"How {method_label(prediction)} was worked out"),
        paragraph(*lines),
        moments_table(prediction),
    ]
    told = labels.MOMENT_DEFINITIONS | loss_definitions(setup)
    words = [f"{labels.MOMENT_LABELS[m]}: {told[m]}" for m in _steady(prediction)]
    if logits := logits_formula(prediction):
        words.append(f"logits and loss at the peak: {logits}")
    if shared := communication_formula(answer):
        words.append(f"communication at the peak: {shared}")
    blocks.append(paragraph(*words))
    return [*blocks, levers_table(prediction, levers)] if levers else blocks


def _steady(prediction: Prediction) -> dict[MomentName, Moment]:
    return {m.moment: m for m in prediction.moments if m.step == "steady"}


def moments_table(prediction: Prediction) -> Table:
    """Moments by category, all in one unit: each row sums to its moment's total."""
    rows = [
        ((labels.MOMENT_LABELS[name],), moment.bytes, name == prediction.peak.moment)
        for name, moment in _steady(prediction).items()
    ]
    return by_category(f"Alive at each moment, {method_label(prediction)}", ("",), rows)


def levers_table(prediction: Prediction, levers: Sequence[Lever]) -> Table:
    """One row a single change that lowers the peak, each predicted anew."""
    unit, size = byte_unit(prediction.peak.total_bytes)
    return table(
        levers,
        (
            ("change", lambda lever: lever.name),
            ("option", lambda lever: lever.option),
            ("its price", lambda lever: lever.price),
            ("peak then", lambda lever: in_unit(lever.peak_bytes, size)),
            ("saved", lambda lever: in_unit(lever.saved_bytes, size)),
            ("share", lambda lever: percent_text(lever.saved_fraction)),
        ),
        title=f"What lowers the peak, {method_label(prediction)}, each predicted anew, {unit}",
        left=3,
    )


def parameter_lines(prediction: Prediction) -> Iterator[Line]:
    model, parameters = prediction.workload.model, prediction.parameters
    yield "model", count_text(parameters.base), _model_formula(model)
    if parameters.adapter:
        yield "adapters", count_text(parameters.adapter), _adapter_formula(prediction)
    if parameters.trainable < parameters.base:
        fewer = f"1 - {count_text(parameters.trainable)} / {count_text(parameters.base)}"
        yield "fewer trained", percent_text(parameters.reduction_vs_full), fewer


def _model_formula(model: ModelSpec) -> str:
    """'32 x 218,112,000 in model.layers + 525,336,576 in model.embed_tokens + ...'."""
    parts: list[str] = []
    for part in model.parts:
        if isinstance(part, Stack):
            sizes = [sum(m.num_parameters for m in kind) for kind in part.kinds]
            for size, count in Counter(sizes[kind] for kind in part.order).items():
                parts.append(f"{count} x {count_text(size)} in {part.name}")
        elif part.num_parameters:
            parts.append(f"{count_text(part.num_parameters)} in {part.name}")
    if len(parts) > 6:
        parts = [*parts[:5], f"the rest of {len(parts)} parts"]
    return " + ".join(parts)


_ADAPTER_FORMULAS: Mapping[PeftType, str] = {
    "vera": "out + R of every adapted layer; A and B, which all share, are frozen",
    "ia3": "out of every adapted layer, in of a feedforward one",
    "oft": "in / w x w (w - 1) / 2 of every adapted layer, w its width of a rotation",
}


def _adapter_formula(prediction: Prediction) -> str:
    lora = prediction.workload.setup.lora
    assert lora is not None
    if lora.peft_type != "lora":
        return _ADAPTER_FORMULAS[lora.peft_type]
    widths, rest = divmod(prediction.parameters.adapter, lora.r)
    if rest or lora.modules_to_save:
        copies = "full copies of what modules_to_save names"
        return f"R x (in + out) of every adapted layer, and {copies}"
    return f"R x (in + out) summed over adapted layers = {lora.r} x {count_text(widths)}"


def compute_lines(prediction: Prediction) -> Iterator[Line]:
    flops = prediction.flops
    if flops is None:
        return
    setup = prediction.workload.setup
    model, adapters = linear_flops(prediction)
    rest = flops.forward - model - adapters
    forward = f"linear layers 2 x tokens x in x out = {flops_text(model)}"
    if adapters:
        forward += f" + adapters 2 x tokens x R x (in + out) = {flops_text(adapters)}"
    if rest > 0:
        modules = (module for _, module in prediction.workload.model.modules())
        has_experts = any(len(w.shape) == 3 for module in modules for w in module.weights)
        others = ["attention", *(["experts"] if has_experts else [])]
        others += ["the head's gradients"] if setup.loss == "fused" else []
        others += ["the reference's pass"] if setup.runs_reference else []
        forward += f" + {' and '.join(others)} {flops_text(rest)}"
    forward = forward if rest >= 0 else "2 x multiply-adds of every operation"
    yield "forward", flops_text(flops.forward), forward
    backward = "each matrix twice: for its input's gradient and for its own"
    if setup.lora is not None:
        frozen = "frozen matrices once, for their input's gradient"
        backward = f"{frozen}; adapters twice; nothing below the first adapter"
    times = f"{_HEAD_AGAIN.get(setup.loss, '')}, {flops.backward / flops.forward:.2f} x forward"
    yield "backward", flops_text(flops.backward), backward + times
    if flops.recompute:
        again = "checkpointing runs each layer forward again, up to the last tensor needed"
        yield "recompute", flops_text(flops.recompute), again
    per_token = f"{flops_text(flops.total)} / {count_text(flops.tokens)} tokens"
    yield "per token", flops_text(flops.per_token), per_token


def linear_flops(prediction: Prediction) -> tuple[int, int]:
    """Forward FLOPs of the linear layers, which every token passes, and of their adapters; packed
    experts are not among them."""
    setup, modules = prediction.workload.setup, prediction.workload.model.modules()
    tokens = setup.batch_size * setup.rank_seq_len
    weights = sum(m.weight("weight").numel for _, m in modules if m.is_linear)
    linear = [c for c in prediction.layers if c.in_features is not None and setup.lora is not None]
    trained = ((c.num_trainable_parameters, c.num_parameters) for c in linear)
    adapted = sum(count for count, whole in trained if count != whole)
    return 2 * tokens * weights, 2 * tokens * adapted
