"""What a user should be told beside an answer: ranks, targets and lengths that are probably not what was meant."""

from collections.abc import Iterator, Sequence

from lora_profiler.errors import did_you_mean
from lora_profiler.planning.remarks import outweighed_layers, trained_length, unmatched_targets
from lora_profiler.prediction import Prediction
from lora_profiler.workload import Workload


def caution_lines(predictions: Sequence[Prediction]) -> list[str]:
    """Everything worth a warning about the ways to train one model, each once."""
    return [
        *_idle_targets(predictions[-1].workload),
        *_large_ranks(predictions),
        *_long_sequences(predictions[0].workload),
    ]


def _large_ranks(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Where an adapter holds more weights than the layer that it adapts; once for all methods."""
    for prediction in predictions:
        layers = outweighed_layers(prediction)
        if layers:
            first, lora = layers[0], prediction.workload.setup.lora
            assert lora is not None
            yield (
                f"rank {lora.r} outweighs {len(layers)} of the adapted layers: the adapter of {first.name} "
                f"({first.in_features} x {first.out_features}) has {first.num_trainable_parameters:,} weights, the layer itself "
                f"{first.num_parameters:,}."
            )
            return


def _idle_targets(workload: Workload) -> Iterator[str]:
    for target in unmatched_targets(workload):
        leaves = {name.rpartition(".")[2] for name, module in workload.model.modules() if module.is_linear}
        near = did_you_mean(target, sorted(leaves))
        yield f"no module of {workload.model.id} matches {target}, which PEFT passes over.{near}"


def _long_sequences(workload: Workload) -> Iterator[str]:
    made_for, seq_len = trained_length(workload.model), workload.setup.seq_len
    if made_for is not None and seq_len > made_for:
        yield f"{workload.model.id} was made for {made_for:,} tokens, not {seq_len:,}; see --seq-len."
