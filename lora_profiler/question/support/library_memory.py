"""What libraries hold of a CUDA card beside the tensors of a training step, and what an answer
takes for granted between two steps. No torch."""

from dataclasses import replace
from math import prod
from typing import NamedTuple

from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.kernel_set import of_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.model_spec import Sound
from lora_profiler.question.support.losses import head_of
from lora_profiler.question.workload import DTYPE_BYTES, TrainSetup, Workload
from lora_profiler.units import bytes_text

_CODE_BOOK_BYTES = 1024
WORKSPACES = 2
"""Of BLAS: the forward pass and autograd's own thread each hold one."""
_WORKSPACE_BYTES, _HOPPER_WORKSPACE_BYTES = 8_519_680, 32 << 20
_IN_PRODUCTS = 2, 15
"""The torch from which on no workspace stays."""


def code_book_bytes(setup: TrainSetup) -> int:
    """The 256 float32 by which bitsandbytes quantises scales once more: made for the first weight
    and kept for all (`functional.py`, `name2qmap`). Each weight has a copy besides, which counts as
    quantisation state."""
    quantization = setup.quantization
    nested = quantization is not None and quantization.is_nested
    return _CODE_BOOK_BYTES if nested and setup.device == "cuda" else 0


class ScalerHolds(NamedTuple):
    """Of torch's GradScaler, in tensors of one value: the scale and its growth tracker from the
    first step on, the scaled loss through backward, and in the optimizer step whether a gradient is
    infinite, which fused optimizers are told of by a sum (torch `amp/grad_scaler.py`)."""

    lasting: int
    backward: int
    step: int


def scaler_holds(setup: TrainSetup) -> ScalerHolds:
    """Bytes that a scaled loss brings, 0 without."""
    if setup.precision != "amp-float16":
        return ScalerHolds(0, 0, 0)
    num_scalars = 2 if setup.optimizer_impl == "fused" else 1
    return ScalerHolds(2 * _FLOAT32, _FLOAT32, num_scalars * _FLOAT32)


_INT64, _FLOAT32 = 8, 4
_EXTRA_COLUMNS = 3
"""Columns of padded sequences and of packed rows, in every loop."""
_CUT_APART = 2
"""Where ranks share a sequence labels are no ids: torch cuts each tensor that it is given."""


def has_reference(setup: TrainSetup) -> bool:
    """Whether a second, frozen copy of the model is the reference, which is the model itself with
    its adapters switched off where there are adapters."""
    return setup.runs_reference and setup.lora is None


def copies_adapters(setup: TrainSetup) -> bool:
    """Whether adapters have a frozen copy as reference."""
    return loop_facts(setup.loop_state).copies_adapters and setup.lora is not None


def batch_columns(setup: TrainSetup) -> int:
    """Tensors of int64, one value for each token of a micro-batch, that are on the device during a
    step."""
    loop = loop_facts(setup.loop_state)
    columns = loop.columns
    if not loop.generates and (setup.is_packed or setup.is_padded):
        columns = max(columns, _EXTRA_COLUMNS)
    if setup.context_parallel_size > 1:
        columns = max(columns, _CUT_APART)
    return columns * micro_batches_held(setup)


def micro_batches_held(setup: TrainSetup) -> int:
    """How many are on the device at once: the Trainer takes all of a step."""
    return 1 if setup.loop_state == "none" else setup.accumulation


def pass_columns(setup: TrainSetup) -> int:
    """The same that are there while a forward pass runs."""
    return loop_facts(setup.loop_state).pass_columns


def loop_scalar_bytes(setup: TrainSetup) -> int:
    """What a trainer's loop keeps of single values through a step, the norm of gradients among
    them, in the dtype of what trains. The harness' own loop sums losses of micro-batches too."""
    if setup.loop_state == "none":
        return 0
    trained = setup.dtype if setup.lora is None else setup.lora.adapter_dtype
    trained = "float32" if setup.has_wide_ends else trained
    summed = _FLOAT32 if setup.accumulation > 1 else 0
    return loop_facts(setup.loop_state).scalar_bytes + DTYPE_BYTES[trained] - summed


def pass_scalar_bytes(setup: TrainSetup) -> int:
    """What a trainer's loop keeps of single values while a forward or backward pass runs; of
    several micro-batches the harness' own loop sums the losses too."""
    if setup.loss == "torchtune-dpo":
        return 0
    if own := of_set(setup.kernels, "pass_scalar_bytes"):
        return own(setup)  # type: ignore[no-any-return]
    return loop_facts(setup.loop_state).pass_scalar_bytes


def extra_loop_columns(setup: TrainSetup, sound: Sound | None = None) -> int:
    """Of `batch_columns` those that the harness' own loop has not; `sound`: `ModelSpec.sound`,
    beside which labels are the only one."""
    if sound is not None:
        return micro_batches_held(setup) - 1
    return batch_columns(setup) - batch_columns(replace(setup, loop_state="none"))


def extra_row_bytes(setup: TrainSetup, sound: Sound | None) -> int:
    """The same of what each row of a batch has beside its tokens: sound in float32."""
    return 0 if sound is None else _FLOAT32 * prod(sound) * (micro_batches_held(setup) - 1)


def extra_loop_bytes(setup: TrainSetup, sound: Sound | None = None) -> int:
    """What a trainer's loop keeps through a step and the harness' own does not."""
    of_row = extra_loop_columns(setup, sound) * setup.seq_len * _INT64
    rows = setup.batch_size * (of_row + extra_row_bytes(setup, sound))
    return rows + loop_scalar_bytes(setup)


def workspace_bytes(platform: Platform) -> int:
    """One BLAS workspace, per handle and stream: torch's aten/src/ATen/cuda/CUDABlas.cpp
    (parseChosenWorkspaceSize); none that stays from torch 2.15 on, see `product_scratch_bytes`."""
    return 0 if platform.torch >= _IN_PRODUCTS else _workspace_bytes(platform)


def product_scratch_bytes(platform: Platform) -> int:
    """The workspace that a product takes and gives back, from torch 2.15 on; 0 before."""
    return _workspace_bytes(platform) if platform.torch >= _IN_PRODUCTS else 0


def _workspace_bytes(platform: Platform) -> int:
    is_hopper = platform.capability is not None and platform.capability >= 90
    return _HOPPER_WORKSPACE_BYTES if is_hopper else _WORKSPACE_BYTES


def workspaces_bytes(workload: Workload) -> int:
    """All BLAS workspaces of a training, which a card's counters hold beside its tensors; 0 on
    other devices."""
    if workload.setup.device != "cuda":
        return 0
    return WORKSPACES * workspace_bytes(workload.platform)


# --- evaluation -----------------------------------------------------------------------------------


def evaluation_words(workload: Workload) -> tuple[str, ...]:
    """What an answer takes for granted of evaluation, a sentence each."""
    setup, head = workload.setup, head_of(workload.model)
    size = setup.eval_batch_size
    if size is None:
        return ()
    words = (
        f"Evaluation between steps: {size:,} sequences of {setup.seq_len:,} tokens without"
        " gradients, as in transformers' Trainer without compute_metrics."
    )
    if head is None or head.out_features is None or setup.loss != "plain":
        return (words,)
    wide = 4 if setup.autocast_dtype else DTYPE_BYTES[setup.dtype]
    gathered = bytes_text(size * setup.seq_len * head.out_features * wide)
    return (
        words,
        (
            f"With compute_metrics the logits of each batch stay, {gathered} a batch until"
            " eval_accumulation_steps, on top."
        ),
    )


def generation_words(setup: TrainSetup) -> tuple[str, ...]:
    """What an answer takes for granted of generation, a sentence each."""
    rows, completion = setup.completions_at_once, setup.max_completion_length
    if not rows:
        return ()
    prompt = "prompts as long as that"
    if completion is not None:
        prompt = f"{completion:,} of them after the prompt"
    return (
        f"Generation between steps makes {rows:,} completions at once with transformers."
        f" Sequences of {setup.seq_len:,} tokens, {prompt}; all of one length, without a mask."
        " FLOPs and time are for training only.",
    )
