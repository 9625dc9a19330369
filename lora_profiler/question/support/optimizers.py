"""Optimizers of packages beside torch and transformers: what they keep of a tensor, and where. No
torch.

Sources: bitsandbytes `optim/optimizer.py`, `functional.py` (get_paged); torchao `optim/adam.py`,
`optim/subclass_8bit.py`, `optim/subclass_4bit.py`; transformers `trainer_optimizer.py` for the
names.
"""

from math import prod

from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.optimizer import optimizer_facts, package_optimizer
from lora_profiler.question.workload import FLAT, Sharding, TrainSetup
from lora_profiler.units import bytes_text


def widens_embeddings(setup: TrainSetup) -> bool:
    """Whether states of embeddings are in 32 bit though the optimizer's are in 8: transformers 5.24
    `trainer.py` (create_optimizer)."""
    made = package_optimizer(setup.optimizer)
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


def optimizer_words(setup: TrainSetup, paged_bytes: int) -> tuple[str, ...]:
    """What an answer takes for granted of an optimizer of another package, a sentence each;
    `paged_bytes` of its states are in unified memory."""
    if package_of(setup) == "torchao":
        return (COMPILED_STEP,)
    if assumption := optimizer_facts(setup.optimizer).assumption:
        return (assumption,)
    if not paged_bytes:
        return ()
    return (
        f"Also {bytes_text(paged_bytes)} of paged optimizer state, outside torch's allocator and"
        " this peak.",
    )


def package_of(setup: TrainSetup) -> str | None:
    """The package that makes the optimizer of `setup`, None for torch and transformers."""
    made = package_optimizer(setup.optimizer)
    return None if made is None else made.package


def steps_on_shards(optimizer: str, sharding: Sharding, on_host: bool) -> bool:
    """Whether rules know an optimizer on what FSDP leaves a rank of a parameter. FSDP1's part is a
    plain vector, which bitsandbytes takes where it lies on the card; torchao's states are those of
    the part of either (`optim/adam.py`, _new_buffer)."""
    made = package_optimizer(optimizer)
    if made is None:
        return optimizer_facts(optimizer).on_shards
    return made.package == "torchao" or (sharding in FLAT and not on_host)


def counts_in_steps(setup: TrainSetup) -> bool:
    """Whether states come in blocks or change their form with a tensor's size, or Muon squares the
    smaller side of a matrix: bytes are no polynomial in the rank."""
    made = package_optimizer(setup.optimizer)
    if made is None:
        return optimizer_facts(setup.optimizer).matrices_alone
    return made.bits < 32 or made.is_paged


def steps_in_groups(setup: TrainSetup) -> bool:
    """Whether a trainer steps what has weight decay apart from norms and biases, as transformers'
    does of a whole model (5.24, trainer.py, create_optimizer)."""
    return setup.loop_state != "none" and setup.lora is None and not setup.is_shared
