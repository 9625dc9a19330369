"""Tensor parallelism: a rank's part of a model is a model of its own, with its part of the heads,
of the MLP's width and of the vocabulary.

As transformers 5.24 cuts it by its own plan (`distributed/tensor_parallel.py`, the configs'
`base_model_tp_plan`, `distributed/mixin.py` for embeddings, the models' `_tp_plan` for heads): q,
k, v, gate, up and the head by columns, o and down by rows, the embedding by words; norms stay whole
on every rank. What a row-wise product or an embedding makes is summed over the ranks in forward,
the logits are gathered; in backward the gradient of each column-wise product's input is summed.
PEFT 0.21 (`tuners/lora/model.py`, add_lora_tp_hooks_dtensor) cuts B as a column-wise layer and A as
a row-wise one. `tests/memory/test_ranks.py` compares with a trace of both libraries' own code.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from lora_profiler._common.polynomial import ZERO, Values
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.analytic.persistent import (
    Persistent,
    TrainableTensor,
    adapter_tensors,
    whole_weights,
)
from lora_profiler.memory.analytic.sharding import ShardState, alone
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.prediction import Collective, Phase, Traffic
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.bases import adapter_dtype
from lora_profiler.question.support.check import BY_COLUMNS, BY_ROWS, HEAD_NORMS, divided_sizes
from lora_profiler.question.workload import DTYPE_BYTES, Workload


def part_of(workload: Workload) -> Workload:
    """What one rank of `workload` trains, as a process alone."""
    setup = workload.setup
    return Workload(
        model=_cut(workload.model, setup.world_size),
        setup=replace(setup, world_size=1, sharding="none"),
    )


def _cut(model: ModelSpec, ranks: int) -> ModelSpec:
    config = model.config
    sizes = divided_sizes(model)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // sizes["num_attention_heads"])
    part = {name: size // ranks for name, size in sizes.items()}
    part["vocab_size"] = -(-int(config["vocab_size"]) // ranks)
    return model_from_config(
        {**model.published, **part, "head_dim": head_dim}, id=model.id, source=model.source
    )


def stepped(
    part: Workload, state: Persistent, adapters: Iterable[Adapter], words: int
) -> ShardState:
    """What a rank holds of its `part` and steps: what is cut, then what is whole, a group each
    (transformers 5.24 `trainer.py`, create_optimizer). `words`: of the whole vocabulary."""
    setup, model = part.setup, part.model
    cut: list[TrainableTensor] = []
    whole: list[TrainableTensor] = []
    if setup.lora is None:
        for name, module in model.modules():
            is_cut = name.rpartition(".")[2] in (*BY_COLUMNS, *BY_ROWS)
            (cut if is_cut else whole).extend(whole_weights(model, name, module, setup))
        embedding = next(m for _, m in model.modules() if m.kind == "Embedding")
        if not model.has_tied_head:
            taken = embedding.num_parameters * DTYPE_BYTES[setup.dtype]
            row = int(model.config["hidden_size"]) * DTYPE_BYTES[setup.dtype]
            state = replace(state, stepped_bytes=taken, unstepped_bytes=words * row - taken)
    for adapter in adapters:
        a, b = adapter_tensors(adapter, adapter_dtype(setup), setup)
        by_rows = adapter.module.rpartition(".")[2] in BY_ROWS
        cut.append(a if by_rows else b)
        whole.append(b if by_rows else a)
    if setup.optimizer_impl == "foreach" and setup.optimizer != "sgd":
        groups = [replace(state, order=tuple(g), unstepped_bytes=0) for g in (cut, whole)]
        rank = setup.lora.r if setup.lora else 1
        at_once = max(groups, key=lambda group: group.gradient_bytes.evaluate(1, 1, rank))
    else:
        at_once = replace(state, order=(*cut, *whole))
    return replace(alone(state), at_once=at_once)


def traffic(forward: ForwardPass, workload: Workload) -> tuple[Traffic, ...]:
    """The collectives of an optimizer step, of which checkpointing repeats some of forward's.

    Gradients of norms that each rank works out of its own heads are summed where they train
    (`replicated_with_grad_allreduce`), every micro-batch.
    """
    setup = workload.setup
    at = Values(setup.batch_size, setup.seq_len, setup.lora.r if setup.lora else 1)
    sent: Counter[tuple[Collective, Phase]] = Counter()
    times: Counter[tuple[Collective, Phase]] = Counter()

    def note(kind: Collective, phase: Phase, size: int, count: int) -> None:
        sent[kind, phase] += size * count
        times[kind, phase] += count

    runs = [(forward.embed, 1), *((x.run, len(x.indices)) for x in forward.layers)]
    for run, count in (*runs, (forward.head, 1)):
        for node in run.nodes:
            size = node.outputs[0].bytes.evaluate(*at)
            if node.op == "all_reduce":
                note("all_reduce", "forward", size, count)
            if node.op == "all_gather":
                note("all_gather", "forward", size, count)
            if node.op == "replicate" and node.outputs[0].requires_grad:
                note("all_reduce", "backward", size, count)
            if node.module.endswith(HEAD_NORMS) and node.gradients != ZERO:
                note("all_reduce", "backward", node.gradients.evaluate(*at), count)
    if setup.checkpointing:
        for layer in forward.layers:
            for node in layer.run.nodes[: layer.run.repeated]:
                if node.op == "all_reduce":
                    size = node.outputs[0].bytes.evaluate(*at)
                    note("all_reduce", "backward", size, len(layer.indices))
    return tuple(
        Traffic(
            collective=kind,
            phase=phase,
            count=number * setup.accumulation,
            size_bytes=sent[kind, phase] * setup.accumulation,
        )
        for (kind, phase), number in times.items()
    )
