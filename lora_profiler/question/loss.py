"""What the rest of the package asks of a loss. The three of the core are here; a trainer's own loss
is a folder under `features/losses/`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_profiler.question.feature import has_file, of_kind, part


class Spelling(NamedTuple):
    """How a trainer's file names a loss: by keys that are on (`switches`), by words in the name of
    a plugin (`plugin`), or by a class (`component`). `written` are the keys that a written file
    gets; `note` is what is worth knowing."""

    switches: tuple[str, ...] = ()
    plugin: str = ""
    component: str = ""
    written: Mapping[str, Any] = {}
    note: str = ""


class LossFacts(NamedTuple):
    """Facts of a loss.

    title: what it is, in a few words. assumption: the sentence under an answer.

    For `--explain`: `kept` is what autograd keeps of it, `logits` what it has for each logit where
    it has all of them, `head_again` what backward does with the head.

    after_forward: the trainer's loop makes it of what the model returned; the others are made
    inside the model's forward pass. of_all_logits: of all logits, which the loop has in float32.
    has_reference: it compares with a reference model's logits; in 16 bit with narrow_reference.

    scales_logits: it calls the model without its head, and caps and scales the logits itself;
    scales_in: loops whose own kernel does so with the head's logits.
    one_score: the head is that of AutoModelForSequenceClassification, with one output.
    narrow_head: its head is in 16 bit wherever a trainer would widen it.
    takes_fake_quantized: of a head that is fake-quantised. takes_flat_units: known under FSDP1.
    can_be_fused: Liger's fused loss can be switched on in its place.
    leaves_stack: it holds nothing of what is before the last hidden state, so that the law of a
    model leaves it open.

    spelled: by trainer.
    """

    title: str
    assumption: str = ""
    kept: str = ""
    logits: str = ""
    head_again: str = ""
    after_forward: bool = False
    of_all_logits: bool = False
    has_reference: bool = False
    narrow_reference: bool = False
    scales_logits: bool = False
    scales_in: tuple[str, ...] = ()
    one_score: bool = False
    narrow_head: bool = False
    takes_fake_quantized: bool = False
    takes_flat_units: bool = False
    can_be_fused: bool = False
    leaves_stack: bool = False
    spelled: Mapping[str, Spelling] = {}


CORE: Mapping[str, LossFacts] = {
    "plain": LossFacts(
        title="all logits at once, as transformers makes it",
        kept="float32 log-probabilities, 4 B x tokens x V; final norm, rotary tables, labels",
        takes_fake_quantized=True,
        takes_flat_units=True,
        can_be_fused=True,
        spelled={"torchtune": Spelling(component="torchtune.modules.loss.CrossEntropyLoss")},
    ),
    "chunked": LossFacts(
        title="logits of some tokens at a time, made again in backward",
        kept="the last hidden state; final norm, rotary tables, labels",
        head_again="the head once more",
        can_be_fused=True,
    ),
    "fused": LossFacts(
        title="Liger's fused linear cross-entropy, which makes gradients in the forward pass",
        kept="the gradients that the loss has made; final norm, rotary tables",
        head_again="the head not at all",
        takes_fake_quantized=True,
        takes_flat_units=True,
    ),
}


def loss_facts(name: str) -> LossFacts:
    """Facts of the loss that the option names."""
    found: LossFacts = CORE.get(name) or part("losses", name, "", "FEATURE")
    return found


def is_predicted_only(name: str) -> bool:
    """Whether neither a trace nor a measurement makes the loss."""
    return name not in CORE and not has_file("losses", name, "stand_in")


def all_losses() -> Mapping[str, LossFacts]:
    """By the option's value, the core's first."""
    return {**CORE, **of_kind("losses")}


def spellings(trainer: str) -> dict[str, Spelling]:
    """How a trainer's file names each loss that it can name."""
    return {
        name: loss.spelled[trainer]
        for name, loss in all_losses().items()
        if trainer in loss.spelled
    }


def switches(trainer: str) -> dict[str, tuple[str, Spelling]]:
    """Keys of a trainer's file that switch a loss on, each with the loss that it means."""
    found = spellings(trainer).items()
    return {key: (name, spelling) for name, spelling in found for key in spelling.switches}
