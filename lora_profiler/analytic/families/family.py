"""What a family has to say: how it embeds, what one layer does, and how it gets from the last layer
to logits."""

from collections.abc import Callable
from typing import NamedTuple

from lora_profiler.analytic.families.blocks import Config, heads_of
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import Tensor


class Family(NamedTuple):
    """`stack` is the ModuleList of decoder layers. `embed` turns ids into the residual stream,
    `layer` runs layer i, `head` makes logits of the last hidden state, `norm` that state of the
    last layer's output.

    `window(config, i)` is the sliding window of layer i in tokens, None for full attention;
    `rotary_sets(config)` are the (name, features) of its rotary tables, in `rotary_dtype` or the
    residual stream's dtype; `buffer_bytes(dtype)` what the model registers beside them.
    `mask_is_positional`: layers take the attention mask as a positional argument, which
    checkpointing saves. `masks(config)`: windows that get a mask whether a layer uses it or not.
    `positions_per_sample`: position ids are (b, s) instead of (1, s).
    """

    stack: str
    embed: Callable[[Ledger, Tensor, Config], Tensor]
    layer: Callable[[Ledger, Tensor, Config, int], Tensor]
    norm: Callable[[Ledger, Tensor, Config], Tensor]
    head: Callable[[Ledger, Tensor, Config], Tensor]
    window: Callable[[Config, int], int | None]
    rotary_sets: Callable[[Config], tuple[tuple[str, int], ...]]
    rotary_dtype: str | None = None
    buffer_bytes: Callable[[str], int] = lambda dtype: 0
    mask_is_positional: bool = False
    masks: Callable[[Config], tuple[int | None, ...]] = lambda c: ()
    positions_per_sample: bool = False


def plain_embedding(name: str) -> Callable[[Ledger, Tensor, Config], Tensor]:
    def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
        return op.inputs(op.embedding(name, ids, c["hidden_size"]))

    return embed


def plain_head(op: Ledger, x: Tensor, c: Config) -> Tensor:
    return linear(op, x, "lm_head")


def full_attention(c: Config, layer: int) -> int | None:
    return None


def window_by_layer_type(c: Config, layer: int) -> int | None:
    """`layer_types` where the config has them, else its `sliding_window` for every layer."""
    types = c.get("layer_types")
    if types:
        return c.get("sliding_window") if types[layer] == "sliding_attention" else None
    return c.get("sliding_window")


def one_rotary_set(c: Config) -> tuple[tuple[str, int], ...]:
    return (("rotary", heads_of(c).dim),)
