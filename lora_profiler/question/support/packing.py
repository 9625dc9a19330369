"""How rows are filled: packed with sequences, of which models must tell one from another, or
padded. No torch."""

from lora_profiler.errors import UsageError
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.model_types import type_of
from lora_profiler.question.workload import TrainSetup, Workload


def lengths(setup: TrainSetup) -> tuple[int, ...]:
    """Tokens of the sequences of one row, the last one cut where the row ends."""
    if setup.packed is None or not setup.is_packed:
        return (setup.seq_len,)
    whole, rest = divmod(setup.seq_len, setup.packed)
    return (setup.packed,) * whole + ((rest,) if rest else ())


def check_packing(workload: Workload) -> None:
    """Raises UsageError where the model of `workload` is known not to tell packed sequences apart,
    or rows are to be packed and padded.

    What is not known `trace.modeling.packing` sees in the first forward pass.
    """
    if workload.setup.is_packed and workload.setup.is_padded:
        raise UsageError("packed rows hold no padding; leave out one of --packed and --padding.")
    if workload.setup.is_packed and type_of(workload.model).packing_blind:
        raise blind(workload.model.id)
    if workload.setup.is_flattened and not takes_flattened(workload.model):
        raise UsageError(
            f"{workload.model.id} caps its attention scores and runs eager here; leave out"
            " --attention flash."
        )


def takes_flattened(model: ModelSpec) -> bool:
    """Whether flash kernels of this model's attention are known here."""
    return model.config.get("attn_logit_softcapping") is None


def blind(model: str) -> UsageError:
    """The error for a model to which packed sequences are one."""
    return UsageError(
        f"{model} does not separate packed sequences; its code makes no mask from position ids."
        " Leave --packed out."
    )


def rows_words(setup: TrainSetup, kernel: str) -> str:
    """How the rows of a micro-batch are filled, and what attention runs over them."""
    if setup.is_padding_free:
        return f"Rows laid end to end, without padding or mask; attention kernel: {kernel}."
    if setup.is_flattened:
        return (
            f"Packed sequences of {setup.packed:,} tokens form one row for flash-attn's kernel"
            " (without cu_seqlens, 4 bytes each); checked against traces, not measured."
        )
    if setup.is_packed:
        return (
            f"Rows of sequences of {setup.packed:,} tokens, without padding, each with a mask;"
            f" attention kernel: {kernel}."
        )
    if setup.is_padded:
        return (
            "Batches padded to their longest sequence, with an attention mask; attention kernel:"
            f" {kernel}."
        )
    return f"No padding mask, equal lengths; attention kernel: {kernel}."
