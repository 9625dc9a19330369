"""The truth that the analytic predictor is tested against: real transformers and PEFT models,
measured on the CPU.

Nothing here knows a formula. Autograd's own hooks say what a forward pass keeps, the allocator's
event record says how many bytes are live, and torch's FLOP counter counts what is really
dispatched.
"""

import gc
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace.modeling import (
    attention_context,
    build_model,
    make_optimizer,
    quantization_tensors,
    state_tensors,
)
from lora_profiler.trace.modeling import forward as forward_pass
from lora_profiler.trace.modeling.adapters import inject_adapters
from lora_profiler.trace.modeling.build import base_model
from lora_profiler.trace.modeling.third_party import quiet

Phase = Literal["forward", "backward", "optimizer"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer")
MARK = "oracle."
Batch = Mapping[str, torch.Tensor]


# --- building -------------------------------------------------------------------------------------


def build(config: Mapping[str, Any], setup: TrainSetup) -> torch.nn.Module:
    """The model of a config.json-like dict with random weights on the CPU, ready to train as
    `setup` says."""
    return build_model(Workload(model=_spec(config), setup=replace(setup, device="cpu")))


def _spec(config: Mapping[str, Any]) -> ModelSpec:
    return model_from_config(dict(config), id="oracle", source="test")


def quantized_by_transformers(config: Mapping[str, Any], setup: TrainSetup) -> torch.nn.Module:
    """What `build` makes of a 4-bit setup, the other way round: written in 16 bit and loaded back
    in NF4.

    So transformers itself decides what is quantised, and how; nothing of `modeling.nf4` runs.
    """
    from peft import prepare_model_for_kbit_training

    quantization, setup = setup.quantization, replace(setup, device="cpu")
    assert quantization is not None
    dtype = getattr(torch, setup.dtype)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        torch.manual_seed(0)
        base_model(_spec(config), setup).save_pretrained(folder)  # type: ignore[operator]
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=nf4, device_map="cpu"
        )
        if quantization.recipe == "kbit":
            checkpointing = {"use_reentrant": False}
            model = prepare_model_for_kbit_training(
                model,
                use_gradient_checkpointing=setup.checkpointing,
                gradient_checkpointing_kwargs=checkpointing,
            )
        return inject_adapters(model, setup).train()


# --- one training step ----------------------------------------------------------------------------


def make_ids(model: Any, setup: TrainSetup) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        0, model.config.vocab_size, (setup.batch_size, setup.seq_len), generator=generator
    )


def make_batch(model: Any, setup: TrainSetup) -> Batch:
    """Without an attention mask, but for padded sequences; packed rows with positions that begin
    anew, and no label where they do; sound for Whisper."""
    ids = make_ids(model, setup)
    if model.main_input_name == "input_features":
        shape = (setup.batch_size, model.config.num_mel_bins, 2 * model.config.max_source_positions)
        return {"input_features": torch.ones(shape), "labels": ids}
    if setup.padding:
        mask = torch.ones_like(ids)
        mask[:, -max(1, round(setup.seq_len * setup.padding)) :] = 0
        return {
            "input_ids": ids,
            "labels": torch.where(mask == 0, -100, ids),
            "attention_mask": mask,
        }
    if not setup.packed or setup.packed >= setup.seq_len:
        return {"input_ids": ids, "labels": ids}
    positions = torch.arange(setup.seq_len).remainder(setup.packed).repeat(setup.batch_size, 1)
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(positions == 0, -100),
        "position_ids": positions,
    }


def forward(model: Any, setup: TrainSetup, batch: Batch) -> torch.Tensor:
    """The loss, and nothing else, of one forward pass."""
    setup = replace(setup, device="cpu")
    with attention_context(setup):
        return forward_pass(model, setup, batch).loss


def run_steps(
    model: torch.nn.Module,
    setup: TrainSetup,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    steps: int,
    phase: Callable[[int, Phase], AbstractContextManager[Any]] = lambda step, name: nullcontext(),
    zero_last: bool = True,
) -> None:
    """`steps` whole optimizer steps, each of `setup.accumulation` micro-batches; `phase` wraps
    every part of a step. Each micro-batch's output lives until the next one's takes its name, where
    the setup says so."""
    setup = replace(setup, device="cpu")
    for step in range(1, steps + 1):
        for _ in range(setup.accumulation):
            with phase(step, "forward"), attention_context(setup):
                loss, out = forward_pass(model, setup, batch)
            with phase(step, "backward"), attention_context(setup):
                loss.backward()
        with phase(step, "optimizer"):
            optimizer.step()
        if zero_last or step < steps:
            optimizer.zero_grad(set_to_none=True)
        del loss
    del out


# --- what lives on --------------------------------------------------------------------------------


def storage_key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def quantization_state_bytes(model: torch.nn.Module) -> dict[str, int]:
    """Bytes of the quantisation state of every quantised weight, by its name."""
    sizes = {
        f"{name}.weight": sum(t.untyped_storage().nbytes() for t in _beside(module))
        for name, module in model.named_modules()
    }
    return {name: size for name, size in sizes.items() if size}


def _beside(module: torch.nn.Module) -> list[torch.Tensor]:
    """The tensors beside a weight in 4 or 8 bit; the module owns those of 8 bit once it has run."""
    found = [t for p in module.parameters(recurse=False) for t in quantization_tensors(p)]
    own = any(hasattr(module, name) for name in ("state", "quant_state"))
    return found or (quantization_tensors(module) if own else [])


def fixed_storages(model: torch.nn.Module) -> dict[int, int]:
    """Key and bytes of each storage that the model owns: parameters, buffers, quantisation
    states."""
    owned = [*model.parameters(), *model.buffers()]
    owned += [t for module in model.modules() for t in _beside(module)]
    return {storage_key(t): t.untyped_storage().nbytes() for t in owned}


def persistent_bytes(
    model: torch.nn.Module, setup: TrainSetup, optimizer: torch.optim.Optimizer
) -> dict[str, tuple[int, int, int]]:
    """(parameter, gradient, optimizer state) bytes by parameter name, after two real steps.

    The packed weight of a 4-bit parameter is counted here, its quantisation state in
    `quantization_state_bytes`. The code books of 8-bit AdamW, which all its states share, stand
    under the pseudo-name "code books".
    """
    run_steps(model, setup, optimizer, make_batch(model, setup), 2, zero_last=False)
    books = {storage_key(t): t.untyped_storage().nbytes() for t in _code_books(optimizer)}
    result = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad.untyped_storage().nbytes() if parameter.grad is not None else 0
        state = state_tensors(optimizer.state.get(parameter, {}))
        state_bytes = sum(
            t.untyped_storage().nbytes() for t in state if storage_key(t) not in books
        )
        result[name] = (parameter.untyped_storage().nbytes(), grad, state_bytes)
    if books:
        result["code books"] = (0, 0, sum(books.values()))
    optimizer.zero_grad(set_to_none=True)
    return result


def _code_books(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What bitsandbytes makes together with the optimizer, before its first step."""
    return list(getattr(optimizer, "name2qmap", {}).values())


# --- what a forward pass keeps --------------------------------------------------------------------


class Saved(NamedTuple):
    """One storage that autograd keeps: its bytes, the innermost module that ran when it was saved
    first, and as what."""

    bytes: int
    module: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def saved_by_storage(model: torch.nn.Module, setup: TrainSetup) -> list[Saved]:
    """Every storage that one forward pass with labels keeps for backward, in order; the model's own
    are left out."""
    known = fixed_storages(model)
    found: dict[int, Saved] = {}
    alive: list[torch.Tensor] = []

    with module_stack(model) as stack:

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            key = storage_key(tensor)
            if key not in known and key not in found and tensor.untyped_storage().nbytes():
                found[key] = Saved(
                    tensor.untyped_storage().nbytes(), stack[-1], tensor.dtype, tuple(tensor.shape)
                )
                alive.append(tensor)  # else its key could be used again
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = forward(model, setup, make_batch(model, setup))
    del loss
    return list(found.values())


def saved_activation_bytes(model: torch.nn.Module, setup: TrainSetup) -> int:
    """Bytes that autograd keeps at the end of forward, parameters and buffers left out."""
    return sum(saved.bytes for saved in saved_by_storage(model, setup))


@contextmanager
def module_stack(model: torch.nn.Module) -> Iterator[list[str]]:
    """A list whose last element is the name of the module that is running."""
    stack: list[str] = [""]
    handles = []
    for name, module in model.named_modules():

        def enter(_module: torch.nn.Module, _args: Any, name: str = name) -> None:
            stack.append(name)

        def leave(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
            stack.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


# --- peaks ----------------------------------------------------------------------------------------

Peaks = dict[tuple[int, str], int]


def step_peaks(
    model: torch.nn.Module,
    setup: TrainSetup,
    steps: int = 2,
    source: str = "allocator",
    batch: Batch | None = None,
) -> Peaks:
    """Peak live bytes of each (step, phase), and of the whole step under (step, "step").

    source "allocator" replays torch's own record of the CPU allocator, kernel scratch included.
    "dispatch" follows the storages that operators return, and sees no more than those.
    """
    optimizer = make_optimizer(model, setup)
    batch = make_batch(model, setup) if batch is None else batch
    gc.collect()
    others = {
        storage_key(t): t.untyped_storage().nbytes()
        for t in (*batch.values(), *_code_books(optimizer))
    }
    before = fixed_storages(model) | others
    measure = {"allocator": _allocator_peaks, "dispatch": _dispatch_peaks}[source]
    peaks = measure(model, setup, optimizer, batch, steps, before)
    for step in range(1, steps + 1):
        peaks[step, "step"] = max(peaks[step, phase] for phase in PHASES)
    return peaks


def _allocator_peaks(
    model: torch.nn.Module,
    setup: TrainSetup,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    steps: int,
    before: dict[int, int],
) -> Peaks:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_steps(
            model,
            setup,
            optimizer,
            batch,
            steps,
            lambda step, name: record_function(f"{MARK}{step}.{name}"),
        )
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    marks = [(e.start_ns(), e.end_ns(), e.name()) for e in events if e.name().startswith(MARK)]
    memory = deque(
        sorted(
            ((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"),
            key=lambda pair: pair[0],
        )
    )
    live = sum(before.values())
    peaks: Peaks = {}
    for start, end, name in sorted(marks):
        step, phase = name.removeprefix(MARK).split(".")
        while memory and memory[0][0] < start:
            live += memory.popleft()[1]
        peak = live
        while memory and memory[0][0] <= end:
            live += memory.popleft()[1]
            peak = max(peak, live)
        key = (int(step), phase)
        peaks[key] = max(peak, peaks.get(key, 0))
    return peaks


class StorageTracker(TorchDispatchMode):
    """Live bytes of all CPU storages that operators return, and of those registered before."""

    def __init__(self, before: Mapping[int, int]) -> None:
        super().__init__()
        self.live = sum(before.values())
        self.peak = self.live
        self._known = set(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _dispatch_peaks(
    model: torch.nn.Module,
    setup: TrainSetup,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    steps: int,
    before: dict[int, int],
) -> Peaks:
    peaks: Peaks = {}
    tracker = StorageTracker(before)

    @contextmanager
    def phase(step: int, name: Phase) -> Iterator[None]:
        tracker.peak = tracker.live
        yield
        peaks[step, name] = max(tracker.peak, peaks.get((step, name), 0))

    with tracker:
        run_steps(model, setup, optimizer, batch, steps, phase)
    return peaks


# --- FLOPs ----------------------------------------------------------------------------------------


class _FlopCounter(FlopCounterMode):
    """Counts apart what runs in backward with grad mode on: only the recomputation of a checkpoint
    does."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.with_grad = 0

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        before = self.get_total_flops()
        result = super()._count_flops(func_packet, out, args, kwargs)
        if torch.is_grad_enabled():
            self.with_grad += self.get_total_flops() - before
        return result


def flops(model: torch.nn.Module, setup: TrainSetup) -> dict[str, int]:
    """FLOPs of one micro-batch: forward, backward, and recompute (0 without checkpointing), none
    counted twice.

    torch counts causal attention in full, and knows no formula for the CPU's flash attention: take
    eager attention where the attention core must be counted.
    """
    batch = make_batch(model, setup)
    with _FlopCounter() as ahead:
        loss = forward(model, setup, batch)
    with _FlopCounter() as back:
        loss.backward()
    model.zero_grad(set_to_none=True)
    return {
        "forward": ahead.get_total_flops(),
        "backward": back.get_total_flops() - back.with_grad,
        "recompute": back.with_grad,
    }


def forward_flops_by_module(model: torch.nn.Module, setup: TrainSetup) -> dict[str, int]:
    """Forward FLOPs by full module name, each with those of the modules inside it; the whole model
    is ""."""
    with _FlopCounter() as counter, torch.no_grad():
        forward(model, setup, make_batch(model, setup))
    root = type(model).__name__
    counts = {
        "" if name in ("Global", root) else name.removeprefix(root + "."): sum(ops.values())
        for name, ops in counter.get_flop_counts().items()
    }
    return counts
