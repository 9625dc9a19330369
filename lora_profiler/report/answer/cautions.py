"""What a user should be told beside an answer: ranks, targets and lengths that are probably not
what was meant."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_profiler.errors import did_you_mean
from lora_profiler.planning.diagnostics import outweighed_layers, unmatched_targets
from lora_profiler.prediction import Prediction
from lora_profiler.support.generations import has_packed_experts
from lora_profiler.workload import Workload

if TYPE_CHECKING:
    from lora_profiler.catalog import Gpu


def caution_lines(predictions: Sequence[Prediction], gpu: "Gpu | None" = None) -> list[str]:
    """Everything worth a warning about the ways to train one model on `gpu`, each once."""
    return [
        *_other_vendors(gpu),
        *_idle_targets(predictions[-1].workload),
        *_large_ranks(predictions),
        *_long_sequences(predictions[0].workload),
        *_formats(predictions),
        *_experts(predictions),
    ]


def _other_vendors(gpu: "Gpu | None") -> Iterator[str]:
    if gpu is not None and gpu.vendor in ("amd", "intel"):
        yield (
            f"which kernels torch takes on {gpu.name} is not known here: answered with those of"
            " NVIDIA's cards from sm_80 to sm_89."
        )


def _formats(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Number formats that the card has no arithmetic for, or in which training goes wrong."""
    setups = [p.workload.setup for p in predictions]
    platform = predictions[0].workload.platform
    if setups[0].device == "cuda" and not platform.has_bfloat16:
        wide = [s.method for s in setups if "bfloat16" in (s.dtype, s.lowered_dtype)]
        if wide:
            yield (
                f"{platform.capability_text} has no arithmetic of bfloat16, which {', '.join(wide)}"
                " would run in: torch imitates it slowly, and refuses some products; without"
                " --dtype and --precision the answer takes a format that works."
            )
        else:
            methods: dict[str, dict[str, None]] = {}
            for s in setups:
                autocast = f" under {s.autocast_dtype} autocast" if s.autocast_dtype else ""
                methods.setdefault(s.dtype + autocast, {})[s.method] = None
            used = " and ".join(f"{format_} ({', '.join(of)})" for format_, of in methods.items())
            yield f"{platform.capability_text} has no arithmetic of bfloat16: answered in {used}."
    if any(s.method == "full" and s.dtype == "float16" for s in setups):
        yield (
            "full fine-tuning of float16 weights without loss scaling ends in NaN within some"
            " steps; take --dtype float32, or bfloat16 on a card of sm_80 or later."
        )


def _experts(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Where versions of transformers differ most: experts that bitsandbytes finds, or does not."""
    for workload in (p.workload for p in predictions):
        quantization = workload.setup.quantization
        if quantization is not None and has_packed_experts(workload.model):
            yield (
                f"transformers 5 packs the experts of {workload.model.id} into parameters that"
                " bitsandbytes leaves in 16 bit; version 4 quantised them, which"
                " --transformers 4.57 answers for."
            )
            return


def _large_ranks(predictions: Sequence[Prediction]) -> Iterator[str]:
    """Where an adapter holds more weights than the layer that it adapts; once for all methods."""
    for prediction in predictions:
        layers = outweighed_layers(prediction)
        if layers:
            first, lora = layers[0], prediction.workload.setup.lora
            assert lora is not None
            yield (
                f"rank {lora.r} outweighs {len(layers)} of the adapted layers: the adapter of"
                f" {first.name} ({first.in_features} x {first.out_features}) has"
                f" {first.num_trainable_parameters:,} weights, the layer itself"
                f" {first.num_parameters:,}."
            )
            return


def _idle_targets(workload: Workload) -> Iterator[str]:
    for target in unmatched_targets(workload):
        leaves = {
            name.rpartition(".")[2] for name, module in workload.model.modules() if module.is_linear
        }
        near = did_you_mean(target, sorted(leaves))
        yield f"no module of {workload.model.id} matches {target}, which PEFT passes over.{near}"


def _long_sequences(workload: Workload) -> Iterator[str]:
    made_for, seq_len = workload.model.trained_length, workload.setup.seq_len
    if made_for is not None and seq_len > made_for:
        yield (
            f"{workload.model.id} was made for {made_for:,} tokens, not {seq_len:,}; see --seq-len."
        )
