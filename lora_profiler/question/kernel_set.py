"""What the rest of the package asks of kernels and models that run in place of transformers' own.
Each set is a folder under `features/kernels/`."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError, refuse
from lora_profiler.question.feature import has_file, of_kind, part


class KernelSet(NamedTuple):
    """Facts of a set of kernels.

    title: as a sentence begins with it. assumption: the sentence under an answer. `types` of models
    that it is known of; empty for all. gives_way: of others its trainer runs transformers' own
    code. rules_alone: neither a trace nor a measurement makes it.

    unpadded: rows are laid end to end, whatever is packed. copies_attention: the output of
    attention is a copy. repeats_heads: keys and values are copied for all heads before any kernel
    of attention; repeats_for_math: rather than let SDPA take its math kernel. pairs_of: types of
    models whose rotary embedding turns neighbours, in float32. position_bytes: of the position ids
    that checkpointed layers keep, a token; None for those of transformers.

    quantizes_head: a 4-bit base has its head in 4 bit too. copies_embedding: that of a 4-bit model
    trains as a copy. makes_leaf: checkpointing makes the embeddings' output a leaf. keeps_logits:
    the training loop has a name for them, through the next pass. own_offloading: activations are
    moved to the host by a manager of its own. own_dora: adapters with DoRA are layers of its own.

    takes_other_bases: known over bases other than bitsandbytes', and over experts in 4 bit.
    takes_fake_quantized: known of fake-quantised layers.

    put_in_by: types that a trainer puts them into, where it leaves others as they are. argument: of
    transformers' `TrainingArguments`, which switches it on with its loss. package: of
    its functions, whose name is that of a model's forward pass where they run.
    """

    title: str
    assumption: str = ""
    types: tuple[str, ...] = ()
    gives_way: bool = False
    rules_alone: bool = False
    unpadded: bool = False
    copies_attention: bool = False
    repeats_heads: bool = False
    repeats_for_math: bool = False
    pairs_of: Collection[str] = ()
    position_bytes: int | None = None
    quantizes_head: bool = False
    copies_embedding: bool = False
    makes_leaf: bool = True
    keeps_logits: bool = False
    own_offloading: bool = False
    own_dora: bool = False
    takes_other_bases: bool = False
    takes_fake_quantized: bool = False
    put_in_by: Mapping[str, Collection[str]] = {}
    argument: str = ""
    package: str = ""


CORE = "transformers"
_OF_TRANSFORMERS = KernelSet("transformers", takes_other_bases=True, takes_fake_quantized=True)


def kernel_set(name: str) -> KernelSet:
    """Facts of the set that the option names."""
    if name == CORE:
        return _OF_TRANSFORMERS
    found: KernelSet = part("kernels", name, "", "FEATURE")
    return found


def switched_on(arguments: Mapping[str, Any], forward_of: str) -> str | None:
    """The set that a script runs: by an argument, or by the package of the model's forward pass."""
    for name, found in of_kind("kernels").items():
        is_called = found.package and forward_of.startswith(f"{found.package}.")
        if is_called or (found.argument and arguments.get(found.argument)):
            return name
    return None


def has_stand_in(name: str) -> bool:
    """Whether a trace puts something in their place."""
    return has_file("kernels", name, "stand_in")


def of_set(name: str, needed: str) -> Any:
    """The function of the question that a set calls `needed`; None where it has none."""
    return part("kernels", name, "", needed)


def unsupported_reason(model: Any, setup: Any) -> str | None:
    """The end of "Unsloth's kernels ...", None where they go with the model and the setup."""
    known = kernel_set(setup.kernels).types
    if known and model.model_type not in known:
        return f"are known of {', '.join(known)}, not of {model.model_type}"
    own = of_set(setup.kernels, "unsupported_reason")
    reason: str | None = own(setup) if own else None
    return reason


def check_kernels(workload: Any) -> None:
    """Raises UsageError where the kernels do not go with the model or the setup, or nothing here
    says what they keep of it."""
    model, setup = workload.model, workload.setup
    if own := of_set(setup.kernels, "refusals"):
        refuse(own(workload))
    why = unsupported_reason(model, setup)
    if why is not None:
        raise UsageError(f"{kernel_set(setup.kernels).title} {why}; leave --kernels out.")
