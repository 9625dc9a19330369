"""What takes the place of kernels that are not installed, on the CPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INSIDE = Path(__file__).parents[2] / "lora_profiler" / "rehearsal" / "inside"

torch = pytest.importorskip("torch")


def padding() -> Any:
    path = INSIDE / "stand_ins" / "flash_attn" / "bert_padding.py"
    spec = importlib.util.spec_from_file_location("bert_padding", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_padding_is_cut_out_and_put_back_with_the_gradient_of_plain_indexing() -> None:
    of = padding()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    hidden = torch.randn(3, 4, 2, 5, requires_grad=True)
    rows, indices, begins, longest, used = of.unpad_input(hidden, mask)
    assert torch.equal(rows, hidden[mask.bool()])
    assert (begins.tolist(), longest, used.tolist()) == ([0, 3, 4, 8], 4, [3, 1, 4])
    back = of.pad_input(rows * 2, indices, 3, 4)
    assert torch.equal(back, hidden * 2 * mask[..., None, None])
    weight = torch.randn_like(back)
    (back * weight).sum().backward()
    assert torch.equal(hidden.grad, 2 * weight * mask[..., None, None])


def test_a_norm_of_the_hub_keeps_its_input_its_weight_and_a_number_a_row() -> None:
    from lora_profiler.rehearsal.inside.rehearsed import hub_layers

    norm = hub_layers.LigerRMSNorm()
    norm.weight = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    x = torch.randn(2, 3, 8, dtype=torch.bfloat16, requires_grad=True)
    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = norm(x)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert sorted(each.nbytes for each in kept) == [8 * 2, 6 * 4, 2 * 3 * 8 * 2]
    assert x.data_ptr() in [each.data_ptr() for each in kept]


ASKS = """
import kernels
from lora_profiler.rehearsal.inside.rehearsed import hub_kernels
hub_kernels.stand_in_for_kernels()
for name in ("rotary", "liger-kernels", "activation", "quantization-bitsandbytes"):
    try:
        print(*vars(kernels.get_kernel("kernels-community/" + name).layers))
    except FileNotFoundError as error:
        print(str(error).partition(":")[0])
print(hub_kernels.STOOD_IN_KERNELS, hub_kernels.PLAIN_KERNELS)
"""


def test_kernels_of_the_hub_that_are_not_on_this_disk(tmp_path: Path) -> None:
    pytest.importorskip("kernels")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", ASKS], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        "apply_rotary_transformers",
        "LigerRMSNorm",
        "kernels-community/activation is not on this disk",
        "kernels-community/quantization-bitsandbytes is not on this disk",
        "['kernels-community/rotary', 'kernels-community/liger-kernels']"
        " ['kernels-community/quantization-bitsandbytes']",
    ]
