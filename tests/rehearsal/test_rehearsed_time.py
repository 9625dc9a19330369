"""The time of a rehearsed step: what is read off its operators, and what the roofline makes of it."""

import json
import sys
from ctypes import c_int
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.rehearsed import step_time as benchmark
from benchmarks.rows import read_rows
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.memory.kernels import Gemm, Kernel
from lora_profiler.planning.nearest import RehearsedTime, rehearsed_time
from lora_profiler.report.rehearsed import bound_of, time_blocks, time_document, time_line
from lora_profiler.report.terminal import plain
from lora_profiler.trace.modeling.operator_kernels import kernel_of

A100 = find_gpu("a100_sxm_80gb")
INSIDE = "lora_profiler.rehearsal.inside.rehearsed"
RATES = {"bandwidth": 2039e9, "tensor": 312e12}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, over stubs that count what the test says."""
    stubs = ModuleType(f"{INSIDE}.kernels")
    stubs.count = 0  # type: ignore[attr-defined]
    stubs.launches = lambda: stubs.count  # type: ignore[attr-defined]
    stubs.library_calls = lambda: 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"{INSIDE}.kernels", stubs)
    monkeypatch.delitem(sys.modules, f"{INSIDE}.work", raising=False)
    from importlib import import_module

    monkeypatch.setattr(import_module(INSIDE), "kernels", stubs, raising=False)
    return import_module(f"{INSIDE}.work")


def test_a_step_s_operators_are_counted_with_their_bytes_and_products(work: Any) -> None:
    """Two layers of 16 x 16 in bfloat16 over 2 x 8 tokens, by hand: two products forward, and three
    backward, for the input needs no gradient."""
    make = {"device": "meta", "dtype": torch.bfloat16}
    layers = [torch.nn.Linear(16, 16, bias=False, **make) for _ in range(2)]
    model = torch.nn.Sequential(layers[0], torch.nn.GELU(), layers[1])
    looking = work.StepWork(lambda: "forward", model)
    looking.begin()
    x, gradient = (torch.empty(2, 8, 16, **make) for _ in range(2))
    model(x).backward(gradient)
    found = looking.end()
    assert found["tokens"] == 16 and found["unread"] == found["other_libraries"] == {}
    assert found["update"] == []
    ran = {row["op"]: row for row in found["step"]}
    assert sum(row["count"] for row in found["step"] if row["kind"] == "gemm") == 5
    assert all(row["gemm"] == [1, 16, 16, 16] for row in found["step"] if row["kind"] == "gemm")
    assert ran["mm"]["flops"] == 2 * 16**3 and ran["mm"]["dtype"] == "bfloat16"
    each = 16 * 16 * 2  # bytes of an activation, and of a weight
    assert (ran["mm"]["read_bytes"], ran["mm"]["written_bytes"]) == (2 * each, each)
    assert (ran["gelu"]["read_bytes"], ran["gelu"]["written_bytes"]) == (each, each)
    assert ran["gelu"]["count"] == 1 and ran["gelu_backward"]["read_bytes"] == 2 * each


def test_what_the_optimizer_runs_is_told_apart_and_launches_are_the_stubs_own(work: Any) -> None:
    phase = "forward"
    looking = work.StepWork(lambda: phase, None)
    looking.begin()
    a, b = (torch.empty(8, 4, device="meta") for _ in range(2))
    a @ b.T
    phase = "optimizer"
    torch._foreach_add_([a, b], 1.0)
    work.kernels.count += 3  # between operators, as a library's own launches are
    found = looking.end()
    assert [row["op"] for row in found["step"]] == ["mm"]
    assert found["step"][0]["gemm"] == [1, 8, 8, 4]
    (update,) = found["update"]
    assert update["op"] == "_foreach_add_" and update["written_bytes"] == 2 * 8 * 4 * 4
    # what launches no kernel is a copy that the host asks for
    assert found["launches"] == 3 + 2 and found["update_launches"] == 1


def test_triton_s_kernels_are_read_off_their_arguments(
    work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCard(torch.Tensor):
        is_cuda = True  # type: ignore[assignment]

    class JITFunction:
        __name__ = "swiglu"

        def run(self, *args: Any, **options: Any) -> str:
            return "ran"

    jit = ModuleType("triton.runtime.jit")
    jit.JITFunction = JITFunction  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton.runtime.jit", jit)
    hooks: set[Any] = set()
    triton = ModuleType("triton")
    chain = SimpleNamespace(add=hooks.add, remove=hooks.remove)
    triton.knobs = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=SimpleNamespace(launch_enter_hook=chain)
    )
    monkeypatch.setitem(sys.modules, "triton", triton)
    x, y = (torch.empty(16).as_subclass(OnCard) for _ in range(2))
    looking = work.StepWork(lambda: "forward", None)
    looking._watch_triton()
    original = JITFunction.run
    kernel = JITFunction()
    assert len(hooks) == 1  # without one Unsloth repeats launches past `run`
    assert kernel.run(x, y, x, 3, BLOCK=64) == kernel.run(x, warmup=True) == "ran"
    for undo in looking._undo:
        undo()
    assert JITFunction.run is not original and not hooks
    ((found, count),) = looking._counts["step"].items()
    assert count == 1 and found.op == "triton swiglu"
    assert found.moved_bytes == 2 * 16 * 4  # x is there twice and moved once


# --- the time -------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("read_bytes", "written_bytes", "flops"), 0)
    plain_row = {"kind": "memory", "op": "add", "dtype": None, "gemm": None, "count": 1, **empty}
    return {**plain_row, **changes}


PRODUCT = row(
    kind="gemm",
    op="mm",
    dtype="bfloat16",
    gemm=[1, 13824, 8192, 4096],
    flops=2 * 13824 * 8192 * 4096,
    count=10,
)
"""54 x 64 tiles of 256 x 128, which are 32 whole waves on 108 multiprocessors."""
WORK: dict[str, Any] = {
    "tokens": 4096,
    "launches": 40,
    "library_calls": 10,
    "update_launches": 4,
    "unread": {},
    "other_libraries": {},
    "step": [PRODUCT, row(read_bytes=10**10, written_bytes=10**10, count=2)],
    "update": [row(op="_foreach_add_", read_bytes=3 * 10**9, written_bytes=10**9)],
}


def test_the_time_by_hand() -> None:
    found = rehearsed_time(WORK, A100)
    assert found.time is not None and found.products == 10 and found.launches == 50
    constants = found.time.constants
    # each tile fills its pipeline with 96 of the 4,096 first
    product = 10 * 2 * 13824 * 8192 * (4096 + 96) / (RATES["tensor"] * constants.eta)
    copies = 2 * 2e10 / (RATES["bandwidth"] * constants.beta)
    device, host = product + copies, 46 * constants.fixed.launch_seconds
    update = 4e9 / (RATES["bandwidth"] * constants.beta)
    update_host = 4 * constants.fixed.launch_seconds
    expected = (
        (device**2 + host**2) ** 0.5
        + (update**2 + update_host**2) ** 0.5
        + constants.fixed.step_seconds
    )
    assert found.time.seconds == pytest.approx(expected, rel=1e-6)
    assert found.time.tokens_per_second == pytest.approx(4096 / expected)
    assert found.time.low < expected < found.time.high
    assert bound_of(found.time)[0] == "matrix products"
    less = {**WORK, "step": [{**PRODUCT, "count": 1}, *WORK["step"][1:]]}
    time = rehearsed_time(less, A100).time
    assert time is not None and bound_of(time)[0] == "moving bytes"


def test_what_is_priced_by_bytes_alone_widens_the_interval() -> None:
    sure = rehearsed_time(WORK, A100).time
    for changes in (
        {"other_libraries": {"flash_attn::fwd": 2}},
        {"unread": {"aten::_scaled_mm": 1}},
        {"step": [*WORK["step"], row(op="triton swiglu", read_bytes=8)]},
    ):
        time = rehearsed_time({**WORK, **changes}, A100).time
        assert sure is not None and time is not None
        assert time.high / time.seconds > sure.high / sure.seconds


@pytest.mark.parametrize(
    ("work", "card", "reason"),
    [
        (None, "a100_sxm_80gb", "the script ended before one more step"),
        ({"reason": "a compiled model"}, "a100_sxm_80gb", "a compiled model"),
        ({**WORK, "step": [row(op="int8_linear_matmul")]}, "a100_sxm_80gb", "int8"),
        (WORK, "custom:24GiB", "no source gives the peaks"),
    ],
)
def test_a_time_that_is_not_known_is_left_out(work: Any, card: str, reason: str) -> None:
    found = rehearsed_time(work, find_gpu(card))
    assert found.time is None and reason in found.reason
    assert time_document(found) == {"reason": found.reason}
    assert reason in time_line(found)


def test_the_answer_says_that_it_is_predicted_and_what_bounds_it() -> None:
    found = rehearsed_time({**WORK, "library_calls": 12, "other_libraries": {"x::y": 1}}, A100)
    assert found.time is not None
    text = plain(time_blocks(found, found.time, "an A100"))
    assert "Predicted, not measured: 52 launches over 4,096 tokens" in text
    assert "2 of 12 calls of BLAS and its like were not seen as operators" in " ".join(text.split())
    assert "x::y" in text and "is matrix products." in " ".join(text.split())
    told = time_document(found)
    assert told["basis"] == "predicted" and json.loads(json.dumps(told)) == told
    assert sum(told["part_seconds"].values()) == pytest.approx(told["seconds"])


def test_rows_of_kernels_come_back_as_they_were(work: Any) -> None:
    kernel = Kernel(
        kind="memory", op="add", phase="forward", module="", read_bytes=3, written_bytes=2
    )
    assert work._row(kernel, 7) == row(read_bytes=3, written_bytes=2, count=7)
    assert kernel._replace(count=7).count == 7
    assert isinstance(rehearsed_time(None, A100), RehearsedTime)


def test_weights_that_c_functions_unpack_are_heard_of(work: Any) -> None:
    """64 x 64 values in blocks of 64, their 64 scales in 8 bit with one block of their own; whoever
    calls bitsandbytes for them, and with what of ctypes'."""
    from lora_profiler.rehearsal.inside.rehearsed import dequantised

    called: list[int] = []

    def unpack(*arguments: Any) -> int:
        called.append(len(arguments))
        return 7

    looking = work.StepWork(lambda: "forward", None)
    nested, weight = (dequantised._Heard(unpack, *sizes) for sizes in ((8, 4), (4, 2)))
    weight.argtypes = [1]
    assert weight.argtypes == unpack.argtypes == [1]  # type: ignore[attr-defined]
    assert nested(0, 0, 0, 0, 256, 64, 0) == 7  # nobody listens
    looking.begin()
    nested(0, 0, 0, 0, 256, 64, 0)
    weight(0, 0, 0, 0, c_int(64), c_int(64 * 64), 0)
    found = {row["op"]: (row["read_bytes"], row["written_bytes"]) for row in looking.end()["step"]}
    assert found["dequantize_blockwise"] == (64 + 4 + 1024, 64 * 4)
    assert found["dequantize_4bit"] == (2048 + 64 * 4, 64 * 64 * 2)
    assert called == [7, 7, 7] and dequantised.LISTENERS == []


def test_a_product_that_unpacks_as_it_multiplies_is_a_product() -> None:
    func = SimpleNamespace(
        _overloadpacket=SimpleNamespace(__name__="gemm_4bit"), _schema=SimpleNamespace(arguments=())
    )
    x, out = (torch.empty(2, 8, n, dtype=torch.bfloat16, device="meta") for n in (64, 32))
    packed = torch.empty(32 * 32, dtype=torch.uint8, device="meta")
    found = kernel_of(func, (x, packed, [32, 64], None, 64, "nf4"), {}, out, "forward", "")
    assert found is not None and found.gemm == Gemm(m=16, n=32, k=64) and found.kind == "gemm"


def test_a_fused_update_reads_four_and_writes_three(work: Any) -> None:
    """Weight, gradient and two states; torch's schema says that the gradient is written, too."""
    weight, gradient, first, second = (torch.empty(64, device="meta") for _ in range(4))
    steps = torch.empty((), device="meta")
    looking = work.StepWork(lambda: "optimizer", None)
    looking.begin()
    torch._fused_adamw_(
        [weight], [gradient], [first], [second], [], [steps], lr=1e-4, beta1=0.9, beta2=0.95,
        weight_decay=0.1, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    (update,) = looking.end()["update"]
    assert update["read_bytes"] - 4 == 4 * 64 * 4  # beside the count of steps
    assert update["written_bytes"] == 3 * 64 * 4


def test_rehearsed_steps_take_as_long_as_predicted_ones() -> None:
    """Of the harness' own loop, whose kernels rules count: the committed rows priced anew."""
    rows = read_rows(benchmark.BENCHMARK.path)
    found = [each for row in rows if (each := benchmark.compared(row))]
    assert len(found) > 50
    assert [row for row in found if abs(row["difference"]) > benchmark.BOUND] == []
