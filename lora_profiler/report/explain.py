"""`--explain`: the formula behind each number of one prediction, with the numbers put in. The
arithmetic shown is exact.

A formula is worked out again here from the model's shapes and compared with the predicted number:
what a rule does not account for is shown as a rest, never hidden.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from lora_profiler.model_spec import ModelSpec, Stack
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.prediction import CATEGORIES, LayerCost, Moment, MomentName, Prediction
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, Table, heading, paragraph
from lora_profiler.report.method_label import method_label
from lora_profiler.units import byte_unit, bytes_text, count_text, flops_text, in_unit, percent_text
from lora_profiler.workload import DEEPSPEED_ZERO, DTYPE_BYTES, FULLY_SHARDED, Sharding, TrainSetup

LEGEND = "B batch, S sequence, R rank, V vocabulary; tokens = B x S. All bytes are exact integers."

_OPTIMIZERS = {
    "adamw": "AdamW keeps two states per trained weight, each in that weight's dtype",
    "adamw_8bit": (
        "8-bit AdamW keeps two bytes per trained weight and scales; tensors below 4,096 weights"
        " stay 32-bit"
    ),
    "paged_adamw_8bit": (
        "paged 8-bit AdamW keeps two bytes per trained weight in unified memory where a tensor has"
        " 100,000 weights or more, and scales on the card; tensors below 4,096 weights stay 32-bit"
    ),
    "paged_adamw_32bit": (
        "paged AdamW keeps two float32 states per trained weight, in unified memory where a tensor"
        " has 100,000 weights or more"
    ),
    "adamw_torch_8bit": (
        "torchao's 8-bit AdamW keeps two bytes per trained weight, scales per 256 weights and two"
        " code books a tensor; tensors below 4,096 weights keep whole states"
    ),
    "adamw_torch_4bit": (
        "torchao's 4-bit AdamW keeps one byte per trained weight, scales per 128 weights and two"
        " code books a tensor; tensors below 4,096 weights keep whole states"
    ),
    "lion": "Lion keeps one float32 state per trained weight",
    "lion_8bit": (
        "8-bit Lion keeps one byte per trained weight and scales; tensors below 4,096 weights stay"
        " 32-bit"
    ),
    "paged_lion_8bit": (
        "paged 8-bit Lion keeps one byte per trained weight in unified memory where a tensor has"
        " 100,000 weights or more, and scales on the card; tensors below 4,096 weights stay 32-bit"
    ),
    "paged_lion_32bit": (
        "paged Lion keeps one float32 state per trained weight, in unified memory where a tensor"
        " has 100,000 weights or more"
    ),
    "muon": "Muon keeps one state per trained weight, in that weight's dtype",
    "sgd": "SGD without momentum keeps nothing",
    "adafactor": "Adafactor keeps one row and one column of sums per trained matrix",
}
Line = tuple[str, str, str]
"""(what, its value, the formula)."""


_HEAD_AGAIN = {
    "plain": "",
    "chunked": "; the head once more",
    "fused": "; the head not at all",
    "trl": "; the head once more",
    "cce": "; the head once more",
}
"""What backward does with the head besides, by loss."""
_ALL_LOGITS = {
    "torchtune": "log-probabilities of all labels' tokens in float32, and the logits of an eighth",
    "torchtune-chunked": "all logits or their gradient, and log-probabilities in float32",
    "litgpt": "logits in float32 where they are held, and log-probabilities in float32",
    "triton": "all logits or their gradient, and in float32",
}
"""What lives in the loss whose path has something for each logit."""
_IN_CHUNKS: dict[MomentName, str] = {
    "end_of_forward": (
        "every saved activation, the logits of some tokens with their float32 copy, and gradients"
        " made so far"
    ),
    "loss_backward": (
        "every saved activation, and the gradients of the last hidden state and of the head"
    ),
}
"""What is alive where the head multiplies some tokens at a time."""


def explain_blocks(answer: Answer) -> list[Block]:
    """The formulas of one prediction, a line each, then what is alive at each moment, and what each
    lever does to the peak."""
    prediction, levers = answer.prediction, answer.levers
    setup = prediction.workload.setup
    sizes = f"B = {setup.batch_size}, S = {count_text(setup.seq_len)}" + (
        f", R = {setup.lora.r}" if setup.lora else ""
    )
    lines = [f"{LEGEND} Here {sizes}."]
    for title, found in (
        ("parameters", _parameters(prediction)),
        ("persistent", _persistent(prediction)),
        ("saved for backward", _saved(prediction)),
        ("compute per micro-batch", _compute(prediction)),
        ("in CUDA's caching allocator, simulated over three steps", _allocator(prediction)),
    ):
        said = [f"  {what}: {value} = {formula}" for what, value, formula in found]
        lines += [title, *said] if said else []
    blocks: list[Block] = [
        heading(f"How {method_label(prediction)} was worked out"),
        paragraph(*lines),
        moments_table(prediction),
    ]
    told = labels.MOMENT_DEFINITIONS | _loss_definitions(setup)
    words = [f"{labels.MOMENT_LABELS[m]}: {told[m]}" for m in _steady(prediction)]
    logits = _logits_formula(prediction)
    shared = _communication_formula(answer)
    blocks.append(
        paragraph(
            *words,
            *([f"logits and loss at the peak: {logits}"] if logits else []),
            *([f"communication at the peak: {shared}"] if shared else []),
        )
    )
    return [*blocks, levers_table(prediction, levers)] if levers else blocks


def _steady(prediction: Prediction) -> dict[MomentName, Moment]:
    return {m.moment: m for m in prediction.moments if m.step == "steady"}


def moments_table(prediction: Prediction) -> Table:
    """Moments by category, all in one unit: each row sums to its moment's total."""
    moments = _steady(prediction)
    categories = [c for c in CATEGORIES if any(m.bytes.get(c) for m in moments.values())]
    unit, size = byte_unit(prediction.peak.total_bytes)
    rows = [
        Row(
            cells=(
                labels.MOMENT_LABELS[name],
                *(in_unit(moment.bytes.get(c, 0), size) for c in categories),
                in_unit(moment.total_bytes, size),
            ),
            kind="peak" if name == prediction.peak.moment else "plain",
        )
        for name, moment in moments.items()
    ]
    columns = ("", *(labels.CATEGORY_SHORT[c] for c in categories), "sum")
    return Table(
        title=f"Alive at each moment, {method_label(prediction)}, {unit}",
        columns=columns,
        rows=tuple(rows),
    )


def levers_table(prediction: Prediction, levers: Sequence[Lever]) -> Table:
    """One row a single change that lowers the peak, each predicted anew."""
    unit, size = byte_unit(prediction.peak.total_bytes)
    rows = [
        Row(
            cells=(
                lever.name,
                lever.option,
                lever.price,
                in_unit(lever.peak_bytes, size),
                in_unit(lever.saved_bytes, size),
                percent_text(lever.saved_fraction),
            )
        )
        for lever in levers
    ]
    title = f"What lowers the peak, {method_label(prediction)}, each predicted anew, {unit}"
    return Table(
        title=title,
        columns=("change", "option", "its price", "peak then", "saved", "share"),
        rows=tuple(rows),
        left=3,
    )


def _parameters(prediction: Prediction) -> Iterator[Line]:
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


def _adapter_formula(prediction: Prediction) -> str:
    lora = prediction.workload.setup.lora
    assert lora is not None
    widths, rest = divmod(prediction.parameters.adapter, lora.r)
    if rest or lora.modules_to_save:
        return (
            "R x (in + out) of every adapted layer, and full copies of what modules_to_save names"
        )
    return f"R x (in + out) summed over adapted layers = {lora.r} x {count_text(widths)}"


def _persistent(prediction: Prediction) -> Iterator[Line]:
    setup, parameters, held = (
        prediction.workload.setup,
        prediction.parameters,
        prediction.persistent_bytes,
    )
    weights = held.get("parameters", 0)
    if setup.quantization is None:
        yield (
            "weights",
            bytes_text(weights),
            _product(weights, parameters.base, "weights", setup.dtype, _cut(setup, "weights")),
        )
    else:
        is_int8 = setup.quantization.quant_type == "int8"
        yield (
            "weights",
            bytes_text(weights),
            f"{'a byte a weight' if is_int8 else 'two 4-bit weights a byte'} in each linear layer;"
            " everything else in its own dtype",
        )
        per_output, plain, nested = (
            "4 B an output, in each 8-bit layer",
            "4 B per 64 weights, and 64 B, in each 4-bit layer",
            "1 B per 64 weights, 4 B per 16,384, and 1,092 B, in each 4-bit layer",
        )
        yield (
            "constants",
            bytes_text(held.get("quantization_state", 0)),
            per_output if is_int8 else nested if setup.quantization.is_nested else plain,
        )
    trained = setup.dtype if setup.lora is None else setup.lora.adapter_dtype
    if held.get("adapters"):
        yield (
            "adapters",
            bytes_text(held["adapters"]),
            _product(
                held["adapters"],
                parameters.adapter,
                "adapter weights",
                trained,
                _cut(setup, "weights"),
            ),
        )
    gradients = held.get("gradients", 0)
    yield (
        "gradients",
        bytes_text(gradients),
        _product(
            gradients, parameters.trainable, "trained weights", trained, _cut(setup, "gradients")
        ),
    )
    yield (
        "optimizer",
        bytes_text(held.get("optimizer_states", 0)),
        _optimizer_formula(prediction, trained),
    )


_CUT: dict[str, tuple[Sharding, ...]] = {
    "weights": ("zero3", *FULLY_SHARDED, "tp"),
    "gradients": (*DEEPSPEED_ZERO, *FULLY_SHARDED, "tp"),
    "states": ("zero1", *DEEPSPEED_ZERO, *FULLY_SHARDED, "tp"),
}
_CUT_WORDS: dict[Sharding, str] = {
    "zero1": "dealt out over {} ranks, each parameter whole to one",
    "zero2": "dealt out over {} ranks",
    "zero3": "dealt out over {} ranks",
    "fsdp": "of each tensor the first of {} chunks",
    "fsdp-no-reshard": "of each tensor the first of {} chunks",
    "tp": "the linear layers' cut over {} ranks",
}


def _cut(setup: TrainSetup, what: str) -> str:
    """How ranks share weights, gradients or states, in words; nothing where each has them whole."""
    return (
        _CUT_WORDS[setup.sharding].format(setup.world_size) if setup.sharding in _CUT[what] else ""
    )


def _product(total: int, count: int, what: str, dtype: str, cut: str) -> str:
    """'8,030,261,248 weights x 2 B (bfloat16)', and a rest where that is not all, or how ranks
    share it."""
    size = DTYPE_BYTES[dtype]
    text = f"{count_text(count)} {what} x {size} B ({dtype})"
    if cut:
        return f"{text}, {cut}"
    rest = total - count * size
    return (
        text
        if rest == 0
        else f"{text} {'+' if rest > 0 else '-'} {count_text(abs(rest))} B of other dtypes"
    )


def _optimizer_formula(prediction: Prediction, trained: str) -> str:
    optimizer, states = (
        prediction.workload.setup.optimizer,
        prediction.persistent_bytes.get("optimizer_states", 0),
    )
    if optimizer != "adamw":
        return _OPTIMIZERS[optimizer]
    product = 2 * prediction.parameters.trainable * DTYPE_BYTES[trained]
    cut = _cut(prediction.workload.setup, "states")
    rest = f" + {count_text(states - product)} B of step counters" if states > product else ""
    weights = (
        f"{count_text(prediction.parameters.trainable)} trained weights x {DTYPE_BYTES[trained]} B"
    )
    return f"2 x {weights} ({_OPTIMIZERS[optimizer]}){f', {cut}' if cut else rest}"


def _saved(prediction: Prediction) -> Iterator[Line]:
    """What each layer of the stack keeps, a line for each distinct sum, then what is kept outside
    the layers."""
    saved = prediction.saved_activation_bytes
    if saved is None:
        return
    tokens = prediction.workload.setup.batch_size * prediction.workload.setup.seq_len
    stacks = [part.name for part in prediction.workload.model.parts if isinstance(part, Stack)]
    by_layer: Counter[tuple[str, int]] = Counter()
    for cost in prediction.layers:
        if place := _layer_of(cost, stacks):
            by_layer[place] += cost.saved_activation_bytes
    sums: dict[tuple[str, int], list[int]] = {}
    for (stack, index), size in by_layer.items():
        if size:
            sums.setdefault((stack, size), []).append(index)
    for (stack, size), indices in sums.items():
        each = f"{count_text(size)} B"
        per_token = (
            f", {count_text(size // tokens)} B a token" if size % tokens < min(tokens, 4096) else ""
        )
        which = f"layer {indices[0]}" if len(indices) == 1 else f"{len(indices)} layers"
        yield (
            which,
            bytes_text(size * len(indices)),
            f"{len(indices)} x {each} in {stack}{per_token}",
        )
    outside = saved - sum(by_layer.values())
    kept = {
        "plain": "float32 log-probabilities, 4 B x tokens x V; final norm, rotary tables, labels",
        "chunked": "the last hidden state; final norm, rotary tables, labels",
        "fused": "the gradients that the loss has made; final norm, rotary tables",
        "trl": "the last hidden state, labels, two numbers a token; final norm, rotary tables",
        "cce": "the last hidden state, a number a token and a word; final norm, rotary tables",
        "triton": "the logits in float32, 4 B x tokens x V; final norm, rotary tables",
    }
    yield "elsewhere", bytes_text(outside), kept.get(prediction.workload.setup.loss, kept["plain"])
    yield (
        "together",
        f"{bytes_text(saved)}, {count_text(saved)} B",
        "every tensor storage that autograd keeps, once; no parameters",
    )


def _loss_definitions(setup: TrainSetup) -> dict[MomentName, str]:
    """The moments of a loss path that has no number for each logit, in words of their own."""
    return {} if setup.loss == "plain" or setup.loss in _ALL_LOGITS else _IN_CHUNKS


def _layer_of(cost: LayerCost, stacks: list[str]) -> tuple[str, int] | None:
    for stack in stacks:
        if cost.name.startswith(f"{stack}."):
            index = cost.name[len(stack) + 1 :].split(".", 1)[0]
            return (stack, int(index)) if index.isdecimal() else None
    return None


def _logits_formula(prediction: Prediction) -> str:
    """The logits' part of the peak as bytes per logit, where the peak lies in the loss."""
    size = prediction.peak.bytes.get("logits_and_loss", 0)
    vocabulary = prediction.workload.model.config.get("vocab_size")
    if not isinstance(vocabulary, int) or prediction.peak.moment not in (
        "end_of_forward",
        "loss_backward",
    ):
        return ""
    setup = prediction.workload.setup
    if setup.loss in _ALL_LOGITS:
        return f"{bytes_text(size)}, {_ALL_LOGITS[setup.loss]}"
    if setup.loss != "plain":
        return f"{bytes_text(size)}, the logits of a few tokens and gradients made so far"
    each, rest = divmod(size, setup.batch_size * setup.seq_len * vocabulary)
    return (
        f"{each} B x {setup.batch_size} x {count_text(setup.seq_len)} x {count_text(vocabulary)}"
        f" logits + {count_text(rest)} B"
    )


_PART_WORDS: dict[str, str] = {
    "root": "the root's gathered weights (embedding, last norm, head)",
    "layers": "gathered weights of layers",
    "buffer": "the buffer of the last layer's all-gather",
    "buckets": "buckets of gradients",
}


def _communication_formula(answer: Answer) -> str:
    """What is alive at the peak for other ranks' sake, part by part, where the moment tells."""
    parts = answer.shared_bytes.items()
    return " + ".join(f"{bytes_text(size)} {_PART_WORDS[part]}" for part, size in parts)


def _compute(prediction: Prediction) -> Iterator[Line]:
    flops = prediction.flops
    if flops is None:
        return
    setup = prediction.workload.setup
    model, adapters = _linear_flops(prediction)
    rest = flops.forward - model - adapters
    forward = f"linear layers 2 x tokens x in x out = {flops_text(model)}"
    if adapters:
        forward += f" + adapters 2 x tokens x R x (in + out) = {flops_text(adapters)}"
    if rest > 0:
        others = ["attention", *(["experts"] if _has_experts(prediction) else [])]
        others += ["the head's gradients"] if setup.loss == "fused" else []
        forward += f" + {' and '.join(others)} {flops_text(rest)}"
    yield (
        "forward",
        flops_text(flops.forward),
        forward if rest >= 0 else "2 x multiply-adds of every operation",
    )
    yield (
        "backward",
        flops_text(flops.backward),
        _backward_words(setup) + f", {flops.backward / flops.forward:.2f} x forward",
    )
    if flops.recompute:
        yield (
            "recompute",
            flops_text(flops.recompute),
            "checkpointing runs each layer forward again, up to the last tensor needed",
        )
    per_token = f"{flops_text(flops.total)} / {count_text(flops.tokens)} tokens"
    yield "per token", flops_text(flops.per_token), per_token


def _allocator(prediction: Prediction) -> Iterator[Line]:
    """Nothing where the engine has no tape to replay. The context is left out: it differs by
    card."""
    memory = prediction.device_memory
    if memory is None:
        return
    yield (
        "allocated",
        bytes_text(memory.allocated_bytes),
        "whole blocks: requests rounded up to 512 B, and tails not split off",
    )
    yield (
        "reserved",
        bytes_text(memory.reserved_bytes),
        "segments taken from the driver, holes included, where there is always room",
    )
    yield (
        "reserved, expandable",
        bytes_text(memory.expandable_reserved_bytes),
        "the same with expandable_segments:True",
    )
    yield (
        "at least",
        bytes_text(memory.smallest_bytes),
        "the least with which all steps end, after giving segments back",
    )


def _has_experts(prediction: Prediction) -> bool:
    """Whether layers of the model hold matrices that only some tokens pass."""
    return any(
        len(w.shape) == 3
        for _, module in prediction.workload.model.modules()
        for w in module.weights
    )


def _backward_words(setup: TrainSetup) -> str:
    again = _HEAD_AGAIN.get(setup.loss, "")
    if setup.lora is None:
        return f"each matrix twice: for its input's gradient and for its own{again}"
    return (
        "frozen matrices once, for their input's gradient; adapters twice; nothing below the first"
        f" adapter{again}"
    )


def _linear_flops(prediction: Prediction) -> tuple[int, int]:
    """Forward FLOPs of the linear layers, which every token passes, and of their adapters; packed
    experts are not among them."""
    tokens = prediction.workload.setup.batch_size * prediction.workload.setup.seq_len
    linear = [cost for cost in prediction.layers if cost.in_features is not None]
    weights = sum(
        m.weight("weight").numel for _, m in prediction.workload.model.modules() if m.is_linear
    )
    adapted = [
        c
        for c in linear
        if prediction.workload.setup.lora and c.num_trainable_parameters != c.num_parameters
    ]
    return 2 * tokens * weights, 2 * tokens * sum(c.num_trainable_parameters for c in adapted)
