"""The words for what is predicted: label and definition of every category, moment and persistent
part, in display order."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lora_profiler.memory.prediction import Prediction
    from lora_profiler.question.workload import TrainSetup


def told(text: str) -> dict[str, str]:
    """Words by key: a line `key: words` each, which goes on in lines that are indented."""
    whole = text.strip().replace("\n    ", " ")
    return dict(line.split(": ", 1) for line in whole.split("\n"))


def defined(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and definitions by key: a line `key: label: definition` each, as of `told`."""
    words = {key: line.split(": ", 1) for key, line in told(text).items()}
    labels = {key: label for key, (label, _) in words.items()}
    return labels, {key: definition for key, (_, definition) in words.items()}


def interval_text(low: str, high: str, samples: int) -> str:
    """What is said of the median of so many `samples`: '95 % interval 1.00 s to 1.02 s', and the
    lowest and the highest where they are too few for one."""
    from lora_profiler.measuring.records.checks import LEAST_SAMPLES  # no answer needs it

    if samples >= LEAST_SAMPLES:
        return f"95 % interval {low} to {high}"
    ends = "one" if samples == 1 else f"{low} to {high}"
    return f"{ends}, too few for a 95 % interval"


UNKNOWN: Final = "?"
"""What stands where nobody knows a number."""

CATEGORY_LABELS, CATEGORY_DEFINITIONS = defined("""
parameters: weights: the model's own weights, as they are stored for training
quantization_state: quantisation constants: scales and code books of a 4-bit base
adapters: adapters: LoRA's A and B matrices, or what another method trains, and copies made for
    modules_to_save
buffers: buffers: tensors of the model that are no parameters, such as rotary frequencies
gradients: gradients: gradients of what is trained
optimizer_states: optimizer states: what the optimizer remembers for every trained parameter
inputs: inputs and labels: token ids and labels of the micro-batch
activations: activations: what autograd keeps of the forward pass until backward needs it
logits_and_loss: logits and loss: the logits, their float32 copies and gradients, and what
    cross-entropy keeps
temporaries: temporaries: tensors that live for one operation or one optimizer step only
workspace: workspaces: scratch memory of BLAS libraries inside the allocator
communication: communication: what is there for other ranks: gathered weights, buffers of
    collectives, DDP's buckets
unattributed: not attributed: known in total only
""")
CATEGORY_SHORT: Final[dict[str, str]] = CATEGORY_LABELS | {
    "quantization_state": "constants",
    "optimizer_states": "optimizer",
    "inputs": "inputs",
    "logits_and_loss": "logits, loss",
}
"""The same for the heads of narrow columns."""

MOMENT_LABELS, MOMENT_DEFINITIONS = defined("""
setup: between steps: what is there before any token is read
last_layer_forward: forward of the last layer: the saved activations so far, and the temporaries
    inside the last layer
end_of_forward: end of forward, in the loss: every saved activation, and the logits with the float32
    copy that cross-entropy makes
loss_backward: start of backward, in the loss: every saved activation, and the float32 gradients of
    the loss with respect to the logits
last_layer_backward: backward of the last layers: the layers that backward has not reached yet, and
    the gradients inside the layer it is in
first_layer_backward: end of backward, first layer: all gradients, and what backward still holds at
    the first layer and the embedding
optimizer_step: optimizer step: all gradients, and the optimizer's temporaries
evaluation: evaluation: no gradients; the logits of evaluation's batch with the copies that the loss
    makes, or what a layer's forward pass needs
generation: generation: no gradients; keys and values of every token of the completions, and what
    drawing the next one takes, or what the prompts' forward pass needs
saving: saving a checkpoint: no gradients; what the ranks gather at once on the way to the host,
    where the whole state dict is
""")

PERSISTENT_LABELS: Final[dict[str, str]] = {
    name: CATEGORY_LABELS[name]
    for name in ("parameters", "quantization_state", "adapters", "gradients", "optimizer_states")
}

METHOD_LABELS: Final[dict[str, str]] = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}

VERDICT_LABELS, VERDICT_DEFINITIONS = defined("""
fits: fits: the simulated allocator completes the steps in what the GPU and its context leave
tight: may run out of memory: the tensors have room, but only expandable segments or luck would do
does_not_fit: does not fit: the tensors and the driver's context have none
""")

CLAIM_VERDICT_LABELS: Final[dict[str, str]] = {
    "holds": "holds",
    "holds_partly": "holds in part",
    "fails": "fails",
}


PART_LABELS: Final[dict[str, str]] = {
    "gemm": "matrix products",
    "attention_forward": "attention, forward",
    "attention_backward": "attention, backward",
    "memory": "kernels that only move bytes",
    "dequantise": "dequantising the base",
    "launches": "waiting for launches",
    "update": "optimizer update",
    "besides": "data, scheduler, logging",
}
"""Where a step's time goes, in display order."""

CAUSE_LABELS: Final[dict[str, str]] = {
    "products": "products that both have",
    "adapter_products": "products of the adapters",
    "attention": "attention",
    "memory": "kernels that only move bytes and are in both",
    "adapter_memory": "casts, copies and sums of the adapters",
    "dequantise": "dequantising the base",
    "launches": "waiting for launches",
    "update": "the optimizer's update",
    "besides": "data, scheduler, logging",
}
"""What a step with adapters spends beyond its share of FLOPs, by `SpeedGap.causes`."""

BASIS_LABELS, BASIS_DEFINITIONS = defined("""
this machine: calibrated on this machine: copies, products, launches and whole steps were measured
    here by lora-profile calibrate
fitted: fitted to measurements of this GPU: a step reaches the shares of peak and bandwidth that
    public measurements of it reach
same class: estimated from similar GPUs: a step reaches the shares of peak and bandwidth that GPUs
    of its class reach
other class: estimated from other kinds of GPU: no GPU of its class was fitted, so the interval is
    wide
""")
"""What the step times of a GPU rest on."""

LEFT_OUT_LABELS: Final[dict[str, str]] = {
    "model": "by constants fitted without its model",
    "card": "by constants fitted without its GPU",
    "all": "by constants that no step of its GPU was fitted for",
}
"""What tests a public measurement is no part of."""

NOMINAL_LABELS: Final[dict[float, str]] = {0.9: "Nine in ten"}
"""The probability that an interval is made for."""

TIER_LABELS: Final[dict[int, str]] = {
    1: "all conditions published",
    2: "one or two conditions inferred",
}
"""How much a public row says of the run behind it."""

SOURCE_LABELS: Final[dict[str, str]] = {
    "fms": "fms-acceleration",
    "litgpt-rt": "LitGPT's tables",
    "peft": "PEFT's comparison of methods",
    "torchtune-flags": "torchtune's optimisation flags",
    "fsdp_qlora": "fsdp_qlora",
    "qwen": "Qwen's README",
    "automodel": "NeMo AutoModel",
    "hf-bert": "transformers' guide to one GPU",
}
"""Where public rows come from, by the first part of their id."""

READING_LABELS: Final[dict[str, str]] = {
    "peak": "peak allocated",
    "at rest": "allocated between steps",
    "after the update": "allocated after a step's update",
    "reserved": "reserved",
}
"""What a public row's counter counted."""


def capital(text: str) -> str:
    """As a sentence begins with it."""
    return f"{text[:1].upper()}{text[1:]}"


def method_label(prediction: "Prediction") -> str:
    """'full', 'LoRA r16', 'IA3': what a way to train is called where ways stand side by side."""
    return way_label(prediction.workload.setup)


def way_label(setup: "TrainSetup") -> str:
    """The same for a setup that nothing is predicted of."""
    lora = setup.lora
    if lora is None:
        return METHOD_LABELS["full"]
    return f"{adapter_label(setup)} r{lora.r}" if lora.has_rank else adapter_label(setup)


def adapter_label(setup: "TrainSetup") -> str:
    """'QLoRA', 'VeRA', 'IA3 on int8': the method of a setup with adapters, and what else than 16
    bit they stand on."""
    lora, base = setup.lora, setup.quantization
    if lora is None or lora.peft_type == "lora":
        return METHOD_LABELS[setup.method]
    return lora.method_name if base is None else f"{lora.method_name} on {base.quant_type}"


def sureness(prediction: "Prediction", exact: str, lower: str, within: str, estimate: str) -> str:
    """Those words that are true of the peak; `within` has {} for the bound."""
    if prediction.exactness == "exact":
        return exact
    if not prediction.is_whole:
        return lower
    bound = prediction.error_bound
    return within.format(f"{100 * bound:g} %") if bound else estimate
