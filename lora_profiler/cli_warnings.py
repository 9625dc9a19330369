"""What a user is told on stderr beside an answer: ranks, targets and lengths that are probably not what was meant."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_profiler.click_parts import warn

if TYPE_CHECKING:
    from lora_profiler.prediction import Prediction
    from lora_profiler.workload import Workload


def warn_of(predictions: Sequence["Prediction"]) -> None:
    """Everything worth a warning about the ways to train one model, each once."""
    _warn_of_idle_targets(predictions[-1].workload)
    _warn_of_large_ranks(predictions)
    _warn_of_long_sequences(predictions[0].workload)


def _warn_of_large_ranks(predictions: Sequence["Prediction"]) -> None:
    """Where an adapter holds more weights than the layer that it adapts; once for all methods."""
    from lora_profiler.planning.remarks import outweighed_layers

    for prediction in predictions:
        layers = outweighed_layers(prediction)
        if layers:
            first, lora = layers[0], prediction.workload.setup.lora
            assert lora is not None
            warn(
                f"rank {lora.r} outweighs {len(layers)} of the adapted layers: the adapter of {first.name} "
                f"({first.in_features} x {first.out_features}) has {first.num_trainable_parameters:,} weights, the layer itself "
                f"{first.num_parameters:,}."
            )
            return


def _warn_of_idle_targets(workload: "Workload") -> None:
    from lora_profiler.errors import did_you_mean
    from lora_profiler.planning.remarks import unmatched_targets

    for target in unmatched_targets(workload):
        leaves = {name.rpartition(".")[2] for name, module in workload.model.modules() if module.is_linear}
        warn(f"no module of {workload.model.id} matches {target}, which PEFT passes over.{did_you_mean(target, sorted(leaves))}")


def _warn_of_long_sequences(workload: "Workload") -> None:
    from lora_profiler.planning.remarks import trained_length

    made_for, seq_len = trained_length(workload.model), workload.setup.seq_len
    if made_for is not None and seq_len > made_for:
        warn(f"{workload.model.id} was made for {made_for:,} tokens, not {seq_len:,}; see --seq-len.")
