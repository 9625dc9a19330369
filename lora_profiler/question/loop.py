"""What the rest of the package asks of a training loop. The harness' own loop and transformers'
Trainer are here; every other one is a file under `features/loops/`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_profiler.question.feature import part


class LoopFacts(NamedTuple):
    """Facts of a loop.

    columns of int64 in a batch, and pass_columns that it makes for a pass of the model beside them;
    row_bytes of each row; scalar_bytes that it holds through the whole of a step, and
    pass_scalar_bytes while a forward or backward pass runs.

    Columns are ids, which are the labels too in the harness' own loop; labels; an attention mask,
    which every collator that pads makes (DataCollatorWithPadding, ForLanguageModeling, ForSeq2Seq)
    and default_data_collator does not; of rows of one length attention takes none, and no other
    kernel. Scalars are the number of items in a batch and the running loss; while a pass runs the
    loss of the pass before, and in transformers' own compute_loss this one's before accelerate
    divides it (transformers 5.24 `trainer.py`, get_batch_samples, _inner_training_loop).

    generates: it makes completions between steps, and corrects_generated, those of vLLM, by a ratio
    each. compares: with a reference model, in so many passes_beside. scores: Unsloth's loss is made
    of log-probabilities; scores_step: of all completions of a step in one pass. copies_adapters:
    the reference has a frozen copy of them. returns_all: the hidden states of all layers are alive
    through a pass.

    pads: rows are not laid end to end, where kernels would. plain_checkpoints: they are
    transformers' own while completions are generated. widens: norms, embeddings and head, or
    routers, are in float32. input_gradients: the embeddings' output requires a gradient, whatever
    trains. moves_weights: weights that layers save wait on the host too. own_4_bit: adapters on
    experts in 4 bit train, and a 4-bit checkpoint multiplies in the dtype of the rest.

    held_in_parts: a rehearsal was held against context parallelism. by_accelerate: it shares the
    model among ranks. keeps_dtype: a frozen base is in the checkpoint's dtype, whatever the GPU.
    repeats_for_math: rather than let SDPA take its math kernel, keys and values are repeated to all
    heads (unsloth-zoo 2026.10.9, temporary_patches/sdpa_gqa.py). flexes_sinks: attention with sinks
    is FlexAttention's, which has no scores of all pairs of tokens (temporary_patches/gpt_oss.py,
    patch_GptOssAttention).
    """

    columns: int = 3
    scalar_bytes: int = 0
    pass_scalar_bytes: int = 0
    pass_columns: int = 0
    row_bytes: int = 0
    generates: bool = False
    corrects_generated: bool = False
    compares: bool = False
    passes_beside: int = 1
    scores: bool = False
    scores_step: bool = False
    copies_adapters: bool = False
    returns_all: bool = False
    pads: bool = False
    plain_checkpoints: bool = False
    widens: bool = False
    input_gradients: bool = False
    moves_weights: bool = False
    own_4_bit: bool = False
    held_in_parts: bool = False
    by_accelerate: bool = False
    keeps_dtype: bool = False
    repeats_for_math: bool = False
    flexes_sinks: bool = False


CORE: Mapping[str, LoopFacts] = {
    "none": LoopFacts(columns=1, held_in_parts=True),
    "transformers": LoopFacts(3, 8, 8, held_in_parts=True, by_accelerate=True),
    "transformers-unmasked": LoopFacts(2, 8, 8, held_in_parts=True, by_accelerate=True),
}


def loop_facts(name: str) -> LoopFacts:
    """Facts of the loop that the option names."""
    found: LoopFacts = CORE.get(name) or part("loops", name, "", "FEATURE")
    return found


def of_loop(name: str, needed: str) -> Any:
    """What a loop's file calls `needed`; None where it has none."""
    return part("loops", name, "", needed)


def nearest_estimated(setup: Any) -> Any:
    """`setup` with what an estimate from the model's modules makes in place of a loop's own code;
    None where it makes no more of it than a trace."""
    own = of_loop(setup.loop_state, "nearest_estimated")
    return own(setup) if own else None


def nearest_traced(setup: Any) -> Any:
    """`setup` with what a trace makes in place of a loop's own code; as it is where there is
    none."""
    own = of_loop(setup.loop_state, "nearest_traced")
    return own(setup) if own else setup
