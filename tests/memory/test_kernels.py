"""The kernels of a traced step: single layers worked out by hand, whole models against what really
runs on the CPU."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import cases
from lora_profiler.errors import UnbuildableError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.kernels import Gemm, Kernel, Phase, StepKernels, merged
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.steptime.roofline import update_bytes
from lora_profiler.trace.kernels import at_units, recorded, step_kernels
from lora_profiler.trace.modeling import build_model, forward_loss, make_optimizer
from lora_profiler.trace.modeling.adapters import inject_adapters
from lora_profiler.trace.modeling.operator_kernels import kernel_of

torch.set_num_threads(1)

BATCH, SEQ, INPUTS, OUTPUTS, RANK = 2, 24, 96, 160, 4
TOKENS = BATCH * SEQ
X, Y, W = TOKENS * INPUTS, TOKENS * OUTPUTS, INPUTS * OUTPUTS
A, B, XA = RANK * INPUTS, RANK * OUTPUTS, TOKENS * RANK
"""Elements: input, output and weight of the layer, those of the adapter, and what lies between its
two products."""


class Loss:
    def __init__(self, loss: Tensor) -> None:
        self.loss = loss


class OneLayer(nn.Module):
    """A linear layer between an embedding and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, INPUTS)
        self.layer = nn.Linear(INPUTS, OUTPUTS, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor, use_cache: bool) -> Loss:
        return Loss(self.layer(self.embedding(input_ids)).float().sum())


def one_layer(workload: Workload) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = OneLayer().to(torch.bfloat16)
        if workload.setup.lora is not None:
            model = inject_adapters(model, workload.setup)
            model.get_submodule("base_model.model.embedding").weight.requires_grad_()
    return model.train()


def setup(**more: Any) -> TrainSetup:
    return TrainSetup(**{"batch_size": BATCH, "seq_len": SEQ, **more})


def of_layer(phase: Phase, **more: Any) -> list[tuple[str, int, int, int]]:
    """(operator, bytes read, bytes written, FLOPs) of each kernel in the layer, in order of their
    names."""
    workload = Workload(model=cases.spec_of(cases.TINY_NAMES[0]), setup=setup(**more))
    step = recorded(workload, one_layer, None)
    found = [k for k in step.kernels if k.module == "layer" and k.phase == phase]
    return sorted(
        (k.op, k.read_bytes, k.written_bytes, k.flops) for k in found for _ in range(k.count)
    )


def test_a_linear_layer_is_three_products() -> None:
    assert of_layer("forward") == [("mm", 2 * X + 2 * W, 2 * Y, 2 * X * OUTPUTS)]
    gradients = [
        ("mm", 2 * Y + 2 * X, 2 * W, 2 * X * OUTPUTS),
        ("mm", 2 * Y + 2 * W, 2 * X, 2 * X * OUTPUTS),
    ]
    assert of_layer("backward") == sorted(gradients)


LORA = LoraConfig(r=RANK, lora_dropout=0.1, target_modules=("layer",))


def test_an_adapted_layer_forward() -> None:
    """bfloat16 base, float32 adapter: x cast, dropped (with a mask of one byte an element), two
    products, scaled, added, cast."""
    by_hand = (
        ("mm", 2 * X + 2 * W, 2 * Y, 2 * X * OUTPUTS), ("_to_copy", 2 * X, 4 * X, 0),
        ("native_dropout", 4 * X, 5 * X, 0), ("mm", 4 * X + 4 * A, 4 * XA, 2 * X * RANK),
        ("mm", 4 * XA + 4 * B, 4 * Y, 2 * XA * OUTPUTS), ("mul", 4 * Y, 4 * Y, 0),
        ("add", 6 * Y, 4 * Y, 0), ("_to_copy", 4 * Y, 2 * Y, 0),
    )  # fmt: skip
    assert of_layer("forward", lora=LORA) == sorted(by_hand)


def test_an_adapted_layer_backward() -> None:
    """The base's weight has no gradient; both of the adapter's have, and x has those of base and
    adapter, which are added."""
    by_hand = (
        ("_to_copy", 2 * Y, 4 * Y, 0), ("_to_copy", 4 * Y, 2 * Y, 0), ("mul", 4 * Y, 4 * Y, 0),
        ("mm", 4 * Y + 4 * XA, 4 * B, 2 * XA * OUTPUTS),
        ("mm", 4 * Y + 4 * B, 4 * XA, 2 * XA * OUTPUTS),
        ("mm", 4 * XA + 4 * X, 4 * A, 2 * X * RANK), ("mm", 4 * XA + 4 * A, 4 * X, 2 * X * RANK),
        ("native_dropout_backward", 5 * X, 4 * X, 0), ("_to_copy", 4 * X, 2 * X, 0),
        ("mm", 2 * Y + 2 * W, 2 * X, 2 * X * OUTPUTS), ("add_", 4 * X, 2 * X, 0),
    )  # fmt: skip
    assert of_layer("backward", lora=LORA) == sorted(by_hand)


class Watching(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kernel = kernel_of(func, args, kwargs or {}, result, "forward", "")
        if kernel is not None:
            self.kernels.append(kernel)
        return result


@contextmanager
def watching() -> Iterator[list[Kernel]]:
    mode = Watching()
    with mode, torch.device("meta"):
        yield mode.kernels


def traffic(kernels: list[Kernel]) -> list[tuple[str, int, int]]:
    return [(k.op, k.read_bytes, k.written_bytes) for k in kernels]


def indices(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.int64, device="meta")


def test_views_and_empty_tensors_are_no_kernels() -> None:
    x = torch.empty(4, 6, device="meta")
    with watching() as kernels:
        x.view(6, 4).t()[1:].unsqueeze(0).expand(3, -1, -1)
        torch.empty_like(x).detach()
    assert kernels == []


def test_an_expanded_dimension_is_read_once() -> None:
    x, row = torch.empty(5, 7, device="meta"), torch.empty(7, device="meta")
    with watching() as kernels:
        x * row.expand(5, 7)
    assert traffic(kernels) == [("mul", 4 * (35 + 7), 4 * 35)]


def test_the_same_tensor_twice_is_read_once() -> None:
    x = torch.empty(5, 7, device="meta")
    with watching() as kernels:
        x * x
    assert traffic(kernels) == [("mul", 4 * 35, 4 * 35)]


def test_what_is_filled_is_not_read_and_what_is_copied_over_neither() -> None:
    x, y = torch.empty(5, 7, device="meta"), torch.empty(5, 7, dtype=torch.bfloat16, device="meta")
    with watching() as kernels:
        torch.zeros(5, 7)
        x.fill_(1.0)
        x.copy_(y)
        x.add_(y)
    read = {"zeros": 0, "fill_": 0, "copy_": 70, "add_": 210}
    assert traffic(kernels) == [(name, size, 140) for name, size in read.items()]


def test_a_gather_reads_what_it_writes_and_its_indices() -> None:
    table, ids = torch.empty(1000, 8, device="meta"), indices(3, 2)
    with watching() as kernels:
        F.embedding(ids, table)
    assert traffic(kernels) == [("embedding", 6 * 8 * 4 + 6 * 8, 6 * 8 * 4)]


def test_a_loss_reads_one_log_probability_a_row() -> None:
    scores, wanted = torch.empty(6, 50, device="meta"), indices(6)
    with watching() as kernels:
        F.nll_loss(scores, wanted)
    assert [(k.op, k.read_bytes) for k in kernels] == [("nll_loss_forward", 6 * 4 + 6 * 8)]


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_two_products_and_five_backward(causal: bool) -> None:
    batch, heads, kv_heads, seq, width = 2, 6, 2, 64, 16
    q = torch.empty(batch, heads, seq, width, dtype=torch.bfloat16, device="meta")
    k = torch.empty(batch, kv_heads, seq, width, dtype=torch.bfloat16, device="meta")
    with watching() as kernels:
        torch.ops.aten._scaled_dot_product_flash_attention(q, k, k, 0.0, causal)
    product = 2 * batch * heads * seq * seq * width // (2 if causal else 1)
    (found,) = kernels
    assert (found.kind, found.flops, found.dtype) == ("attention_forward", 2 * product, "bfloat16")


def test_a_dequantised_layer() -> None:
    """Half a byte a weight, one scale of 8 bit for 64 of them and one of 32 for 256 of these: 2.77
    bytes a weight in all."""
    config = cases.spec_of("llama")
    lora = LoraConfig(r=RANK, target_modules=("q_proj",))
    workload = Workload(model=config, setup=setup(lora=lora, quantization=Quantization()))
    forward = [k for k in step_kernels(workload).kernels if k.phase == "forward"]
    kernels = [k for k in forward if k.module.endswith("up_proj")]
    weights = config.config["hidden_size"] * config.config["intermediate_size"]
    made = [k for k in kernels if k.op == "dequantize_4bit"]
    assert {k.parameters for k in made} == {weights}
    assert all(k.kind == "dequantise" for k in made)
    moved = sum(k.count * k.moved_bytes for k in kernels if k.gemm is None)
    # the code book and the few scales of a tiny layer weigh more
    assert moved / sum(k.count for k in made) / weights == pytest.approx(2.77, rel=0.1)


def on_cpu(config: str, method: str, checkpointing: bool) -> Workload:
    lora = cases.methods(cases.family(config))[method]
    plain: dict[str, Any] = {"dtype": "float32", "attention": "eager", "device": "cpu"}
    asked = setup(lora=lora, checkpointing=checkpointing, **plain)
    return Workload(model=cases.spec_of(config), setup=asked)


def real_step(workload: Workload) -> Callable[[], None]:
    """A real model's forward and backward pass."""
    model = build_model(workload)
    ids = torch.zeros(BATCH, SEQ, dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    return lambda: forward_loss(model, workload.setup, batch).backward()


def on_meta(workload: Workload) -> nn.Module:
    return build_model(workload, device="meta")


CASES = [
    ("llama", "full", False), ("llama", "all", False), ("llama", "all", True),
    ("llama", "full", True), ("gpt2", "few", False), ("gpt2", "full", True),
    ("gemma2", "all", False), ("opt", "full", False), ("qwen3", "few", True),
]  # fmt: skip


@pytest.mark.grid
@pytest.mark.parametrize(("config", "method", "checkpointing"), CASES)
def test_flops_are_those_that_a_real_step_counts(
    config: str, method: str, checkpointing: bool
) -> None:
    """With eager attention every product is a product of matrices to torch's own counter too."""
    workload = on_cpu(config, method, checkpointing)
    step, run = recorded(workload, on_meta, None), real_step(workload)
    with FlopCounterMode(display=False) as counter:
        run()
    assert sum(k.count * k.flops for k in step.kernels) == counter.get_total_flops()


COUNTED = (
    "mm", "bmm", "addmm", "silu", "silu_backward", "rsqrt", "neg", "_softmax",
    "_softmax_backward_data", "embedding", "_log_softmax", "_log_softmax_backward_data",
    "nll_loss_forward", "nll_loss_backward", "gelu", "gelu_backward", "native_layer_norm",
    "native_layer_norm_backward", "embedding_dense_backward", "tanh", "tanh_backward",
)  # fmt: skip
"""Operators that no other operator calls beneath torch's dispatcher, so that the profiler sees one
for one."""


@pytest.mark.grid
@pytest.mark.parametrize(
    ("config", "method"),
    [(config, method) for config, method, checkpointing in CASES if not checkpointing],
)
def test_operators_are_as_many_as_a_real_step_runs(config: str, method: str) -> None:
    """Not with checkpointing, where the profiler sees a product begin that the end of recomputation
    keeps from running."""
    workload = on_cpu(config, method, checkpointing=False)
    step, run = recorded(workload, on_meta, None), real_step(workload)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    real = Counter(event.name.removeprefix("aten::") for event in profiler.events())
    mine: Counter[str] = Counter()
    for kernel in step.kernels:
        mine[kernel.op] += kernel.count
    assert {op: mine[op] for op in COUNTED} == {op: real[op] for op in COUNTED}


def deep(config: str, layers: int, changes: Mapping[str, int] = {}, **more: Any) -> Workload:
    raw = {**cases.CONFIGS[config], "num_hidden_layers": layers, **changes}
    return Workload(model=model_from_config(raw, id=config, source="test"), setup=setup(**more))


@pytest.mark.grid
@pytest.mark.parametrize(
    ("config", "more"),
    [("llama", {"lora": LoraConfig(r=4), "checkpointing": True}), ("mixtral", {})],
)
def test_counts_of_a_deep_model_are_those_of_its_own_trace(
    config: str, more: dict[str, Any]
) -> None:
    workload = deep(config, 7, **more)
    line = step_kernels(workload)
    own = recorded(workload, on_meta, None)
    real = [(k, re.sub(r"layers\.\d+", "layers.*", k.module)) for k in own.kernels]
    whole = merged(k._replace(module=module) for k, module in real)
    found, expected = ({k._replace(count=1): k.count for k in ks} for ks in (line.kernels, whole))
    assert found == expected
    assert line.launches == sum(k.count * k.launches for k in whole)


def test_layers_that_differ_are_refused() -> None:
    def build(workload: Workload) -> nn.Module:
        model: Any = build_model(workload, device="meta")
        for number, layer in enumerate(model.model.layers):
            if number == 3:
                layer.mlp.act_fn = nn.Tanh()
        return model  # type: ignore[no-any-return]

    with pytest.raises(UnbuildableError, match="not linear in its layers"):
        step_kernels(deep("llama", 9), build)


def test_equal_kernels_are_merged_and_lines_go_on() -> None:
    one = Kernel(kind="memory", op="add", phase="forward", module="", read_bytes=8, written_bytes=4)
    other = one._replace(op="mul")
    each = [one, one._replace(count=2), other, other._replace(count=-1)]
    assert merged(each) == (one._replace(count=3),)
    counted = ((one._replace(count=n), {4: 10 * n}) for n in (5, 8))
    two, three = (StepKernels(kernels=(k,), tokens=1, trainable=t) for k, t in counted)
    ten = at_units(two, three, 10)
    assert ten.kernels[0].count == 5 + 3 * 8
    assert ten.trainable == {4: 50 + 30 * 8}


def test_accumulation_adds_onto_gradients() -> None:
    """The last micro-batch of several is recorded: it adds each weight's gradient to the one that
    is there."""
    one, many = (of_layer("backward", accumulation=n) for n in (1, 3))
    assert len(one) == 2
    asked = Workload(model=cases.spec_of(cases.TINY_NAMES[0]), setup=setup(accumulation=3))
    sums = [k for k in recorded(asked, one_layer, None).kernels if k.op == "add_"]
    added = [k for k in sums if k.phase == "backward" and k.read_bytes == 4 * W]
    assert [k.written_bytes for k in added] == [2 * W], many


def test_a_gemm_s_flops() -> None:
    assert Gemm(batches=3, m=2, n=5, k=7).flops == 2 * 3 * 2 * 5 * 7


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("impl", ["foreach", "forloop"])
def test_the_update_moves_what_its_operators_do(optimizer: Any, impl: Any) -> None:
    asked = TrainSetup(optimizer=optimizer, optimizer_impl=impl, dtype="float32")
    model = nn.Linear(30, 40, bias=False, device="meta")
    stepping = make_optimizer(model, asked)
    for _ in range(2):
        model.weight.grad = torch.empty_like(model.weight)
        with watching() as kernels:
            stepping.step()
    moved = sum(k.moved_bytes for k in kernels if k.moved_bytes > 1000)
    assert moved == update_bytes(asked, {4: 1200})


@pytest.mark.parametrize("heads", [(8, 8), (8, 2)])
def test_bytes_of_a_plain_llama_are_those_counted_from_its_code(heads: tuple[int, int]) -> None:
    """Bytes per token of what is no product and no attention, without what does not grow with a
    width, operator by operator.

    Forward: norms 2 x 36, sums 2 x 6 an element of the hidden state, rotation 20 of queries and
    keys, SwiGLU 10 of the MLP. Backward: norms 2 x 92 with their weights, gradients summed 5 x 6
    (two residuals; q, k, v; gate, up), rotation 34, SwiGLU 18.
    """
    hidden, inner, layers = 256, 704, 9
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "head_dim": hidden // heads[0]}
    counts = {"num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    kernels = step_kernels(deep("llama", layers, changes=sizes | counts)).kernels
    both = hidden + hidden * heads[1] // heads[0]

    copies = [k for k in kernels if k.kind == "memory" and ".*" in k.module]

    def moved(phase: Phase) -> float:
        found = [k for k in copies if k.phase == phase]
        return sum(k.count * k.moved_bytes for k in found) / TOKENS

    forward = layers * (84 * hidden + 20 * both + 10 * inner)
    backward = layers * (214 * hidden + 34 * both + 18 * inner)
    assert moved("forward") == pytest.approx(forward, rel=0.03)
    assert moved("backward") == pytest.approx(backward, rel=0.03)
