"""What the rest of the package asks of an optimizer. torch's AdamW and SGD are here; every other
one is a file under `features/optimizers/`."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from lora_profiler.question.feature import of_kind, part

STATE_BLOCK = 256
"""Elements of a state of 8 bits that share a scale."""
QUANTISED_FROM_NUMEL = 4096
"""Tensors of fewer elements keep whole states, in bitsandbytes and torchao."""
PAGED_FROM_NUMEL = 100_000
"""Elements from which on a paged optimizer of bitsandbytes keeps a state in unified memory."""


class PackageOptimizer(NamedTuple):
    """`states` of a tensor, each of `bits` an element, in blocks of `block` elements with a float32
    scale; `kind` is the class. `is_paged`: large states lie in CUDA's unified memory, which torch's
    allocator does not hold.

    Sources: bitsandbytes `optim/optimizer.py`, `functional.py` (get_paged); torchao
    `optim/adam.py`, `optim/subclass_8bit.py`, `optim/subclass_4bit.py`.
    """

    package: Literal["bitsandbytes", "torchao"]
    kind: str
    states: int
    bits: int
    block: int = STATE_BLOCK
    is_paged: bool = False

    @property
    def code_book_bytes(self) -> int:
        """float32 values of the codes of one state."""
        values: int = 2**self.bits
        return 4 * values

    def compiled_bytes(self, numel: int, device: str) -> int:
        """What torchao's step keeps of one state for a moment, as torch 2.13's torch.compile makes
        it: the average in float32 and its scales until it is quantised, and 4-bit codes as int64
        before they are packed, on a CPU as bytes too."""
        codes = 0 if self.bits == 8 else 9 if device == "cpu" else 8
        return (4 + codes) * numel + 4 * numel // self.block

    def pages(self, numel: int, device: str) -> bool:
        """Whether a tensor of so many elements has its states in unified memory; a CPU has none."""
        return self.is_paged and device != "cpu" and numel >= PAGED_FROM_NUMEL

    def quantises(self, numel: int) -> bool:
        """Whether a tensor of so many elements has states of fewer than 32 bits."""
        if self.bits == 32 or numel < QUANTISED_FROM_NUMEL:
            return False
        return self.package == "bitsandbytes" or numel % self.block == 0


class OptimizerFacts(NamedTuple):
    """Facts of an optimizer.

    label: as people call it. keeps: the sentence of `--explain`. assumption: of an answer.

    optim: its name in transformers' `TrainingArguments`, "" where the Trainer cannot make it;
    `aliases` are other names that trainers' files have. classes: names of the class in torchtune's
    files and in a rehearsal, which adds the bits of the states.

    package: for one of bitsandbytes or torchao. has_fused: torch has a fused implementation.
    matrices_alone: it refuses norms, biases and vectors. b_alone: it trains B of plain LoRA.
    whole_weights_alone: modelled without adapters and without sharded weights; projects_gradients
    of linear layers to a lower rank. rules_alone: neither a trace nor a measurement makes it.

    on_shards: it steps on what FSDP and tensor parallelism leave a rank of a weight.
    steps_in_backward: it is modelled there. is_timed: the time of its update is known. on_host:
    DeepSpeed can step it on the CPU. reduces: its step sums rows and columns.
    """

    label: str
    keeps: str
    assumption: str = ""
    optim: str = ""
    aliases: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    package: PackageOptimizer | None = None
    has_fused: bool = False
    matrices_alone: bool = False
    b_alone: bool = False
    whole_weights_alone: bool = False
    projects_gradients: bool = False
    rules_alone: bool = False
    on_shards: bool = False
    steps_in_backward: bool = False
    is_timed: bool = False
    on_host: bool = False
    reduces: bool = False


CORE: Mapping[str, OptimizerFacts] = {
    "adamw": OptimizerFacts(
        label="AdamW",
        keeps="AdamW keeps two states per trained weight, each in that weight's dtype",
        optim="adamw_torch",
        aliases=("adamw", "adamw_hf"),
        classes=("AdamW", "Adam"),
        has_fused=True,
        on_shards=True,
        is_timed=True,
        on_host=True,
    ),
    "sgd": OptimizerFacts(
        label="SGD",
        keeps="SGD without momentum keeps nothing",
        optim="sgd",
        classes=("SGD",),
        has_fused=True,
        on_shards=True,
        steps_in_backward=True,
        is_timed=True,
    ),
}


def optimizer_facts(name: str) -> OptimizerFacts:
    """Facts of the optimizer that the option names."""
    found: OptimizerFacts = CORE.get(name) or part("optimizers", name, "", "FEATURE")
    return found


def all_optimizers() -> Mapping[str, OptimizerFacts]:
    """By the option's value, the core's first."""
    return {**CORE, **of_kind("optimizers")}


def package_optimizer(name: str) -> PackageOptimizer | None:
    """What bitsandbytes or torchao makes under that name; None for all others."""
    return optimizer_facts(name).package
