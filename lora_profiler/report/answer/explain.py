"""`--explain`: the formula behind each number of one prediction, with the numbers put in: what
there is and what stays, what is kept for backward, the logits, FLOPs, what is there for other
ranks, and the allocator. The arithmetic shown is exact.

A formula is worked out again here from the model's shapes and compared with the predicted number:
what a rule does not account for is shown as a rest, never hidden.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from lora_profiler.memory.prediction import Moment, MomentName, Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.question import workload
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.base import base_kind
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import LayerStack, ModelSpec
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Table, by_category, heading, paragraph, table
from lora_profiler.report.labels import PERSISTENT_LABELS, method_label, told
from lora_profiler.units import byte_unit, bytes_text, count_text, flops_text, in_unit, percent_text

LEGEND = "B batch, S sequence, R rank, V vocabulary; tokens = B x S. All bytes are exact integers."
Line = tuple[str, str, str]
"""(what, its value, the formula)."""


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
    in_chunks = setup.loss != "plain" and not loss_facts(setup.loss).logits
    definitions = labels.MOMENT_DEFINITIONS | (_IN_CHUNKS if in_chunks else {})
    words = [f"{labels.MOMENT_LABELS[m]}: {definitions[m]}" for m in _steady(prediction)]
    if logits := logits_formula(prediction):
        words.append(f"logits and loss at the peak: {logits}")
    if shared := answer.shared_bytes.items():
        parts = " + ".join(f"{bytes_text(size)} {_PART_WORDS[part]}" for part, size in shared)
        words.append(f"communication at the peak: {parts}")
    blocks.append(paragraph(*words))
    return [*blocks, levers_table(prediction, levers)] if levers else blocks


def _steady(prediction: Prediction) -> dict[MomentName, Moment]:
    return {m.moment: m for m in prediction.moments if m.step == "steady"}


def moments_table(prediction: Prediction) -> Table:
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
    parameters = prediction.parameters
    yield "model", count_text(parameters.base), _model_formula(prediction.workload.model)
    if parameters.adapter:
        yield "adapters", count_text(parameters.adapter), _adapter_formula(prediction)
    if parameters.trainable < parameters.base:
        fewer = f"1 - {count_text(parameters.trainable)} / {count_text(parameters.base)}"
        yield "fewer trained", percent_text(parameters.reduction_vs_full), fewer


def _model_formula(model: ModelSpec) -> str:
    """'32 x 218,112,000 in model.layers + 525,336,576 in model.embed_tokens + ...'."""
    parts: list[str] = []
    for part in model.parts:
        if isinstance(part, LayerStack):
            sizes = [sum(m.num_parameters for m in kind) for kind in part.kinds]
            for size, count in Counter(sizes[kind] for kind in part.order).items():
                parts.append(f"{count} x {count_text(size)} in {part.name}")
        elif part.num_parameters:
            parts.append(f"{count_text(part.num_parameters)} in {part.name}")
    if len(parts) > 6:
        parts[5:] = [f"the rest of {len(parts)} parts"]
    return " + ".join(parts)


def _adapter_formula(prediction: Prediction) -> str:
    lora = prediction.workload.setup.lora
    assert lora is not None
    if formula := adapter_method(lora.peft_type).formula:
        return formula
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
    again = loss_facts(setup.loss).head_again
    times = f"{again and f'; {again}'}, {flops.backward / flops.forward:.2f} x forward"
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


_IN_CHUNKS: Final = told("""
end_of_forward: every saved activation, the logits of some tokens with their float32 copy, and
    gradients made so far
loss_backward: every saved activation, and the gradients of the last hidden state and of the head
""")
"""What is alive where the head multiplies some tokens at a time."""


def persistent_lines(prediction: Prediction) -> Iterator[Line]:
    setup, parameters = prediction.workload.setup, prediction.parameters
    held = {name: prediction.persistent_bytes.get(name, 0) for name in PERSISTENT_LABELS}
    base, trained = setup.quantization, setup.dtype
    if setup.lora is not None:
        trained = setup.lora.adapter_dtype

    def product(part: str, count: int, what: str, dtype: str) -> str:
        """'8,030,261,248 weights x 2 B (bfloat16)', and a rest where that is not all, or how ranks
        share it."""
        size = workload.DTYPE_BYTES[dtype]
        cut = _cut(setup, "gradients" if part == "gradients" else "weights")
        text, rest = f"{count_text(count)} {what} x {size} B ({dtype})", held[part] - count * size
        if cut or not rest:
            return f"{text}, {cut}" if cut else text
        return f"{text} {'+' if rest > 0 else '-'} {count_text(abs(rest))} B of other dtypes"

    sizes = {name: bytes_text(size) for name, size in held.items()}
    if base is None:
        weights = product("parameters", parameters.base, "weights", setup.dtype)
        yield "weights", sizes["parameters"], weights
    else:
        packed, constants = base_kind(base.quant_type).stores
        if base.is_nested:
            constants = "1 B per 64 weights, 4 B per 16,384, and 1,092 B, in each 4-bit layer"
        stored = f"{packed} in each linear layer; everything else in its own dtype"
        yield "weights", sizes["parameters"], stored
        yield "constants", sizes["quantization_state"], constants
    if held["adapters"]:
        adapters = product("adapters", parameters.adapter, "adapter weights", trained)
        yield "adapters", sizes["adapters"], adapters
    gradients = product("gradients", parameters.trainable, "trained weights", trained)
    yield "gradients", sizes["gradients"], gradients
    optimizer = optimizer_facts(setup.optimizer).keeps
    if setup.optimizer == "adamw":
        count, size = parameters.trainable, workload.DTYPE_BYTES[trained]
        over, cut = held["optimizer_states"] - 2 * count * size, _cut(setup, "states")
        rest = f" + {count_text(over)} B of step counters" if over > 0 else ""
        weights = f"{count_text(count)} trained weights x {size} B"
        optimizer = f"2 x {weights} ({optimizer}){f', {cut}' if cut else rest}"
    yield "optimizer", sizes["optimizer_states"], optimizer


_CUT: dict[str, tuple[workload.Sharding, ...]] = {
    "weights": ("zero3", *workload.FULLY_SHARDED, "tp"),
    "gradients": ("zero2", "zero3", *workload.FULLY_SHARDED, "tp"),
    "states": ("zero1", *workload.DEEPSPEED_ZERO, *workload.FULLY_SHARDED, "tp"),
}
_CUT_WORDS: dict[workload.Sharding, str] = {
    "zero1": "dealt out over {} ranks, each parameter whole to one",
    **dict.fromkeys(workload.DEEPSPEED_ZERO, "dealt out over {} ranks"),
    "fsdp": "of each tensor the first of {} chunks",
    "fsdp-no-reshard": "of each tensor the first of {} chunks",
    "fsdp1": "of each unit's flat parameter one of {} parts",
    "fsdp1-no-prefetch": "of each unit's flat parameter one of {} parts",
    "tp": "all but norms' cut over {} ranks",
}


def _cut(setup: workload.TrainSetup, what: str) -> str:
    """How ranks share weights, gradients or states, in words; nothing where each has them whole."""
    is_cut = setup.sharding in _CUT[what] and setup.world_size > 1
    return _CUT_WORDS[setup.sharding].format(setup.world_size) if is_cut else ""


def saved_lines(prediction: Prediction) -> Iterator[Line]:
    """What each layer of the stack keeps, a line for each distinct sum, then what lies outside."""
    saved = prediction.saved_activation_bytes
    if saved is None:
        return
    setup, model = prediction.workload.setup, prediction.workload.model
    tokens = setup.batch_size * setup.rank_seq_len
    stacks = [part.name for part in model.parts if isinstance(part, LayerStack)]
    by_layer: Counter[tuple[str, int]] = Counter()
    for cost in prediction.layers:
        stack = next((name for name in stacks if cost.name.startswith(f"{name}.")), "")
        index = cost.name.removeprefix(f"{stack}.").split(".", 1)[0]
        if stack and index.isdecimal():
            by_layer[stack, int(index)] += cost.saved_activation_bytes
    sums: dict[tuple[str, int], list[int]] = {}
    for (stack, layer), size in by_layer.items():
        if size:
            sums.setdefault((stack, size), []).append(layer)
    for (stack, size), indices in sums.items():
        count, whole = len(indices), size % tokens < min(tokens, 4096)
        per_token = f", {count_text(size // tokens)} B a token" if whole else ""
        which = f"layer {indices[0]}" if count == 1 else f"{count} layers"
        formula = f"{count} x {count_text(size)} B in {stack}{per_token}"
        yield which, bytes_text(size * count), formula
    outside = saved - sum(by_layer.values())
    kept = loss_facts(prediction.workload.setup.loss).kept or loss_facts("plain").kept
    yield "elsewhere", bytes_text(outside), kept
    every = "every tensor storage that autograd keeps, once; no parameters"
    yield "together", f"{bytes_text(saved)}, {count_text(saved)} B", every


def logits_formula(prediction: Prediction) -> str:
    """The logits' part of the peak as bytes per logit, where the peak lies in the loss."""
    size = prediction.peak.bytes.get("logits_and_loss", 0)
    vocabulary = prediction.workload.model.config.get("vocab_size")
    if not isinstance(vocabulary, int) or prediction.peak.moment not in _IN_CHUNKS:
        return ""
    setup = prediction.workload.setup
    if logits := loss_facts(setup.loss).logits:
        return f"{bytes_text(size)}, {logits}"
    if setup.loss != "plain":
        return f"{bytes_text(size)}, the logits of a few tokens and gradients made so far"
    each, rest = divmod(size, setup.batch_size * setup.rank_seq_len * vocabulary)
    sizes = f"{setup.batch_size} x {count_text(setup.rank_seq_len)} x {count_text(vocabulary)}"
    return f"{each} B x {sizes} logits + {count_text(rest)} B"


_PART_WORDS: dict[str, str] = {
    "root": "the root's gathered weights (embedding, last norm, head)",
    "layers": "gathered weights of layers",
    "buffer": "the buffer of the last layer's all-gather",
    "buckets": "buckets of gradients",
}


def allocator_lines(prediction: Prediction) -> Iterator[Line]:
    """Nothing where the engine has no tape to replay. The context is left out: it differs by
    card."""
    memory = prediction.device_memory
    if memory is None:
        return
    expandable = "the same with expandable_segments:True"
    blocks = "whole blocks: requests rounded up to 512 B, and tails not split off"
    segments = "segments taken from the driver, holes included, where there is always room"
    least = "the least with which all steps end, after giving segments back"
    yield "allocated", bytes_text(memory.allocated_bytes), blocks
    yield "reserved", bytes_text(memory.reserved_bytes), segments
    yield "reserved, expandable", bytes_text(memory.expandable_reserved_bytes), expandable
    yield "at least", bytes_text(memory.smallest_bytes), least
