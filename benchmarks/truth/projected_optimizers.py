"""What GaLore, APOLLO and Adam-mini keep and work with, recorded with the packages themselves.

    PYTHONPATH=PACKAGES python -m benchmarks.truth.projected_optimizers

writes `tests/data/projected_optimizers.json`: bytes of the states of one weight after a step, and
the most that a second step allocates beside them, on a CPU.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.pages import versions_of, write_lines
from benchmarks.truth.packed_layers import most_allocated

FILE = Path(__file__).parents[2] / "tests" / "data" / "projected_optimizers.json"
SHAPES = ((96, 96), (192, 64), (64, 192), (40, 256), (300, 24))
RANKS = (8, 32, 128)
NAMES = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight",
         "model.layers.0.self_attn.q_proj.bias", "model.layers.0.input_layernorm.weight",
         "lm_head.weight", "transformer.h.0.attn.c_attn.weight")  # fmt: skip
HIDDEN, HEADS = 64, 4


def rows() -> Iterator[dict[str, Any]]:
    for name, dtype, shape, rank in product(
        ("galore_adamw", "apollo_adamw"), ("float32", "bfloat16"), SHAPES, RANKS
    ):
        weight = torch.nn.Parameter(torch.randn(shape).to(getattr(torch, dtype)))
        yield {"optimizer": name, "rank": rank} | _row(_projecting(name, weight, rank), weight)
    for name, dtype in product(NAMES, ("float32", "bfloat16")):
        shape = (64,) if name.endswith("bias") or "norm" in name else (128, 64)
        weight = torch.nn.Parameter(torch.randn(shape).to(getattr(torch, dtype)))
        from adam_mini import Adam_mini

        made = Adam_mini([(name, weight)], dim=HIDDEN, n_heads=HEADS, verbose=False)
        yield {"optimizer": "adam_mini", "name": name} | _row(made, weight)


def _projecting(name: str, weight: torch.nn.Parameter, rank: int) -> torch.optim.Optimizer:
    """With the options that transformers gives by default."""
    group: dict[str, Any] = {"params": [weight], "rank": rank, "update_proj_gap": 200}
    group |= {"proj_type": "std", "scale": 0.25}
    if name == "galore_adamw":
        from galore_torch import GaLoreAdamW

        return GaLoreAdamW([group], no_deprecation_warning=True)  # type: ignore[no-any-return]
    from apollo_torch import APOLLOAdamW

    return APOLLOAdamW([group | {"proj": "random", "scale_type": "channel"}])  # type: ignore[no-any-return]


def _row(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> dict[str, Any]:
    weight.grad = torch.randn(weight.shape).to(weight.dtype)
    optimizer.step()
    found = _tensors(optimizer.state[weight])
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return {
        "dtype": str(weight.dtype).removeprefix("torch."),
        "shape": list(weight.shape),
        "state_bytes": sum(storages.values()),
        "step_bytes": most_allocated(optimizer.step),
    }


def _tensors(state: Any) -> list[torch.Tensor]:
    found = [v for v in state.values() if isinstance(v, torch.Tensor)]
    projector = state.get("projector")
    return found if projector is None else [*found, projector.ortho_matrix]


if __name__ == "__main__":
    packages = versions_of("galore-torch", "apollo-torch", "adam-mini", "torch")
    write_lines(FILE, packages, rows())
