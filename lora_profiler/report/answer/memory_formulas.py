"""The formulas behind the memory of a prediction, with the numbers put in: what stays, what is kept
for backward, the logits, what is there for other ranks, and the allocator."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from lora_profiler.model_spec import Stack
from lora_profiler.planning.answers import Answer
from lora_profiler.prediction import Prediction
from lora_profiler.report.labels import PERSISTENT_LABELS, told
from lora_profiler.support.bases import BASES
from lora_profiler.units import bytes_text, count_text
from lora_profiler.workload import DEEPSPEED_ZERO, DTYPE_BYTES, FULLY_SHARDED, Sharding, TrainSetup

_OPTIMIZERS: Final = told("""
adamw: AdamW keeps two states per trained weight, each in that weight's dtype
adamw_8bit: 8-bit AdamW keeps two bytes per trained weight and scales; tensors below 4,096 weights
    stay 32-bit
paged_adamw_8bit: paged 8-bit AdamW keeps two bytes per trained weight in unified memory where a
    tensor has 100,000 weights or more, and scales on the card; tensors below 4,096 weights stay
    32-bit
paged_adamw_32bit: paged AdamW keeps two float32 states per trained weight, in unified memory
    where a tensor has 100,000 weights or more
adamw_torch_8bit: torchao's 8-bit AdamW keeps two bytes per trained weight, scales per 256 weights
    and two code books a tensor; tensors below 4,096 weights keep whole states
adamw_torch_4bit: torchao's 4-bit AdamW keeps one byte per trained weight, scales per 128 weights
    and two code books a tensor; tensors below 4,096 weights keep whole states
lion: Lion keeps one float32 state per trained weight
lion_8bit: 8-bit Lion keeps one byte per trained weight and scales; tensors below 4,096 weights
    stay 32-bit
paged_lion_8bit: paged 8-bit Lion keeps one byte per trained weight in unified memory where a
    tensor has 100,000 weights or more, and scales on the card; tensors below 4,096 weights stay
    32-bit
paged_lion_32bit: paged Lion keeps one float32 state per trained weight, in unified memory where a
    tensor has 100,000 weights or more
muon: Muon keeps one state per trained weight, in that weight's dtype
galore_adamw: GaLore keeps two averages of each linear layer's projected gradient and the
    projection, and two states a weight of everything else
apollo_adamw: APOLLO keeps two averages of each linear layer's projected gradient and the
    projection, and two states a weight of everything else
lorafa: LoRA-FA keeps two states per weight of B, each in that weight's dtype
adam_mini: Adam-mini keeps one state per trained weight, in that weight's dtype, and one more per
    head, row or tensor
rmsprop: RMSprop keeps one state per trained weight, in that weight's dtype
sgd: SGD without momentum keeps nothing
adafactor: Adafactor keeps one row and one column of sums per trained matrix
""")
Line = tuple[str, str, str]
"""(what, its value, the formula)."""
_ALL_LOGITS = {
    "torchtune": "log-probabilities of all labels' tokens in float32, and the logits of an eighth",
    "torchtune-chunked": "all logits or their gradient, and log-probabilities in float32",
    "litgpt": "logits in float32 where they are held, and log-probabilities in float32",
    "triton": "all logits or their gradient, and in float32",
    "llamafactory-dpo": "logits and log-probabilities in float32, of the policy and the reference",
    "torchtune-dpo": "logits and log-probabilities in float32, beside the reference's logits",
    "llamafactory-kto": "logits in float32 of both models, and log-probabilities",
    "llamafactory-orpo": "logits and log-probabilities in float32",
    "llamafactory-dft": "logits and log-probabilities in float32",
    "llamafactory-eaft": "logits in float32, a copy of them, and log-probabilities",
    "llamafactory-asft": "logits in float32 of model and reference, and what compares them",
    "trl-orpo": "logits in float32, log-probabilities of the chosen half, and both gradients",
    "axolotl-dpo": "logits in float32 and a copy of them, of the policy and the reference",
}
"""What lives in the loss whose path has something for each logit."""
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
        size, cut = (
            DTYPE_BYTES[dtype],
            _cut(setup, "gradients" if part == "gradients" else "weights"),
        )
        text, rest = f"{count_text(count)} {what} x {size} B ({dtype})", held[part] - count * size
        if cut or not rest:
            return f"{text}, {cut}" if cut else text
        return f"{text} {'+' if rest > 0 else '-'} {count_text(abs(rest))} B of other dtypes"

    formulas = {
        "parameters": ("weights", product("parameters", parameters.base, "weights", setup.dtype))
    }
    if base is not None:
        packed, constants = BASES[base.quant_type].stores
        if base.is_nested:
            constants = "1 B per 64 weights, 4 B per 16,384, and 1,092 B, in each 4-bit layer"
        stored = f"{packed} in each linear layer; everything else in its own dtype"
        formulas = {
            "parameters": ("weights", stored),
            "quantization_state": ("constants", constants),
        }
    if held["adapters"]:
        adapters = product("adapters", parameters.adapter, "adapter weights", trained)
        formulas["adapters"] = ("adapters", adapters)
    gradients = product("gradients", parameters.trainable, "trained weights", trained)
    formulas["gradients"] = ("gradients", gradients)
    formulas["optimizer_states"] = ("optimizer", _optimizer_formula(prediction, trained))
    for part, (label, formula) in formulas.items():
        yield label, bytes_text(held[part]), formula


_CUT: dict[str, tuple[Sharding, ...]] = {
    "weights": ("zero3", *FULLY_SHARDED, "tp"),
    "gradients": ("zero2", "zero3", *FULLY_SHARDED, "tp"),
    "states": ("zero1", *DEEPSPEED_ZERO, *FULLY_SHARDED, "tp"),
}
_CUT_WORDS: dict[Sharding, str] = {
    "zero1": "dealt out over {} ranks, each parameter whole to one",
    "zero1-deepspeed": "dealt out over {} ranks",
    "zero2": "dealt out over {} ranks",
    "zero3": "dealt out over {} ranks",
    "fsdp": "of each tensor the first of {} chunks",
    "fsdp-no-reshard": "of each tensor the first of {} chunks",
    "fsdp1": "of each unit's flat parameter one of {} parts",
    "fsdp1-no-prefetch": "of each unit's flat parameter one of {} parts",
    "tp": "all but norms' cut over {} ranks",
}


def _cut(setup: TrainSetup, what: str) -> str:
    """How ranks share weights, gradients or states, in words; nothing where each has them whole."""
    is_cut = setup.sharding in _CUT[what] and setup.world_size > 1
    return _CUT_WORDS[setup.sharding].format(setup.world_size) if is_cut else ""


def _optimizer_formula(prediction: Prediction, trained: str) -> str:
    setup = prediction.workload.setup
    states, optimizer = prediction.persistent_bytes.get("optimizer_states", 0), setup.optimizer
    if optimizer != "adamw":
        return _OPTIMIZERS[optimizer]
    count, size = prediction.parameters.trainable, DTYPE_BYTES[trained]
    over, cut = states - 2 * count * size, _cut(setup, "states")
    rest = f" + {count_text(over)} B of step counters" if over > 0 else ""
    weights = f"{count_text(count)} trained weights x {size} B"
    return f"2 x {weights} ({_OPTIMIZERS[optimizer]}){f', {cut}' if cut else rest}"


def saved_lines(prediction: Prediction) -> Iterator[Line]:
    """What each layer of the stack keeps, a line for each distinct sum, then what lies outside."""
    saved = prediction.saved_activation_bytes
    if saved is None:
        return
    tokens = prediction.workload.setup.batch_size * prediction.workload.setup.rank_seq_len
    stacks = [part.name for part in prediction.workload.model.parts if isinstance(part, Stack)]
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
    kept = _KEPT.get(prediction.workload.setup.loss, _KEPT["plain"])
    yield "elsewhere", bytes_text(outside), kept
    every = "every tensor storage that autograd keeps, once; no parameters"
    yield "together", f"{bytes_text(saved)}, {count_text(saved)} B", every


_KEPT: Final = told("""
plain: float32 log-probabilities, 4 B x tokens x V; final norm, rotary tables, labels
chunked: the last hidden state; final norm, rotary tables, labels
fused: the gradients that the loss has made; final norm, rotary tables
unsloth: the gradients that the loss has made; final norm, positions
trl: the last hidden state, labels, two numbers a token; final norm, rotary tables
cce: the last hidden state, a number a token and a word; final norm, rotary tables
triton: the logits in float32, 4 B x tokens x V; final norm, rotary tables
""")


def loss_definitions(setup: TrainSetup) -> dict[str, str]:
    """The moments of a loss path that has no number for each logit, in words of their own."""
    return {} if setup.loss == "plain" or setup.loss in _ALL_LOGITS else _IN_CHUNKS


def logits_formula(prediction: Prediction) -> str:
    """The logits' part of the peak as bytes per logit, where the peak lies in the loss."""
    size = prediction.peak.bytes.get("logits_and_loss", 0)
    vocabulary = prediction.workload.model.config.get("vocab_size")
    if not isinstance(vocabulary, int) or prediction.peak.moment not in _IN_CHUNKS:
        return ""
    setup = prediction.workload.setup
    if setup.loss in _ALL_LOGITS:
        return f"{bytes_text(size)}, {_ALL_LOGITS[setup.loss]}"
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


def communication_formula(answer: Answer) -> str:
    """What is alive at the peak for other ranks' sake, part by part, where the moment tells."""
    parts = answer.shared_bytes.items()
    return " + ".join(f"{bytes_text(size)} {_PART_WORDS[part]}" for part, size in parts)


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
