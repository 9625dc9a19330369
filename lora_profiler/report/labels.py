"""The words for what is predicted: label and definition of every category, moment and persistent
part, in display order."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lora_profiler.prediction import Prediction
    from lora_profiler.records.record import Record
    from lora_profiler.workload import TrainSetup

CATEGORY_LABELS: Final[dict[str, str]] = {
    "parameters": "weights",
    "quantization_state": "quantisation constants",
    "adapters": "adapters",
    "buffers": "buffers",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
    "inputs": "inputs and labels",
    "activations": "activations",
    "logits_and_loss": "logits and loss",
    "temporaries": "temporaries",
    "workspace": "workspaces",
    "communication": "communication",
    "unattributed": "not attributed",
}

CATEGORY_SHORT: Final[dict[str, str]] = CATEGORY_LABELS | {
    "quantization_state": "constants",
    "optimizer_states": "optimizer",
    "inputs": "inputs",
    "logits_and_loss": "logits, loss",
}
"""The same for the heads of narrow columns."""

CATEGORY_DEFINITIONS: Final[dict[str, str]] = {
    "parameters": "the model's own weights, as they are stored for training",
    "quantization_state": "scales and code books of a 4-bit base",
    "adapters": "LoRA's A and B matrices, and copies made for modules_to_save",
    "buffers": "tensors of the model that are no parameters, such as rotary frequencies",
    "gradients": "gradients of what is trained",
    "optimizer_states": "what the optimizer remembers for every trained parameter",
    "inputs": "token ids and labels of the micro-batch",
    "activations": "what autograd keeps of the forward pass until backward needs it",
    "logits_and_loss": (
        "the logits, their float32 copies and gradients, and what cross-entropy keeps"
    ),
    "temporaries": "tensors that live for one operation or one optimizer step only",
    "workspace": "scratch memory of BLAS libraries inside the allocator",
    "communication": (
        "what is there for other ranks: gathered weights, buffers of collectives, DDP's buckets"
    ),
    "unattributed": "known in total only",
}

MOMENT_LABELS: Final[dict[str, str]] = {
    "setup": "between steps",
    "last_layer_forward": "forward of the last layer",
    "end_of_forward": "end of forward, in the loss",
    "loss_backward": "start of backward, in the loss",
    "last_layer_backward": "backward of the last layers",
    "first_layer_backward": "end of backward, first layer",
    "optimizer_step": "optimizer step",
    "evaluation": "evaluation",
}

MOMENT_DEFINITIONS: Final[dict[str, str]] = {
    "setup": "what is there before any token is read",
    "last_layer_forward": "the saved activations so far, and the temporaries inside the last layer",
    "end_of_forward": (
        "every saved activation, and the logits with the float32 copy that cross-entropy makes"
    ),
    "loss_backward": (
        "every saved activation, and the float32 gradients of the loss with respect to the logits"
    ),
    "last_layer_backward": (
        "the layers that backward has not reached yet, and the gradients inside the layer it is in"
    ),
    "first_layer_backward": (
        "all gradients, and what backward still holds at the first layer and the embedding"
    ),
    "optimizer_step": "all gradients, and the optimizer's temporaries",
    "evaluation": (
        "no gradients; the logits of evaluation's batch with the copies that the loss makes, or"
        " what a layer's forward pass needs"
    ),
}

PERSISTENT_LABELS: Final[dict[str, str]] = {
    "parameters": "weights",
    "quantization_state": "quantisation constants",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
}

METHOD_LABELS: Final[dict[str, str]] = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}

VERDICT_LABELS: Final[dict[str, str]] = {
    "fits": "fits",
    "tight": "tight",
    "does_not_fit": "does not fit",
}

VERDICT_DEFINITIONS: Final[dict[str, str]] = {
    "fits": (
        "the simulated allocator completes the steps in what the card gives a program, beside the"
        " driver's context"
    ),
    "tight": "the tensors have room, but only expandable segments or luck would do",
    "does_not_fit": "the tensors and the driver's context have none",
}

LAYER_LABELS: Final[dict[str, str]] = {
    "num_trainable_parameters": "trained weights",
    "num_parameters": "weights",
    "parameter_bytes": "memory of the weights",
    "gradient_bytes": "memory of the gradients",
    "optimizer_state_bytes": "memory of the optimizer states",
    "saved_activation_bytes": "saved for backward",
    "flops": "compute",
}
"""What one layer costs, by the field of `LayerCost`."""

COLLECTIVE_LABELS: Final[dict[str, str]] = {
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_reduce": "all-reduce",
    "broadcast": "broadcast",
}

CLAIM_VERDICT_LABELS: Final[dict[str, str]] = {
    "holds": "holds",
    "holds_partly": "holds in part",
    "fails": "fails",
}

PHASE_LABELS: Final[dict[str, str]] = {
    "setup": "between steps",
    "forward": "forward and loss",
    "loss": "the loss",
    "backward": "backward",
    "clip": "gradient clipping",
    "optimizer": "optimizer step",
    "zero": "clearing gradients",
    "evaluation": "evaluation",
}
"""Measured phases; "forward" also names the group of forward and loss that is compared with a
prediction."""

PHASE_SHORT: Final[dict[str, str]] = PHASE_LABELS | {
    "setup": "the batch",
    "forward": "forward",
    "clip": "clipping",
    "optimizer": "optimizer",
    "zero": "clearing",
}
"""The same while a step goes on, for narrow columns."""

PHASE_CURVE: Final[dict[str, str]] = PHASE_SHORT | {
    "setup": "between steps",
    "optimizer": "optimizer step",
}
"""The same along a picture of one step."""

STAGE_LABELS: Final[dict[str, str]] = {
    "start": "starting",
    "import": "importing",
    "context": "opening the device",
    "load": "loading the model",
    "quantise": "quantising",
    "adapter_inject": "adding adapters",
    "shard": "sharding",
    "optimizer_build": "making the optimizer",
    "memory": "memory",
    "timing": "timing",
    "reference": "training alone",
    "end": "finishing",
}
"""What a measured process does before, between and after its steps."""

METRIC_LABELS: Final[dict[str, str]] = {
    "peak_requested_bytes": "peak that tensors ask for",
    "peak_allocated_bytes": "peak allocated",
    "attribution_bytes": "part of the peak",
    "phase_peak_bytes": "peak of a phase",
    "step1_phase_peak_bytes": "peak of a phase in step 1",
    "persistent_bytes": "persistent",
    "saved_activation_bytes": "saved for backward",
    "num_parameters": "parameters",
    "num_trainable_parameters": "trained parameters",
    "peak_reserved_bytes": "reserved by the allocator",
    "device_used_bytes": "in use on the device",
    "step_seconds": "median step",
    "tokens_per_second": "tokens a second",
}

METRIC_DEFINITIONS: Final[dict[str, str]] = {
    "peak_requested_bytes": (
        "the most bytes that live tensors ask for at one instant of the second step or a later one"
    ),
    "peak_allocated_bytes": (
        "the same with the allocator's rounding and the tails of blocks that it does not split"
    ),
    "attribution_bytes": "what that instant is made of, by category; the parts add up to the peak",
    "phase_peak_bytes": "the most that tensors ask for within one phase of a steady step",
    "step1_phase_peak_bytes": "the same in the first step, before there are optimizer states",
    "persistent_bytes": (
        "what is there in every step: weights, adapters, buffers, gradients, optimizer states, by"
        " category"
    ),
    "saved_activation_bytes": (
        "everything that autograd keeps at the end of the forward pass, parameters left out"
    ),
    "num_parameters": "the model's own weights, tied ones once; adapters are not among them",
    "num_trainable_parameters": (
        "weights that receive gradients: all of them in full fine-tuning, the adapters under LoRA"
    ),
    "peak_reserved_bytes": (
        "what the allocator took from the driver in segments, free blocks in them included"
    ),
    "device_used_bytes": (
        "what the driver says is in use on the device at the end, less what was in use while it was"
        " idle"
    ),
    "step_seconds": (
        "the median time of an optimizer step, all its micro-batches included, after the warm-up"
    ),
    "tokens_per_second": "padded tokens of an optimizer step over its median time",
}

GROUPING_LABELS: Final[dict[str, str]] = {
    "metric": "what",
    "category": "part",
    "engine": "engine",
    "method": "method",
    "family": "family",
    "model": "model",
    "device": "device",
}
"""By what errors are gathered; a family is a model type of transformers."""

ENVIRONMENT_LABELS: Final[dict[str, str]] = {
    "device.name": "device",
    "device.kind": "kind of device",
    "device.total_bytes": "memory of the device",
    "device.uuid_hash": "card, by a hash of its UUID",
    "device.compute_capability": "compute capability",
    "device.driver": "driver",
    "device.cuda": "CUDA",
    "device.cudnn": "cuDNN",
    "device.vbios": "VBIOS",
    "device.ecc": "ECC",
    "device.mig": "MIG",
    "device.power_limit_watts": "power limit, W",
    "device.clocks_locked": "clocks locked",
    "python": "Python",
    "platform": "platform",
    "cpu": "processor",
    "logical_cpus": "logical processors",
    "threads": "threads",
    "memory_bytes": "memory of the machine",
    "memory_limit_bytes": "memory limit",
    "allocator": "allocator",
    "commit": "commit of this program",
    "dirty": "uncommitted changes",
    "diff_hash": "hash of these changes",
}
"""Fields of a record's environment by their path; packages and variables go by their own names."""

COUNTER_LABELS: Final[dict[str, str]] = {
    "requested_peak_bytes": "peak that tensors ask for",
    "requested_bytes": "of it left at the end of the phase",
    "allocated_peak_bytes": "peak allocated",
    "reserved_peak_bytes": "reserved by the allocator",
}
"""Counters of a memory pass, phase by phase."""

ALONE_LABELS: Final[dict[str, str]] = {
    "rounding": "allocated beyond what tensors ask for",
    "peak_reserved_bytes": "reserved by the allocator",
    "fragmentation": "of it not allocated (fragmentation)",
    "device_used_bytes": "in use on the device, above idle",
    "outside": "of it outside torch's allocator",
    "context_bytes": "driver context",
    "workspace_bytes": "BLAS workspace, inside what is allocated",
}
"""Memory that is measured but that no engine predicts yet."""

STATUS_LABELS: Final[dict[str, str]] = {
    "ok": "ok",
    "noisy": "noisy",
    "oom": "out of memory",
    "host_oom": "host out of memory",
    "timeout": "timed out",
    "crash": "crashed",
    "unsupported": "unsupported",
    "invalid": "invalid",
    "interrupted": "interrupted",
}

STATUS_DEFINITIONS: Final[dict[str, str]] = {
    "ok": "the run went through and kept to the protocol",
    "noisy": (
        "the run went through and its memory is what it was, but its times scatter more than the"
        " protocol allows"
    ),
    "oom": "the device had no room for an allocation",
    "host_oom": "the operating system ended the process because the machine ran out of memory",
    "timeout": "the run took longer than it was given and was ended",
    "crash": "the process ended before it had a result",
    "unsupported": "this combination cannot be trained on this device or with these libraries",
    "invalid": "the run ended, but what it measured cannot be right",
    "interrupted": "the run was stopped by hand, or its piece was over",
}

STATUS_ADVICE: Final[dict[str, str]] = {
    "oom": (
        "a smaller batch or sequence, --checkpointing, or what `lora-profile predict` says lowers"
        " the peak most"
    ),
    "host_oom": (
        "a smaller model or batch, or a machine with more memory; other programs may hold what is"
        " missing"
    ),
    "timeout": "a longer time limit, or a smaller batch or sequence",
    "crash": "the run again with the log at hand; `lora-profile doctor` shows what is installed",
    "unsupported": (
        "another dtype, attention or optimizer, or what `lora-profile doctor` says is missing"
    ),
    "invalid": "one process, without --world-size: ranks that train together must have its losses",
    "interrupted": "the same command with --resume",
}
"""What to try after each failure; `advice.py` knows more of some."""

FLAG_DEFINITIONS: Final[dict[str, str]] = {
    "busy_machine": "other programs took processor time while steps were timed: times are too long",
    "host_bound": (
        "the host could not keep the device busy: times say more about Python than about the card"
    ),
    "instrumentation_perturbed_memory": "two ways of measuring the peak differ: memory is in doubt",
    "losses_not_compared": (
        "one process could not train on what the ranks trained on: nobody says that their losses"
        " are right"
    ),
    "low_clock": (
        "the card ran far below its default clock, as under a power cap or with locked clocks: it"
        " can be faster"
    ),
    "memory_pressure": "the allocator had to give memory back and ask again: times are too long",
    "shared_device": (
        "another process used the device: what the driver says is in use is not this run's alone"
    ),
    "thermal_throttling": "the card slowed itself down: times are too long",
    "unattributed_over_1_percent": "over 1 % of the peak belongs to no category",
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

BASIS_LABELS: Final[dict[str, str]] = {
    "this machine": "calibrated on this machine",
    "fitted": "fitted to this card",
    "same class": "like a fitted card",
    "other class": "another class of card",
}
"""How a card is known by which step times are worked out."""

BASIS_DEFINITIONS: Final[dict[str, str]] = {
    "this machine": (
        "copies, products, launches and whole steps were measured here by lora-profile calibrate"
    ),
    "fitted": (
        "the shares of its peak and of its bandwidth that a step reaches are those of public"
        " measurements of it"
    ),
    "same class": (
        "the shares of its peak and of its bandwidth that a step reaches are those of cards of its"
        " class"
    ),
    "other class": (
        "no card of its class was fitted, so that the constants are of another, and the interval is"
        " wide"
    ),
}

LEFT_OUT_LABELS: Final[dict[str, str]] = {
    "model": "by constants fitted without its model",
    "card": "by constants fitted without its card",
    "all": "by constants that no step of its card was fitted for",
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

MFU_DEFINITIONS: Final[tuple[str, ...]] = (
    (
        "MFU: FLOPs that the method needs (forward and backward) over what the card's dense peak"
        " allows in the same time. HFU: with what checkpointing computes again. Attention counts in"
        " full, not only its causal half."
    ),
    (
        'LoRA needs fewer FLOPs than full fine-tuning, so their MFU cannot be compared; "full'
        ' equivalent" is the MFU of full fine-tuning at the same tokens per second.'
    ),
)

ENERGY_CAVEAT: Final = (
    "Energy is the driver's counter, which on A100 and H100 sees power a quarter of the time."
)

ERROR_DEFINITION: Final = "error = (predicted - measured) / measured"

PARTS_CAVEAT: Final = (
    "Where two instants of a step are nearly as high, the prediction may name one and the run"
    " another: the peaks then agree, and the parts that they are made of do not."
)


def status_label(record: "Record") -> str:
    """How a run ended; one on a pretended card was rehearsed, however it ended."""
    label = STATUS_LABELS[record.measurement.status]
    if not record.is_rehearsed:
        return label
    return "rehearsed" if record.measurement.went_through else f"rehearsed, {label}"


def method_label(prediction: "Prediction") -> str:
    """'full', 'LoRA r16': what a way to train is called where ways stand side by side."""
    return way_label(prediction.workload.setup)


def way_label(setup: "TrainSetup") -> str:
    """The same for a setup that nothing is predicted of."""
    label = METHOD_LABELS[setup.method]
    return f"{label} r{setup.lora.r}" if setup.lora else label
