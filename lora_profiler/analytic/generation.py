"""Generation between two steps, as GRPO does it with transformers' generate: one pass over the
prompts, then a token at a time beside the keys and values of all before it.

The cache of a layer grows by concatenation (transformers `cache_utils.py`, DynamicLayer.update), so
that its values are there twice for a moment; a sliding window's layers keep no more than the
window, and attend to keys and values beside those that they keep. SDPA's math kernel has copies of
its own; what a split kernel adds is left out. Keys and values of the last token are never made.
What autocast makes of weights is there until a token's pass is over. Drawing a token holds its
logits, their float32 copy, the probabilities and the exponential draws of torch.multinomial at once
(transformers `generation/utils.py`, _sample; torch `aten/src/ATen/native/Distributions.cpp`).
Adapters run without autocast: PEFT generates by the base model, which accelerate has not wrapped.
The prompts' pass is as a layer of evaluation, beside the cache, and an estimate. Sizes of CUDA: a
CPU's libraries copy weights for few rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from lora_profiler.algebra.polynomial import B, Polynomial, S, constant, total
from lora_profiler.analytic.candidates import Candidate, candidate
from lora_profiler.analytic.evaluation import cached_bytes, layer_candidates
from lora_profiler.analytic.families import Family
from lora_profiler.analytic.families.blocks import heads_of
from lora_profiler.analytic.forward_rules import attention_kernels
from lora_profiler.analytic.sharding import ShardState
from lora_profiler.analytic.structure import ForwardPass
from lora_profiler.analytic.tensors import ITEMSIZE
from lora_profiler.prediction import Category
from lora_profiler.support.losses import head_of
from lora_profiler.workload import Workload

_FLOAT32_COPIES = 3
"""Of the last token's logits: the copy, the probabilities, the draws."""
_STILL_NAMED = 2
"""Of those the copy and the probabilities, while the next token is made."""
_INCREMENT, _BUCKET = 512, 256
"""Tokens by which Unsloth's cache grows, and of which it has whole groups."""
_COLUMNS = 2
"""Of int64: ids and attention mask, those of the prompts and those of the whole sequences."""


def generation_workload(workload: Workload) -> Workload:
    """The pass over the prompts, as a workload: its rows, without dropout, checkpoints and the
    trainer's loss."""
    setup = workload.setup
    lora = setup.lora
    return replace(
        workload,
        setup=replace(
            setup,
            batch_size=setup.completions_at_once,
            generation_batch_size=None,
            max_completion_length=None,
            beta=0.0,
            use_vllm=False,
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
    workload: Workload,
    completion: int | None,
    steps: int | None,
) -> tuple[Candidate, ...]:
    """Live bytes while `workload`, a `generation_workload`, makes `completion` tokens of each row,
    or any number. Its rows are those of `steps` batches, or a number that a search for the largest
    batch leaves alone. The first candidate is that of drawing the last token."""
    alone, family = dict(base), forward.family

    def of_batch(size: Polynomial) -> Polynomial:
        if steps is None:
            return size.at_batch(workload.setup.batch_size)
        return size.of_batches(steps)

    rows, head = of_batch(B), head_of(workload.model)
    words = (head.out_features or 0) if head else 0
    drawn = rows * words * (ITEMSIZE[forward.logits.dtype] + 4 * _FLOAT32_COPIES)
    prompt = S if completion is None else S - completion
    ids = (S + prompt) * rows * (8 * _COLUMNS)

    def cache(length: Polynomial) -> Polynomial:
        return rows * cache_bytes(family, workload, length)

    prompts = [  # their pass, beside their keys and values
        candidate(alone, activations=cache(prompt), temporaries=during.total.at_length(prompt))
        for during in layer_candidates(forward, {}, shards, workload, of_batch)
    ]
    grown, layers = cache(S - 1), workload.model.num_layers
    if workload.setup.kernels == "unsloth":
        adapters = shards.state.adapter_bytes.ceil_div(2)
        others = {"logits_and_loss": drawn, "inputs": ids}
        decoding = _decoding(alone, cache, prompt, completion, layers, adapters, others)
        return (*decoding, *prompts)
    last = candidate(alone, activations=grown, logits_and_loss=drawn, inputs=ids)
    spoken = rows * words * (4 * _STILL_NAMED)
    slides = any(family.window(workload.model.config, i) is not None for i in range(layers))
    twice = [grown.ceil_div(layers if slides else 2 * layers)]
    if attention_kernels(workload, trains=False).plain == "math":
        twice.append(rows * _in_math(workload, S - 1))
    attending = [
        candidate(alone, activations=grown + own, logits_and_loss=spoken, inputs=ids)
        for own in twice
    ]
    copies = cached_bytes(forward)
    made = rows * words * ITEMSIZE[forward.logits.dtype] + spoken
    heading = candidate(
        alone, activations=grown, temporaries=copies, logits_and_loss=made, inputs=ids
    )
    return (last, *attending, heading, *prompts)


def scores(
    forward: ForwardPass,
    base: Mapping[Category, Polynomial],
    shards: ShardState,
    workload: Workload,
) -> tuple[Candidate, ...]:
    """Live bytes in the layers of a reference that scores all completions of a step at once; of
    logits it makes no more at once than training does."""
    setup = workload.setup
    other = replace(workload, setup=replace(setup, checkpointing=False, accumulation=1))

    def of_step(size: Polynomial) -> Polynomial:
        return size.of_batches(setup.accumulation)

    return layer_candidates(forward, dict(base), shards, other, of_step)


def _decoding(
    alone: dict[Category, Polynomial],
    cache: Callable[[Polynomial], Polynomial],
    prompt: Polynomial,
    completion: int | None,
    layers: int,
    adapters: Polynomial,
    others: dict[str, Polynomial],
) -> tuple[Candidate, ...]:
    """Of Unsloth's own decoding: `cache` of so many tokens, which has 512 more than the prompt from
    the first one on, of whole groups of 256, beside the prompts' own; and more where completions
    are longer, a layer's twice for a moment. Adapters are there in 16 bit too (Unsloth 2026.10.9,
    `models/_decode_graphs.py`, `kernels/utils.py`, _fast_lora_weights)."""
    begun = prompt + (_INCREMENT + _BUCKET)
    first = cache(begun) + cache(prompt)
    candidates = [candidate(alone, activations=first, temporaries=adapters, **others)]
    if completion is None or completion > _INCREMENT:
        whole = cache(S + _BUCKET)
        twice = whole + whole.ceil_div(layers)
        candidates.append(candidate(alone, activations=twice, temporaries=adapters, **others))
    return tuple(candidates)


def _in_math(workload: Workload, length: Polynomial) -> Polynomial:
    """What SDPA's math kernel makes of the keys and values of a row for one more token: those of
    all heads, where heads are grouped, keys times the scale, and scores (torch `aten/src/ATen/
    native/transformers/attention.cpp`, _scaled_dot_product_attention_math)."""
    setup, heads = workload.setup, heads_of(workload.model.config)
    whole = heads.query * heads.dim * (1 + 2 * (heads.groups > 1))
    return length * ((whole + heads.query) * ITEMSIZE[setup.autocast_dtype or setup.dtype])


def cache_bytes(family: Family, workload: Workload, length: Polynomial) -> Polynomial:
    """Keys and values of `length` tokens of a row, in all layers."""
    setup, config = workload.setup, workload.model.config
    heads = heads_of(config)
    computed = setup.autocast_dtype or setup.dtype
    # cos and sin are as wide as the residual stream, and so are keys that they turned
    turned = setup.dtype if family.rotary_sets(config) else computed
    token = heads.key_value * heads.dim * (ITEMSIZE[computed] + ITEMSIZE[turned])
    windows = (family.window(config, i) for i in range(workload.model.num_layers))
    return total(
        (constant(w) if w is not None and setup.seq_len > w else length) * token for w in windows
    )
