"""Losses of trainers' own packages beside their stand-ins, where a package is installed: the same
loss, the same gradients, and the same bytes alive at once."""

import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lora_profiler.question.feature import part
from lora_profiler.question.workload import LoraConfig, TrainSetup
from oracle import StorageTracker

ROWS, TOKENS, WIDTH, WORDS = 2, 200, 48, 4001
LORA = TrainSetup(device="cpu", lora=LoraConfig(), batch_size=ROWS, seq_len=TOKENS)
FULL = TrainSetup(device="cpu", batch_size=ROWS, seq_len=TOKENS)


class Given(NamedTuple):
    """What a loss is made of, and the labels as the trainer's data set brings them: shifted."""

    hidden: Tensor
    weight: Tensor
    ids: Tensor
    shifted: Tensor


def given(setup: TrainSetup, dtype: torch.dtype) -> Given:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, TOKENS, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(WORDS, WIDTH, generator=generator).to(dtype)
    ids = torch.randint(0, WORDS, (ROWS, TOKENS), generator=generator)
    shifted = torch.cat([ids[:, 1:], torch.full((ROWS, 1), -100)], 1)
    return Given(hidden.requires_grad_(), weight.requires_grad_(setup.lora is None), ids, shifted)


Made = tuple[Tensor, Tensor | None, Tensor | None]


def trained(g: Given, loss: Callable[[], Tensor]) -> Made:
    g.hidden.grad = g.weight.grad = None
    value = loss()
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), g.hidden.grad, g.weight.grad


def allocated(g: Given, loss: Callable[[], Tensor]) -> int:
    """The most that the CPU's allocator had given out at once, by torch's profiler."""
    trained(g, loss)  # what a first pass makes once
    g.hidden.grad = g.weight.grad = None
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trained(g, loss)
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, size in sizes:
        live += size
        peak = max(peak, live)
    return peak


def followed(g: Given, loss: Callable[[], Tensor]) -> int:
    """The most that tensors had at once, without what is inside an operator."""
    g.hidden.grad = g.weight.grad = None
    gc.collect()
    own = {t.untyped_storage()._cdata: 0 for t in g}
    tracker = StorageTracker(own)
    with tracker:
        trained(g, loss)
    return tracker.peak


def same(g: Given, mine: Callable[[], Tensor], real: Callable[[], Tensor]) -> None:
    """Numbers and bytes."""
    for one, other in zip(trained(g, mine), trained(g, real), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)
    assert allocated(g, mine) == allocated(g, real)


SETUPS = pytest.mark.parametrize("setup", [LORA, FULL], ids=["frozen head", "trained head"])


def stand_in(name: str, setup: TrainSetup, g: Given) -> Tensor:
    made = part("losses", name, "stand_in", "loss")(setup, g.hidden, g.weight, None, g.ids)
    found: Tensor = made.loss
    return found


head = torch.nn.functional.linear


def of_torchtune(setup: TrainSetup, g: Given) -> Callable[[], Tensor]:
    """LinearCrossEntropyLoss came with version 0.7."""
    losses: Any = pytest.importorskip("torchtune.modules.loss", exc_type=ImportError)
    if not hasattr(losses, "LinearCrossEntropyLoss"):
        pytest.skip("a torchtune before 0.7")
    linear = losses.LinearCrossEntropyLoss()
    linear.linear_projection = lambda tokens: head(tokens, g.weight)
    return lambda: linear(g.hidden, g.shifted.clone())  # which came with the batch


def of_torchtune_s_chunks(setup: TrainSetup, g: Given) -> Callable[[], Tensor]:
    losses: Any = pytest.importorskip("torchtune.modules.loss", exc_type=ImportError)
    chunked = losses.CEWithChunkedOutputLoss()

    def real() -> Tensor:
        shifted = g.shifted.clone()
        parts = [head(tokens, g.weight) for tokens in g.hidden.tensor_split(8, dim=1)]
        found: Tensor = chunked(parts, shifted)
        return found

    return real


def of_litgpt(setup: TrainSetup, g: Given) -> Callable[[], Tensor]:
    """As `finetune_lora` and `finetune_full` call it, after Fabric's own conversion."""
    utils: Any = pytest.importorskip("litgpt.utils", exc_type=ImportError)
    precision: Any = pytest.importorskip("lightning.fabric.plugins.precision.half")
    converted: Any = precision.HalfPrecision("bf16-true").convert_output

    def real() -> Tensor:
        if setup.lora is None:
            parts = converted(head(g.hidden, g.weight))[..., :-1, :]
        else:
            parts = converted([head(tokens, g.weight) for tokens in g.hidden.split(128, dim=1)])
            parts[-1] = parts[-1][..., :-1, :]
        found: Tensor = utils.chunked_cross_entropy(parts, g.ids[..., 1:])
        return found

    return real


@SETUPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "real"),
    [
        ("torchtune", of_torchtune),
        ("torchtune-chunked", of_torchtune_s_chunks),
        ("litgpt", of_litgpt),
    ],
    ids=["torchtune", "torchtune-chunked", "litgpt"],
)
def test_losses(
    name: str, real: Callable[..., Callable[[], Tensor]], setup: TrainSetup, dtype: torch.dtype
) -> None:
    g = given(setup, dtype)
    same(g, lambda: stand_in(name, setup, g), real(setup, g))


@SETUPS
def test_cut_cross_entropy(setup: TrainSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of its implementation in torch; the bytes those of the host code around
    its kernels, which are replaced by nothing, without its locks."""
    cce: Any = pytest.importorskip("cut_cross_entropy.cce", exc_type=ImportError)
    from cut_cross_entropy import cce_backward, cce_lse_forward, indexed_dot, torch_compile

    g = given(setup, torch.bfloat16)

    def mine() -> Tensor:
        return stand_in("cce", setup, g)

    def as_torch() -> Tensor:
        return _loss(torch_compile.torch_compile_linear_cross_entropy, g)

    with torch.compiler.set_stance("force_eager"):
        found = trained(g, as_torch)
    for one, other in zip(trained(g, mine), found, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one - other).norm() < 0.02 * other.norm()

    class Nothing:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *args, **kwargs: None

    monkeypatch.setattr(cce_lse_forward, "_cce_lse_forward_kernel", Nothing())
    monkeypatch.setattr(indexed_dot, "_indexed_neg_dot_forward_kernel", Nothing())
    monkeypatch.setattr(cce_backward, "_cce_backward_kernel", Nothing())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (9, 0))
    locks = 4 * -(-WIDTH // 64) * -(-ROWS * (TOKENS - 1) // 128)
    locks += 4 * -(-WIDTH // 64) * -(-WORDS // 128) * (setup.lora is None)

    def real() -> Tensor:
        summed = _loss(cce.cce_linear_cross_entropy, g, reduction="sum")
        return summed / (ROWS * (TOKENS - 1))

    with torch.compiler.set_stance("force_eager"):
        assert followed(g, mine) == followed(g, real) - locks


def _loss(function: Callable[..., Any], g: Given, **options: Any) -> Tensor:
    found = function(g.hidden, g.weight, g.ids, shift=True, **options)
    loss: Tensor = found[0] if isinstance(found, tuple) else found
    return loss
