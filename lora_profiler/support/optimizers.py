"""Optimizers of packages beside torch and transformers: what they keep of a tensor, and where. No
torch.

Sources: bitsandbytes `optim/optimizer.py`, `functional.py` (get_paged); torchao `optim/adam.py`,
`optim/subclass_8bit.py`, `optim/subclass_4bit.py`; transformers `trainer_optimizer.py` for the
names.
"""

from collections.abc import Mapping
from math import prod
from typing import Literal, NamedTuple

from lora_profiler.model_spec import ModelSpec
from lora_profiler.units import bytes_text
from lora_profiler.workload import FLAT, Device, Optimizer, Sharding, TrainSetup

QUANTISED_FROM_NUMEL = 4096
"""Tensors of fewer elements keep whole states, in both packages."""
PAGED_FROM_NUMEL = 100_000
"""Elements from which on a paged optimizer of bitsandbytes keeps a state in unified memory."""


class PackageOptimizer(NamedTuple):
    """`states` of a tensor, each of `bits` an element, in blocks of `block` elements with a float32
    scale; `kind` is the class. `is_paged`: large states lie in CUDA's unified memory, which torch's
    allocator does not hold."""

    package: Literal["bitsandbytes", "torchao"]
    kind: str
    states: int
    bits: int
    block: int = 256
    is_paged: bool = False

    @property
    def code_book_bytes(self) -> int:
        """float32 values of the codes of one state."""
        values: int = 2**self.bits
        return 4 * values

    def compiled_bytes(self, numel: int, device: Device) -> int:
        """What torchao's step keeps of one state for a moment, as torch 2.13's torch.compile makes
        it: the average in float32 and its scales until it is quantised, and 4-bit codes as int64
        before they are packed, on a CPU as bytes too."""
        codes = 0 if self.bits == 8 else 9 if device == "cpu" else 8
        return (4 + codes) * numel + 4 * numel // self.block

    def pages(self, numel: int, device: Device) -> bool:
        """Whether a tensor of so many elements has its states in unified memory; a CPU has none."""
        return self.is_paged and device != "cpu" and numel >= PAGED_FROM_NUMEL

    def quantises(self, numel: int) -> bool:
        """Whether a tensor of so many elements has states of fewer than 32 bits."""
        if self.bits == 32 or numel < QUANTISED_FROM_NUMEL:
            return False
        return self.package == "bitsandbytes" or numel % self.block == 0


PACKAGE_OPTIMIZERS: Mapping[Optimizer, PackageOptimizer] = {
    "adamw_8bit": PackageOptimizer("bitsandbytes", "AdamW", 2, 8),
    "paged_adamw_8bit": PackageOptimizer("bitsandbytes", "AdamW", 2, 8, is_paged=True),
    "paged_adamw_32bit": PackageOptimizer("bitsandbytes", "AdamW", 2, 32, is_paged=True),
    "lion": PackageOptimizer("bitsandbytes", "Lion", 1, 32),
    "lion_8bit": PackageOptimizer("bitsandbytes", "Lion", 1, 8),
    "paged_lion_8bit": PackageOptimizer("bitsandbytes", "Lion", 1, 8, is_paged=True),
    "paged_lion_32bit": PackageOptimizer("bitsandbytes", "Lion", 1, 32, is_paged=True),
    "adamw_torch_8bit": PackageOptimizer("torchao", "AdamW8bit", 2, 8),
    "adamw_torch_4bit": PackageOptimizer("torchao", "AdamW4bit", 2, 4, block=128),
}


def widens_embeddings(setup: TrainSetup) -> bool:
    """Whether states of embeddings are in 32 bit though the optimizer's are in 8: transformers 5.24
    `trainer.py` (create_optimizer)."""
    made = PACKAGE_OPTIMIZERS.get(setup.optimizer)
    is_bitsandbytes = made is not None and made.package == "bitsandbytes" and made.bits == 8
    return is_bitsandbytes and setup.loop_state != "none"


_HEADS = ("k_proj", "q_proj", "wq", "wk", "query", "key")
_ROWS = (
    *("embd", "embed", "wte", "lm_head", "output", "final_layer", "v_proj", "wv", "value"),
    *("feed_forward", "linear", "mlp", "o_proj", "wo", "attn.proj"),
)
"""Parts of names by which Adam-mini finds queries and keys, with an average a head, and weights
with one a row; a bias keeps all, everything else one."""


def second_averages(model: ModelSpec, name: str, shape: tuple[int, ...]) -> int:
    """How many of Adam-mini's a parameter has, by its full name."""
    numel: int = prod(shape)
    name = name.lower()
    if "bias" in name:
        return numel
    if any(part in name for part in _HEADS):
        hidden, heads = model.config["hidden_size"], model.config["num_attention_heads"]
        return numel // int(hidden * hidden // heads)
    return shape[0] if any(part in name for part in _ROWS) else 1


COMPILED_STEP = (
    "torchao's step is what torch 2.13's torch.compile makes of it; compiling it, in the first"
    " step, is left out."
)


_PROJECTS = (
    " projects the gradients of linear layers (all-linear) to rank --optimizer-rank, renewed"
    " every 200 steps"
)
_RULED: Mapping[Optimizer, str] = {
    "galore_adamw": (
        f"GaLore{_PROJECTS} by a decomposition in float32, which is counted with its vectors;"
        " cuSOLVER's own workspace is left out."
    ),
    "apollo_adamw": f"APOLLO{_PROJECTS} by a random matrix.",
    "adam_mini": "Adam-mini finds its blocks by the names of weights.",
}


def optimizer_words(setup: TrainSetup, paged_bytes: int) -> tuple[str, ...]:
    """What an answer takes for granted of an optimizer of another package, a sentence each;
    `paged_bytes` of its states are in unified memory."""
    if package_of(setup) == "torchao":
        return (COMPILED_STEP,)
    if setup.optimizer in _RULED:
        return (_RULED[setup.optimizer],)
    if not paged_bytes:
        return ()
    return (
        f"Also {bytes_text(paged_bytes)} of paged optimizer state, outside torch's allocator and"
        " this peak.",
    )


def package_of(setup: TrainSetup) -> str | None:
    """The package that makes the optimizer of `setup`, None for torch and transformers."""
    made = PACKAGE_OPTIMIZERS.get(setup.optimizer)
    return None if made is None else made.package


def steps_on_shards(optimizer: str, sharding: Sharding, on_host: bool) -> bool:
    """Whether rules know an optimizer on what FSDP leaves a rank of a parameter. FSDP1's part is a
    plain vector, which bitsandbytes takes where it lies on the card; torchao's states are those of
    the part of either (`optim/adam.py`, _new_buffer)."""
    made = PACKAGE_OPTIMIZERS.get(optimizer)  # type: ignore[call-overload]
    if made is None:
        return optimizer in ("adamw", "sgd", "rmsprop")
    return made.package == "torchao" or (sharding in FLAT and not on_host)


def counts_in_steps(setup: TrainSetup) -> bool:
    """Whether states come in blocks or change their form with a tensor's size, or Muon squares the
    smaller side of a matrix: bytes are no polynomial in the rank."""
    made = PACKAGE_OPTIMIZERS.get(setup.optimizer)
    if made is None:
        return setup.optimizer == "muon"
    return made.bits < 32 or made.is_paged


def steps_in_groups(setup: TrainSetup) -> bool:
    """Whether a trainer steps what has weight decay apart from norms and biases, as transformers'
    does of a whole model (5.24, trainer.py, create_optimizer)."""
    return setup.loop_state != "none" and setup.lora is None and not setup.is_shared
