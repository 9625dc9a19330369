"""axolotl 0.19, over transformers 5.16: the running loss, which is on the card from the start, and
the loss of the step before, no count; in a pass this one's before accelerate divides it. What it
has in float32, and which inputs require a gradient: 067b021, `loaders/model.py`
(_configure_embedding_dtypes), `loaders/adapter.py` (load_adapter). Held against its own code by
`benchmarks/rehearsed/frameworks.py`."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(
    3, 8, 4, widens=True, input_gradients=True, moves_weights=True, by_accelerate=True
)
