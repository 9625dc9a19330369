"""Generation between two steps, as GRPO does it with transformers' generate: one pass over the
prompts, then a token at a time beside the keys and values of all before it.

The cache of a layer grows by concatenation (transformers `cache_utils.py`, DynamicLayer.update); a
sliding window's layers keep no more than the window. Keys and values of one layer are there twice
while it attends, as rehearsals show; what a split kernel adds to that is left out. Those of the
last token are never made. Drawing a token holds its logits, their float32 copy, the probabilities
and the exponential draws of torch.multinomial at once (transformers `generation/utils.py`, _sample;
torch `aten/src/ATen/native/Distributions.cpp`). Adapters run without autocast: PEFT generates by
the base model, which accelerate has not wrapped. The prompts' pass is as a layer of evaluation,
beside the cache, and an estimate. Sizes of CUDA: a CPU's libraries copy weights for few rows.
"""

from collections.abc import Mapping
from dataclasses import replace

from lora_profiler.algebra.polynomial import Polynomial, S, constant, total
from lora_profiler.analytic.candidates import Candidate, candidate
from lora_profiler.analytic.evaluation import layer_candidates
from lora_profiler.analytic.families import Family
from lora_profiler.analytic.families.blocks import heads_of
from lora_profiler.analytic.sharding import ShardState
from lora_profiler.analytic.structure import ForwardPass
from lora_profiler.analytic.tensors import ITEMSIZE
from lora_profiler.prediction import Category
from lora_profiler.support.losses import head_of
from lora_profiler.workload import Workload

_FLOAT32_COPIES = 3
"""Of the last token's logits: the copy, the probabilities, the draws."""
_COLUMNS = 2
"""Of int64: ids and attention mask, those of the prompts and those of the whole sequences."""


def generated(workload: Workload) -> Workload:
    """The pass over the prompts, as a workload: its rows, without dropout, checkpoints and the
    trainer's loss."""
    setup = workload.setup
    assert setup.generation_batch_size is not None
    lora = setup.lora
    return replace(
        workload,
        setup=replace(
            setup,
            batch_size=setup.generation_batch_size,
            generation_batch_size=None,
            max_completion_length=None,
            eval_batch_size=None,
            checkpointing=False,
            hold_outputs=False,
            label_smoothing_factor=0.0,
            loss="plain",
            loop_state="none",
            precision="pure" if lora is not None else setup.precision,
            lora=replace(lora, lora_dropout=0.0) if lora is not None else None,
        ),
    )


def generation(
    forward: ForwardPass,
    base: Mapping[Category, Polynomial],
    shards: ShardState,
    family: Family,
    workload: Workload,
    completion: int | None,
    kernel: str,
) -> tuple[Candidate, ...]:
    """Live bytes while `workload`, which is `generated`, makes `completion` tokens of each row, or
    any number. The first is that of drawing the last token."""
    alone = dict(base)
    rows, head = workload.setup.batch_size, head_of(workload.model)
    words = (head.out_features or 0) if head else 0
    drawn = rows * words * (ITEMSIZE[forward.logits.dtype] + 4 * _FLOAT32_COPIES)
    prompt = S if completion is None else S - completion
    ids = (S + prompt) * (8 * _COLUMNS * rows)
    last = candidate(
        alone,
        activations=cache_bytes(family, workload, S - 1),
        logits_and_loss=constant(drawn),
        inputs=ids,
    )
    grown, layers = cache_bytes(family, workload, S - 1), workload.model.num_layers
    attending = candidate(alone, activations=grown + grown.ceil_div(layers), inputs=ids)
    kept = cache_bytes(family, workload, prompt)
    inside = layer_candidates(forward, {}, shards, family, workload, kernel)
    return (
        last,
        attending,
        *(
            candidate(alone, activations=kept, temporaries=found.total.at_length(prompt))
            for found in inside
        ),
    )


def cache_bytes(family: Family, workload: Workload, length: Polynomial) -> Polynomial:
    """Keys and values of `length` tokens of each row, in all layers."""
    setup, config = workload.setup, workload.model.config
    heads = heads_of(config)
    computed = setup.autocast_dtype or setup.dtype
    # cos and sin are as wide as the residual stream, and so are keys that they turned
    turned = setup.dtype if family.rotary_sets(config) else computed
    token = heads.key_value * heads.dim * (ITEMSIZE[computed] + ITEMSIZE[turned])
    windows = (family.window(config, i) for i in range(workload.model.num_layers))
    return total(
        (constant(w) if w is not None and setup.seq_len > w else length)
        * (token * setup.batch_size)
        for w in windows
    )
