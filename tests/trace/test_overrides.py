"""Every rule by which a trace speaks for a device: its target is where it was, torch and
transformers still do otherwise without it, and a trace without it is another one or none."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import oracle
import tracing
from cases import spec_of
from lora_profiler.errors import UnbuildableError
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace import overrides, tracer
from lora_profiler.trace import run as runs
from lora_profiler.trace.modeling import build_model, quantization_tensors
from lora_profiler.trace.overrides import SPARE_KEY, Autocast
from lora_profiler.trace.patching import TORCH, replaced

aten = torch.ops.aten
BASE, ALL = tracing.BASE, tracing.ALL
CUDA = replace(BASE, device="cuda", dtype="bfloat16")


@contextmanager
def nothing(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield


def tape(name: str, setup: TrainSetup, **changes: Any) -> list[tuple[int, int]]:
    """What is born and dies, with its size."""
    found = tracing.traced_of(tracing.config_of(name, vocab_size=32, **changes), setup).trace
    return [(e, found.births[e if e >= 0 else ~e].size_bytes) for e in found.events]


# --- without it -----------------------------------------------------------------------------------

PADDED = replace(BASE, padding=0.125)
CHANGED: dict[str, tuple[str, TrainSetup, dict[str, Any]]] = {
    "attention": ("llama", CUDA, {}),
    "byte_dropout": ("llama", replace(CUDA, lora=LoraConfig(r=4, lora_dropout=0.1)), {}),
    "generator_states": ("llama", replace(BASE, checkpointing=True), {}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_without_it_the_trace_is_another(name, monkeypatch):
    config, setup, changes = CHANGED[name]
    with_it = tape(config, setup, **changes)
    monkeypatch.setattr(overrides, name, nothing)
    assert tape(config, setup, **changes) != with_it


FAILING: dict[str, tuple[str, TrainSetup, dict[str, Any]]] = {
    "packed_sequences": ("llama", BASE, {}),
    "padding_check_skipped": ("gpt2", BASE, {"pad_token_id": 0}),
    "finite_values": ("bart", replace(BASE, dtype="float16"), {}),
    "known_padding": ("llama", PADDED, {}),
    "fused_on_meta": ("llama", replace(BASE, optimizer_impl="fused"), {}),
    "no_autocast_on_meta": ("mixtral", replace(BASE, lora=ALL), {}),
}


@pytest.mark.grid
@pytest.mark.parametrize("name", FAILING)
def test_without_it_there_is_no_trace(name, monkeypatch):
    config, setup, changes = FAILING[name]
    tape(config, setup, **changes)
    monkeypatch.setattr(overrides, name, nothing)
    with pytest.raises(UnbuildableError, match=r"cannot be traced"):
        tape(config, setup, **changes)


def test_fused_sgd_is_refused_by_its_own_module_too():
    weight = torch.empty(2, device="meta", requires_grad=True)
    weight.grad = torch.empty_like(weight)
    with pytest.raises(RuntimeError, match="fused"):
        torch.optim.SGD([weight], fused=True).step()


def test_where_no_line_of_the_model_runs_the_phase_is_named(monkeypatch):
    monkeypatch.setattr(overrides, "fused_on_meta", nothing)
    said = r"the optimizer of .* fails on a batch of text without data"
    with pytest.raises(UnbuildableError, match=said):
        tape("llama", replace(BASE, optimizer_impl="fused"))


QLORA = replace(BASE, lora=ALL, quantization=Quantization())
IN_8_BIT = replace(BASE, optimizer="adamw_8bit")
KERNELS: dict[Any, tuple[str, TrainSetup, dict[str, Any]]] = {
    aten._safe_softmax.default: ("llama", BASE, {"attention_dropout": 0.1}),
    "bitsandbytes::gemm_4bit": ("llama", QLORA, {}),
    "bitsandbytes::gemm_4bit on CUDA": ("llama", replace(QLORA, device="cuda"), {}),
    "bitsandbytes::optimizer_update_32bit": ("llama", IN_8_BIT, {}),
    "bitsandbytes::optimizer_update_8bit_blockwise": ("llama", IN_8_BIT, {}),
}


@pytest.mark.grid
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_without_its_python_an_operator_hides_what_it_allocates(kernel, monkeypatch):
    config, setup, changes = KERNELS[kernel]
    with_it = tape(config, setup, **changes)
    known = overrides.kernels_in_python(setup)
    (operator,) = [op for op in known if op is kernel or op.name() == str(kernel).split()[0]]
    without(operator, monkeypatch)
    assert tape(config, setup, **changes) != with_it


def without(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def less(plain: Any) -> Any:
        return lambda *given: {k: f for k, f in plain(*given).items() if k is not operator}

    for table in ("substitutes", "kernels_in_python"):
        monkeypatch.setattr(runs, table, less(getattr(runs, table)))


def test_a_layer_norm_on_the_cpu_keeps_its_statistics_in_16_bit(monkeypatch):
    setup = replace(BASE, dtype="bfloat16")
    with_it = tape("gpt2", setup)
    without(aten.native_layer_norm.default, monkeypatch)
    assert tape("gpt2", setup) != with_it


_WORDS = r"Expected (inputs of BF16 type|mat_a to be BFloat16)"
GROUPED = (aten._grouped_mm.default, "mixtral", BASE, _WORDS)
FUSED_SGD = replace(BASE, optimizer="sgd", optimizer_impl="fused")
REFUSED = [
    *([GROUPED] if torch.__version__ < (2, 15) else []),
    (aten._fused_sgd_.default, "llama", FUSED_SGD, "_fused_sgd_"),
]


@pytest.mark.parametrize(
    ("operator", "name", "setup", "reason"), REFUSED, ids=lambda value: str(value)[:20]
)
def test_what_the_meta_device_refuses(operator, name, setup, reason, monkeypatch):
    tape(name, setup)
    without(operator, monkeypatch)
    with pytest.raises(UnbuildableError, match=reason):
        tape(name, setup)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_grouped_products_keep_their_dtype_on_the_meta_device(dtype):
    """By the rule before torch 2.15, without one from then on."""
    operator = aten._grouped_mm.default
    rule = overrides.substitutes("cpu", Platform()).get(operator)
    assert (rule is None) == (torch.__version__ >= (2, 15))
    tensors = [torch.empty(*of, dtype=dtype, device="meta") for of in ((8, 16), (4, 16, 32))]
    ends = torch.empty(4, dtype=torch.int32, device="meta")
    out = operator(*tensors, ends) if rule is None else rule(operator, *tensors, ends)
    assert (out.shape, out.dtype) == ((8, 32), dtype)


def test_what_torch_does_on_the_cpu_where_the_meta_device_does_otherwise():
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    both = (x, x.to("meta"))
    on_cpu, on_meta = (torch.native_layer_norm(t, (8,), None, None, 1e-5)[1] for t in both)
    assert (on_cpu.dtype, on_meta.dtype) == (torch.bfloat16, torch.float32)
    assert torch.native_dropout(torch.ones(4), 0.5, True)[1].dtype == torch.bool


# --- random numbers -------------------------------------------------------------------------------


def test_no_generator_is_forked_for_the_meta_device_but_by_the_rule():
    seen: list[torch.Tensor] = []
    plain = torch.get_rng_state
    with (
        replaced(torch, "get_rng_state", lambda: seen.append(plain()) or seen[-1]),
        torch.random.fork_rng([], device_type="meta"),
    ):
        pass
    assert not seen
    with overrides.generator_states(seen.append), torch.random.fork_rng([], device_type="meta"):
        pass
    assert len(seen) == 1


# --- what a dispatch mode changes -----------------------------------------------------------------


class Names(TorchDispatchMode):
    """The operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def _gathered(x: torch.Tensor) -> torch.Tensor:
    return x.gather(1, torch.zeros(4, 6, dtype=torch.int64))


def _index_selected(x: torch.Tensor) -> torch.Tensor:
    return x.index_select(0, torch.tensor([0, 1]))


def _indexed(x: torch.Tensor) -> torch.Tensor:
    return x[torch.tensor([0, 1])]


def _largest(x: torch.Tensor) -> torch.Tensor:
    return x.topk(2)[0]


def _twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + x * 3


BACKWARD = {
    aten.scatter_add.default: (_gathered, "aten::scatter_add_"),
    aten.index_add.default: (_index_selected, "aten::index_add_"),
    aten.index_put.default: (_indexed, "aten::_index_put_impl_"),
    aten.scatter.src: (_largest, "aten::scatter_"),
    aten.add.Tensor: (_twice, "aten::add_"),
}


def test_every_rule_of_what_is_done_in_place_is_tried():
    assert set(BACKWARD) == set(tracer.IN_PLACE)


@pytest.mark.parametrize("operator", BACKWARD, ids=str)
def test_autograd_works_in_place_unless_a_mode_watches(operator):
    function, in_place = BACKWARD[operator]

    def backward() -> torch.Tensor:
        x = torch.ones(4, 6, requires_grad=True) * 1
        return function(x).sum().backward()

    backward()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        backward()
    assert in_place in {e.name() for e in found.profiler.kineto_results.events()}
    with Names() as watched:
        backward()
    assert operator.name() in watched.names
    assert in_place not in watched.names


@pytest.mark.parametrize("operator", BACKWARD, ids=str)
def test_the_tracer_works_in_place_where_autograd_does(operator):
    function, _ = BACKWARD[operator]

    def births() -> int:
        with torch.device("meta"):
            x = torch.ones(4, 6, requires_grad=True)
            watch = tracer.Tracer({}, {}, {}, counts_host=False)
            watch.mark(1, 0, "forward")
            with watch:
                y = function(x * 1).sum()
                watch.mark(1, 0, "backward")
                y.backward()
        return len(watch.trace.births)

    with_it = births()
    with replaced(tracer, "held_by_nobody_else", lambda *args: False):
        assert births() == with_it + 1


def test_a_gradient_that_somebody_holds_is_left_alone():
    held = torch.empty(3, device="meta")
    with torch.no_grad():
        views = [held.view(3) for _ in range(3)]
        added = (held, torch.empty(3, device="meta"))
        assert not tracer.held_by_nobody_else(aten.add.Tensor, added, {})
    assert len(views) == 3


def test_the_math_path_masks_in_place_unless_a_mode_watches(monkeypatch):
    qkv = [torch.ones(1, 1, 4, 8, requires_grad=True) for _ in range(3)]
    mask = torch.zeros(4, 4)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        F.scaled_dot_product_attention(*qkv, attn_mask=mask, dropout_p=0.5)
    assert "aten::add_" in {e.name() for e in found.profiler.kineto_results.events()}
    with Names() as watched:
        F.scaled_dot_product_attention(*qkv, attn_mask=mask, dropout_p=0.5)
    assert "aten::add.Tensor" in watched.names
    with_it = tape("llama", PADDED, attention_dropout=0.1)
    monkeypatch.setattr(tracer.Tracer, "masking_in_place", nothing)
    assert tape("llama", PADDED, attention_dropout=0.1) != with_it


# --- autocast -------------------------------------------------------------------------------------


def test_without_it_nothing_is_cast(monkeypatch):
    setup = replace(BASE, precision="amp")
    with_it = tape("llama", setup)
    monkeypatch.setattr(Autocast, "installed", nothing)
    monkeypatch.setattr(Autocast, "lowered", lambda self, *tensors: list(tensors))

    def forward(model: Any, setup: TrainSetup, batch: Any) -> Any:
        return model(**batch, use_cache=False).loss, None

    monkeypatch.setattr(runs.modeling, "forward", forward)
    assert tape("llama", setup) != with_it


def test_transformers_leaves_the_meta_device_out():
    # one of those that import the function by name
    from transformers.models.nemotron import modeling_nemotron as own

    with torch.autocast("cpu", torch.bfloat16), own.maybe_autocast("meta", enabled=False):
        assert torch.is_autocast_enabled("cpu")
    with Autocast(BASE).installed(), torch.autocast("cpu", torch.bfloat16):
        with own.maybe_autocast("meta", enabled=False):
            assert not torch.is_autocast_enabled("meta")
        assert torch.is_autocast_enabled("meta")
        assert not torch.is_autocast_enabled()  # of CUDA, as bitsandbytes' layers in PEFT ask
    with Autocast(CUDA).installed(), torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled()


def test_nobody_has_the_spare_key():
    names = torch._C._dispatch_get_all_op_names()
    assert not [n for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(n, SPARE_KEY)]
    with Autocast(BASE).installed():
        assert torch._C._dispatch_has_kernel_for_dispatch_key("aten::linear", SPARE_KEY)
    assert not [n for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(n, SPARE_KEY)]


HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"


def in_header(macro: str) -> set[str]:
    body = re.search(rf"#define AT_FORALL_{macro}\(_\)((?:.*\\\n)*.*)", HEADER.read_text()).group(1)  # type: ignore[union-attr]
    return {".".join(re.split(r",\s*", name)) for name in re.findall(r"_\(([\w, ]+)\)", body)}


def test_the_lists_of_cuda_are_torchs():
    added_in_cpp = {"cudnn_convolution", "cudnn_convolution_transpose"}
    # the same, for both devices
    in_float32 = {"linalg_matrix_sqrth"} if torch.__version__ >= (2, 14) else set()
    assert overrides.LOWER["cuda"] - added_in_cpp == in_header("LOWER_PRECISION_FP")
    assert overrides.FLOAT_RESULT["cuda"] == in_header("FP32_SET_OPT_DTYPE")
    assert overrides.PROMOTED["cuda"] == in_header("PROMOTE")
    wide = set(overrides.operators("cuda")) - ruled("cuda") - overrides.REFUSED
    assert wide == in_header("FP32") | in_float32


def ruled(device: str) -> set[str]:
    tables = (overrides.LOWER, overrides.FLOAT_RESULT, overrides.PROMOTED)
    return set().union(*(table[device] for table in tables))


@pytest.mark.parametrize("device", overrides.LISTS)
def test_every_operator_with_a_rule_takes_part(device):
    assert ruled(device) <= set(overrides.operators(device))


def _square(x: torch.Tensor) -> torch.Tensor:
    return torch.full_like(x[:, :4], 1.0)


OPERATIONS = {
    "linear": F.linear,
    "matmul": lambda x, y: x @ y.t(),
    "mm": lambda x, y: torch.mm(x, y.t()),
    "bmm": lambda x, y: torch.bmm(x[None], y.t()[None]),
    "addmm": lambda x, y: torch.addmm(_square(x), x, y.t()),
    "baddbmm": lambda x, y: torch.baddbmm(_square(x)[None], x[None], y.t()[None]),
    "einsum": lambda x, y: torch.einsum("ij,kj->ik", x, y),
    "conv1d": lambda x, y: F.conv1d(x[None], y[..., None][:, :4]),
    "layer_norm": lambda x, y: F.layer_norm(x, (8,)),
    "rms_norm": lambda x, y: F.rms_norm(x, (8,)),
    "softmax": lambda x, y: F.softmax(x, -1),
    "log_softmax": lambda x, y: F.log_softmax(x, -1),
    "cross_entropy": lambda x, y: F.cross_entropy(
        x, torch.zeros(4, dtype=torch.int64, device=x.device)
    ),
    "mse": F.mse_loss,
    "sum": lambda x, y: x.sum(),
    "mean": lambda x, y: x.mean(-1),
    "cumsum": lambda x, y: x.cumsum(-1),
    "pow": lambda x, y: x.pow(2),
    "rsqrt": lambda x, y: torch.rsqrt(x),
    "exp": lambda x, y: x.exp(),
    "softplus": lambda x, y: F.softplus(x),
    "gelu": lambda x, y: F.gelu(x),
    "cat": lambda x, y: torch.cat([x, y]),
    "stack": lambda x, y: torch.stack([x, y]),
    "add": lambda x, y: x + y,
    "prod": lambda x, y: x.prod(-1),
}
if torch.__version__ >= (2, 14):
    OPERATIONS["matrix_sqrth"] = lambda x, y: torch.linalg.matrix_sqrth(x.t() @ x)
_WIDE, _HALF = torch.float32, torch.bfloat16
DTYPES = [(_WIDE, _WIDE), (_HALF, _HALF), (_HALF, _WIDE)]


@pytest.mark.parametrize(("one", "other"), DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_casts_like_the_cpu(name, one, other):
    def dtype(device: str) -> Any:
        x = torch.ones(4, 8, dtype=one, device=device)
        y = torch.ones(4, 8, dtype=other, device=device)
        try:
            with torch.autocast("cpu", torch.bfloat16):
                return OPERATIONS[name](x, y).dtype
        except RuntimeError:
            return "refused"

    with Autocast(BASE).installed():
        emulated = dtype("meta")
    assert emulated == dtype("cpu")


ON_CUDA = {
    **dict.fromkeys(("linear", "matmul", "bmm", "einsum", "conv1d"), torch.bfloat16),
    **dict.fromkeys(
        ("layer_norm", "rms_norm", "softmax", "log_softmax", "cross_entropy", "mse"), torch.float32
    ),
    **dict.fromkeys(("sum", "cumsum", "pow", "rsqrt", "exp", "softplus", "prod"), torch.float32),
    **dict.fromkeys(("gelu", "mean", "cat", "add"), torch.bfloat16),
}


@pytest.mark.parametrize("name", ON_CUDA)
def test_casts_like_cuda(name):
    """By the table of the torch documentation ("CUDA Op-Specific Behavior")."""
    x = torch.ones(4, 8, dtype=torch.bfloat16, device="meta")
    with Autocast(CUDA).installed(), torch.autocast("cuda", torch.bfloat16):
        assert OPERATIONS[name](x, x).dtype == ON_CUDA[name]


def test_weights_are_cast_once_and_frozen_ones_every_time():
    counted = []
    with Autocast(BASE).installed():
        for trains in (True, False):
            weight = torch.ones(4, 8, device="meta", requires_grad=trains)
            x = torch.ones(4, 8, device="meta", dtype=torch.bfloat16)
            for _ in range(2):
                with Names() as watched, torch.autocast("cpu", torch.bfloat16):
                    F.linear(x, weight), F.linear(x, weight)
                counted.append(watched.names.count("aten::_to_copy"))
    assert counted == [1, 1, 2, 2]


def test_no_autocast_where_there_are_no_lists():
    with pytest.raises(UnbuildableError, match="autocast on mps"):
        tape("llama", replace(BASE, device="mps", precision="amp"))


# --- kernels of attention -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "width", "dropout", "grouped"),
    [
        ((4, 4), 16, 0.0, False),
        ((4, 2), 16, 0.0, True),
        ((4, 1), 16, 0.0, False),
        ((4, 1), 16, 0.1, False),
        ((4, 4), 16, 0.1, False),
        ((4, 4), 12, 0.0, False),
    ],
)
def test_the_cpu_takes_the_kernel_that_the_rule_says(heads, width, dropout, grouped):
    from lora_profiler.trace.attention import attention_kernel

    query = torch.ones(2, heads[0], 8, width, requires_grad=True)
    key, value = (torch.ones(2, heads[1], 8, width, requires_grad=True) for _ in range(2))
    with Names() as watched:
        told = {"dropout_p": dropout, "is_causal": True, "enable_gqa": grouped}
        F.scaled_dot_product_attention(query, key, value, **told)
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu" in watched.names
    workload = Workload(model=spec_of("llama"), setup=BASE, platform=Platform(torch=TORCH))
    taken = attention_kernel(workload, query, key, value, None, dropout, grouped)
    assert taken == ("cpu" if flash else "math")


def test_the_meta_device_knows_the_math_path_alone():
    qkv = [torch.ones(1, 2, 8, 16, device="meta") for _ in range(3)]
    with Names() as watched:
        F.scaled_dot_product_attention(*qkv)
    assert not [n for n in watched.names if "flash" in n or "efficient" in n]


def test_flash_pads_widths_that_its_loads_do_not_divide():
    assert tape("llama", CUDA, head_dim=12) != tape("llama", CUDA, head_dim=16)
    padded = tracing.traced_of(tracing.config_of("llama", head_dim=12), CUDA).trace
    pads = [b for b in padded.births if b.op == "constant_pad_nd" and b.saved]
    assert any(b.module.endswith("self_attn") for b in pads)


# --- 4 bit ----------------------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("recipe", ["stock", "kbit", "trl"])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_packed_base_without_data_has_the_layout_of_a_real_one(name, double_quant, recipe):
    quantization = Quantization(double_quant=double_quant, recipe=recipe)
    setup = replace(BASE, dtype="bfloat16", lora=ALL, quantization=quantization)

    def layout(device: str) -> dict[str, Any]:
        model = build_model(tracing.workload_of(tracing.config_of(name), setup), device=device)
        tensors = {n: [p, *quantization_tensors(p)] for n, p in model.named_parameters()}
        return {
            n: [(tuple(t.shape), t.dtype, t.device.type == device) for t in found]
            for n, found in tensors.items()
        }

    assert layout("meta") == layout("cpu")


def test_packing_without_data_leaves_no_code_book_without_data():
    from bitsandbytes import functional

    with replaced(functional, "name2qmap", {}):
        build_model(tracing.workload_of(tracing.config_of("llama"), QLORA), device="meta")
        assert functional.name2qmap["dynamic"].device.type == "cpu"
        oracle.build(tracing.config_of("llama"), QLORA)


def test_bitsandbytes_packs_nothing_on_its_way_to_the_meta_device():
    from bitsandbytes.nn import Params4bit

    weight = Params4bit(torch.empty(8, 64, device="meta"), quant_type="nf4").to("meta")
    assert weight.shape == (8, 64)
    assert weight.quant_state is None
