"""The parts of one training step that depend on the setup: the optimizer, the loss, and the
attention kernel."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora_profiler.errors import UnbuildableError
from lora_profiler.question.feature import part
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.model_spec import is_headless
from lora_profiler.question.optimizer import PackageOptimizer, package_optimizer
from lora_profiler.question.support.optimizers import steps_in_groups, widens_embeddings
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.contents import told_apart, within
from lora_profiler.trace.modeling.losses import (
    contrastive_loss,
    is_of_next_token,
    labels_for,
    loss_without_logits,
    smoothed_loss,
)
from lora_profiler.trace.modeling.third_party import require

LEARNING_RATE = 1e-4
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_FORCED = {"cuda": frozenset(_BACKENDS), "cpu": frozenset({"flash", "math"})}
"""Kernels that a device has several of. What a CPU lacks falls to its flash kernel, as the
predictor says."""


def make_optimizer(model: torch.nn.Module, setup: TrainSetup) -> torch.optim.Optimizer:
    """The optimizer of `setup` over what trains, with the options that the HF Trainer gives it.

    Raises UnbuildableError where its library is missing.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if setup.optimizer_in_bwd:
        return SteppingInBackward(parameters, lambda tensor: _made(model, [tensor], setup))
    return _made(model, parameters, setup)


class SteppingInBackward(torch.optim.Optimizer):
    """An optimizer for each tensor, which steps and lets the gradient go as soon as that is there
    (torchtune 0.7 `training/memory.py`, register_optim_in_bwd_hooks)."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        make: Callable[[torch.nn.Parameter], torch.optim.Optimizer],
    ) -> None:
        super().__init__(parameters, {})
        self._each = {tensor: make(tensor) for tensor in parameters}
        for tensor, own in self._each.items():
            own.state = self.state
            tensor.register_post_accumulate_grad_hook(self._step)  # type: ignore[no-untyped-call]

    def _step(self, tensor: torch.Tensor) -> None:
        own = self._each[tensor]  # type: ignore[index]
        own.step()
        own.zero_grad(set_to_none=True)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing is left to do."""


def _made(
    model: torch.nn.Module, parameters: list[torch.nn.Parameter], setup: TrainSetup
) -> torch.optim.Optimizer:
    implementation: dict[str, Any] = {
        "foreach": setup.optimizer_impl == "foreach",
        "fused": setup.optimizer_impl == "fused",
    }
    if setup.sharding == "zero1":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}.get(setup.optimizer)
        if kind is not None:
            return ZeroRedundancyOptimizer(parameters, kind, lr=LEARNING_RATE, **implementation)
        alone = replace(setup, sharding="ddp")

        def of_rank(groups: list[dict[str, Any]], **defaults: Any) -> torch.optim.Optimizer:
            return _made(model, [p for group in groups for p in group["params"]], alone)

        return ZeroRedundancyOptimizer(parameters, of_rank, lr=LEARNING_RATE)  # type: ignore[arg-type]  # is called, and no more
    if setup.optimizer == "adamw":
        return torch.optim.AdamW(grouped(parameters, setup), lr=LEARNING_RATE, **implementation)
    if setup.optimizer == "sgd":
        return torch.optim.SGD(_by_mesh(parameters, setup), lr=LEARNING_RATE, **implementation)
    if own := package_optimizer(setup.optimizer):
        return _of_package(own, model, parameters, setup)
    made: torch.optim.Optimizer = part("optimizers", setup.optimizer, "stand_in", "made")(
        model, parameters, setup
    )
    return made


def grouped(parameters: list[torch.nn.Parameter], setup: TrainSetup) -> list[dict[str, Any]]:
    """Parameters as the trainer of `setup` groups them."""
    return _by_decay(parameters) if steps_in_groups(setup) else _by_mesh(parameters, setup)


def _by_decay(parameters: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    """Matrices, whose weights decay, and vectors; neither without a tensor."""
    kinds = [[p for p in parameters if (p.dim() > 1) == is_matrix] for is_matrix in (True, False)]
    return [{"params": kind} for kind in kinds if kind]


def _by_mesh(parameters: list[torch.nn.Parameter], setup: TrainSetup) -> list[dict[str, Any]]:
    """What ranks have parts of, and what is whole on each, which no kernel takes together: as
    transformers' Trainer groups them (5.24 `trainer.py`, create_optimizer)."""
    if setup.sharding != "tp":
        return [{"params": parameters}]
    kinds = [[p for p in parameters if isinstance(p, DTensor) == cut] for cut in (True, False)]
    return [{"params": kind} for kind in kinds if kind]


def _of_package(
    made: PackageOptimizer,
    model: torch.nn.Module,
    parameters: list[torch.nn.Parameter],
    setup: TrainSetup,
) -> torch.optim.Optimizer:
    """As transformers' Trainer asks for it by the name of `TrainingArguments.optim`."""
    if made.package == "torchao":
        require("torchao", "torchao", f"optimizer {setup.optimizer}")
        kind = getattr(import_module("torchao.optim"), made.kind)
        return kind(parameters, lr=LEARNING_RATE)  # type: ignore[no-any-return]
    require("bitsandbytes", '"lora-profiler[qlora]"', f"optimizer {setup.optimizer}")
    # kept for the whole process, by address and by place: what a model that is gone wished for goes
    manager = import_module("bitsandbytes.optim").GlobalOptimManager.get_instance()
    manager.initialize()
    if widens_embeddings(setup):  # states of embeddings in 32 bit: the Trainer's create_optimizer
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                manager.register_module_override(module, "weight", {"optim_bits": 32})
    kind = getattr(import_module("bitsandbytes.optim"), made.kind)
    return kind(  # type: ignore[no-any-return]
        parameters, lr=LEARNING_RATE, optim_bits=made.bits, is_paged=made.is_paged
    )


class Forward(NamedTuple):
    """What one forward pass hands to the loop: the loss, in the graph, and what the loop `held`
    until the next pass has returned, None where it keeps the loss alone."""

    loss: torch.Tensor
    held: object


def forward_loss(
    model: torch.nn.Module, setup: TrainSetup, batch: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The loss alone of `forward`."""
    return forward(model, setup, batch).loss


def forward(
    model: torch.nn.Module, setup: TrainSetup, batch: Mapping[str, torch.Tensor]
) -> Forward:
    """The forward pass of one micro-batch. With `setup.hold_outputs` the model's output is handed
    on to be held, logits among it where the loss path makes all of them.

    `batch` has input_ids and labels on the model's device, attention_mask only where something is
    padded, position_ids only where rows are packed; of sound input_features, (rows, bands, frames)
    in float32, in place of input_ids. It runs under autocast where the precision says
    so. Raises UnbuildableError for a class of models without a loss, UsageError for one that the
    loss path of `setup` cannot take, or to which packed sequences are one.
    """
    amp: AbstractContextManager[Any] = nullcontext()
    if setup.autocast_dtype:
        amp = torch.autocast(setup.device, getattr(torch, setup.autocast_dtype))
    is_smoothed = setup.label_smoothing_factor > 0
    with amp, told_apart(model) if setup.is_packed else nullcontext():
        if setup.loss != "plain":
            out = loss_without_logits(model, setup, batch)
            return Forward(out.loss, out if setup.hold_outputs else None)
        base, given = within(model)[0], dict(batch)
        if "input_features" in given and not setup.autocast_dtype:
            given["input_features"] = _in_dtype_of_convolution(base, given["input_features"])
        is_embedding = is_headless(type(base).__name__)
        if is_smoothed or is_embedding:
            del given["labels"]
        else:
            given["labels"] = labels_for(base, batch["labels"])
        output = model(**given, use_cache=False)
        if setup.autocast_dtype and loop_facts(setup.loop_state).by_accelerate:
            output = _converted(base, output)
        made: torch.Tensor | None = getattr(output, "loss", None)
        if is_embedding:
            made = contrastive_loss(output.last_hidden_state, batch.get("attention_mask"))
        held = output if setup.hold_outputs or is_smoothed else None
        del output
    if is_smoothed:
        made = smoothed_loss(model, setup, held, batch["labels"])
        held = held if setup.hold_outputs else None
    if made is None:
        raise UnbuildableError(
            f"{type(model).__name__} returns no loss to train on; ask about a class with a head."
        )
    return Forward(made, held)


def _converted(base: Any, output: Any) -> Any:
    """As accelerate hands on what a model returns under autocast (`convert_outputs_to_fp32`). Of
    the next token's loss the output stays: it made as many float32 logits before."""
    if is_of_next_token(base):
        return output
    halves = (torch.float16, torch.bfloat16)
    return type(output)(
        **{
            name: v.float() if getattr(v, "dtype", None) in halves else v
            for name, v in output.items()
        }
    )


def _in_dtype_of_convolution(model: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Sound as the first layer takes it, which no other dtype than its own enters."""
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv1d))
    return features.to(first.weight.dtype)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inside, `model` evaluates: without gradients and without dropout."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()


@contextmanager
def attention_context(setup: TrainSetup) -> Iterator[None]:
    """Inside, SDPA takes the kernel that `setup.attention` names, or raises RuntimeError; for auto
    and eager nothing changes. Among Liger's kernels queries and keys are rotated in place.

    Hold it over backward as well: a checkpointed layer runs again there, and must take the same
    kernel.
    """
    with ExitStack() as stack:
        if setup.attention in _FORCED.get(setup.device, frozenset()):
            stack.enter_context(sdpa_kernel(_BACKENDS[setup.attention]))
        if during := part("kernels", setup.kernels, "stand_in", "during"):
            stack.enter_context(during())
        yield
