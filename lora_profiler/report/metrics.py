"""The words for what is predicted: label and definition of every category, moment and persistent part, in display order."""

from typing import Final

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
    "logits_and_loss": "the logits, their float32 copies and gradients, and what cross-entropy keeps",
    "temporaries": "tensors that live for one operation or one optimizer step only",
    "workspace": "scratch memory of BLAS libraries inside the allocator",
    "communication": "buckets and buffers of collectives",
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
}

MOMENT_DEFINITIONS: Final[dict[str, str]] = {
    "setup": "what is there before any token is read",
    "last_layer_forward": "the saved activations so far, and the temporaries inside the last layer",
    "end_of_forward": "every saved activation, and the logits with the float32 copy that cross-entropy makes",
    "loss_backward": "every saved activation, and the float32 gradients of the loss with respect to the logits",
    "last_layer_backward": "the layers that backward has not reached yet, and the gradients inside the layer it is in",
    "first_layer_backward": "all gradients, and what backward still holds at the first layer and the embedding",
    "optimizer_step": "all gradients, and the optimizer's temporaries",
}

PERSISTENT_LABELS: Final[dict[str, str]] = {
    "parameters": "weights",
    "quantization_state": "quantisation constants",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer_states": "optimizer states",
}

METHOD_LABELS: Final[dict[str, str]] = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}

VERDICT_LABELS: Final[dict[str, str]] = {"fits": "fits", "tight": "tight", "does_not_fit": "does not fit"}
