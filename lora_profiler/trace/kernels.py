"""The kernels of one micro-batch: what a device launches for every operator of the traced step, its
bytes and its products."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lora_profiler.errors import UnbuildableError
from lora_profiler.memory.compiled.tape import LEAST_UNITS, Layout
from lora_profiler.memory.kernels import Kernel, StepKernels, merged
from lora_profiler.question.workload import Workload
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.modeling.operator_kernels import kernel_of
from lora_profiler.trace.run import Traced, trace
from lora_profiler.trace.toys import at_depth, layout_of
from lora_profiler.trace.watch import Size, watched

aten = torch.ops.aten
Build = Callable[[Workload], torch.nn.Module]
FEW_UNITS = (2, 3)
"""Depths, in units of layers, between whose kernels the line to every other depth is drawn; one
more proves it."""


def step_kernels(workload: Workload, build: Build | None = None) -> StepKernels:
    """The kernels of the micro-batch of `workload` on the model that `build` makes, at its full
    depth.

    Where layers repeat, models of two and three units are traced, and one of four proves that every
    count is linear.

    Raises UnbuildableError where a count is not, and what building and tracing raise.
    """
    build = build or _on_meta
    layout = layout_of(workload.model)
    units = None if layout is None else layout.units_of(workload.model.num_layers)
    if layout is None or units is None:
        with watched(
            workload, [Size(workload.model.num_layers, workload.setup.seq_len)], kept=False
        ):
            return recorded(workload, build, None)
    sizes = [Size(layout.layers(u), workload.setup.seq_len) for u in (*FEW_UNITS, LEAST_UNITS)]
    with watched(workload, sizes, kept=False):
        few = [
            recorded(replace(workload, model=at_depth(workload.model, size.layers)), build, layout)
            for size in sizes
        ]
    _same(at_units(few[0], few[1], LEAST_UNITS), few[2], workload)
    return at_units(few[0], few[1], units)


def at_units(two: StepKernels, three: StepKernels, units: int) -> StepKernels:
    """The kernels of `units` units, on the line through those of two and of three."""
    first, second = (dict(_counted(step.kernels)) for step in (two, three))
    kernels = [
        one._replace(count=_on_line(first.get(one, 0), second.get(one, 0), units))
        for one in dict.fromkeys([*first, *second])
    ]
    return StepKernels(
        kernels=merged(kernels),
        tokens=two.tokens,
        trainable={
            size: _on_line(two.trainable.get(size, 0), three.trainable.get(size, 0), units)
            for size in {*two.trainable, *three.trainable}
        },
        trained_tensors=_on_line(two.trained_tensors, three.trained_tensors, units),
    )


def _on_line(two: int, three: int, units: int) -> int:
    return two + (three - two) * (units - 2)


def _counted(kernels: tuple[Kernel, ...]) -> list[tuple[Kernel, int]]:
    return [(kernel._replace(count=1), kernel.count) for kernel in merged(kernels)]


def _same(line: StepKernels, fresh: StepKernels, workload: Workload) -> None:
    mine, real = (dict(_counted(step.kernels)) for step in (line, fresh))
    wrong = [one for one in {*mine, *real} if mine.get(one, 0) != real.get(one, 0)]
    if wrong or line.trainable != fresh.trainable:
        what = f"{wrong[0].op} in {wrong[0].module or 'the model'}" if wrong else "what trains"
        raise UnbuildableError(
            f"the kernels of {workload.model.id} are not linear in its layers: {what} is the first"
            " that is not."
        )


def _on_meta(workload: Workload) -> torch.nn.Module:
    return build_model(workload, device="meta")


def recorded(
    workload: Workload, build: Build = _on_meta, layout: Layout | None = None
) -> StepKernels:
    """The kernels of `workload` at the depth that it has, in one trace; layers of the layout's
    stack under one name."""
    kernels: list[Kernel] = []
    stacks = "|".join(map(re.escape, layout.stacks)) if layout else ""
    numbers = re.compile(rf"^({stacks})\.\d+(?=\.|$)") if layout else None

    def listen(
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        phase: str,
        module: str,
    ) -> None:
        computed: Any = "forward" if phase == "loss" else phase
        kernel = kernel_of(func, args, kwargs, result, computed, module)
        if kernel is None:
            return
        if numbers is not None:
            kernel = kernel._replace(module=numbers.sub(r"\1.*", module))
        kernels.append(kernel)

    trained: dict[int, int] = {}
    tensors = 0

    def building(workload: Workload) -> torch.nn.Module:
        nonlocal tensors
        model = build(workload)
        for parameter in model.parameters():
            if parameter.requires_grad:
                size = parameter.element_size()
                trained[size] = trained.get(size, 0) + parameter.numel()
                tensors += 1
        return model

    traced: Traced = trace(workload, building, listener=listen)
    assert sum(trained.values()) == sum(traced.trainable.values())
    setup = workload.setup
    return StepKernels(
        kernels=merged(kernels),
        tokens=setup.batch_size * setup.seq_len,
        trainable=trained,
        trained_tensors=tensors,
    )
