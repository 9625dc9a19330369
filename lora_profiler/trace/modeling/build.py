"""`build_model`: the base model of a config.json on the device, in 4 bit where asked, with adapters
and checkpointing.

The order is that of a fine-tuning script: load, quantise, prepare, inject adapters, turn
checkpointing on."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from copy import deepcopy
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from lora_profiler.errors import UnbuildableError, UsageError
from lora_profiler.facts.catalog.meta_build import untie_head
from lora_profiler.question.feature import part
from lora_profiler.question.model_spec import HEADLESS, ModelSpec
from lora_profiler.question.support.bases import is_of_adapted_layers, is_wide_end
from lora_profiler.question.support.model_types import type_of
from lora_profiler.question.workload import FULLY_SHARDED, TrainSetup, Workload
from lora_profiler.trace.modeling.adapters import enable_checkpointing, freeze, inject_adapters
from lora_profiler.trace.modeling.contents import count_parameters, output_head
from lora_profiler.trace.modeling.deferred import DeferredWeights
from lora_profiler.trace.modeling.nf4 import base_config, prepare_for_training, quantise
from lora_profiler.trace.modeling.sharding import tensor_parallel, widths_named
from lora_profiler.trace.modeling.third_party import quiet, refusals, require

# --- quantisation-aware training ------------------------------------------------------------------


def with_fake_quantizers(model: Any, setup: TrainSetup) -> Any:
    """`model` with every linear layer, the head among them, in place of which torchao puts one that
    rounds its weight, and its input, in each forward pass.

    8da4w as torchtune calls it (recipes/qat_single_device.py), with the model's dtype for
    `precision`, which beside adapters replaces the layers that they are on, and no other
    (training/quantization.py, swap_lora_linear_with_qat); others as axolotl does
    (utils/quantization.py, prepare_model_for_qat).
    """
    require("torchao", "torchao", "Quantisation-aware training")
    if is_of_adapted_layers(setup):
        return _with_adapted_layers(model, setup)
    plain = {name: m for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    head, embedding = output_head(model), model.get_input_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    with refusals("torchao refuses to fake-quantise this model"):
        model = _prepared(model, setup)
    for name, layer in plain.items():  # on the meta device torchao makes new weights, tied to none
        made = model.get_submodule(name)
        made.weight, made.bias = layer.weight, layer.bias
    if setup.qat == "8da4w" and is_tied:  # no linear layer in torchtune (modules/tied_linear.py)
        model.set_output_embeddings(head)
    return model


def _with_adapted_layers(model: torch.nn.Module, setup: TrainSetup) -> torch.nn.Module:
    kind = import_module("torchao.quantization.qat").FakeQuantizedLinear
    quantizer = _quantizer(setup)
    formats = (
        quantizer.get_activation_fake_quantize_config(),
        quantizer.get_weight_fake_quantize_config(),
    )
    for module in list(model.modules()):
        layer: Any = getattr(module, "base_layer", None)
        if type(layer) is torch.nn.Linear:
            made: Any = kind.from_linear(layer, *formats)
            made.weight, made.bias = layer.weight, layer.bias
            module.base_layer = made
    return model


def _quantizer(setup: TrainSetup) -> Any:
    qat = import_module("torchao.quantization.qat")
    return qat.Int8DynActInt4WeightQATQuantizer(
        groupsize=setup.qat_group_size, precision=getattr(torch, setup.dtype)
    )


def _prepared(model: Any, setup: TrainSetup) -> Any:
    if setup.qat == "8da4w":
        return _quantizer(setup).prepare(model)
    quantization = import_module("torchao.quantization")
    qat = import_module("torchao.quantization.qat")
    trained_for = _config(quantization, setup)
    quantization.quantize_(model, qat.QATConfig(trained_for, step="prepare"))
    return model


def _config(quantization: Any, setup: TrainSetup) -> Any:
    """torchao's configuration of what the trained model is quantised to."""
    match setup.qat:
        case "int4":
            return quantization.Int4WeightOnlyConfig(group_size=setup.qat_group_size)
        case "int8-int4":
            return quantization.Int8DynamicActivationIntxWeightConfig(
                weight_dtype=getattr(torch, "int4"),  # noqa: B009  # its stubs have none
                weight_granularity=quantization.PerGroup(setup.qat_group_size),
            )
        case "fp8-int4":
            return quantization.Float8DynamicActivationInt4WeightConfig()
    return quantization.Float8DynamicActivationFloat8WeightConfig()


# --- the model ------------------------------------------------------------------------------------

Stage = Callable[[str], None]
MEASURE = '"lora-profiler[measure]"'
_NO_ARCHITECTURE = ("auto_map", "quantization_config")
"""Fields of a config.json that say where code and how weights are stored, not what the model is."""


def build_model(
    workload: Workload,
    *,
    weights: str | None = None,
    on_stage: Stage = lambda name: None,
    device: str | None = None,
    bare: bool = False,
) -> torch.nn.Module:
    """The model of `workload` on its device, in train mode without a cache, ready to train as its
    setup says.

    weights: None for random ones (seed 0, as transformers initialises them); "hub" for those of
    `workload.model.id`; a folder that `from_pretrained` takes; or a GGUF file, dequantised.
    `on_stage` is told "load", "quantise" and "adapter_inject" as each begins. `device` "meta"
    builds it of tensors without data; `bare` leaves adapters and checkpointing to a trainer.
    Remote code is never run.

    A 4-bit model is quantised one weight at a time, with random weights as they are made, else by
    `from_pretrained(quantization_config=...)`; only GGUF weights are quantised out of the 16-bit
    model, which has to fit.

    Raises UnbuildableError where a library or the device is missing, where transformers or PEFT
    refuses, and where the outcome is not what was asked for: its parameters do not count
    `workload.model.num_parameters`, its weights are not in `setup.dtype`, or the given weights lack
    some. Raises UsageError for weights that are no such thing. An exhausted memory leaves as torch
    raises it.
    """
    setup = workload.setup
    require("transformers", MEASURE, "Building a model")
    if setup.lora is not None:
        require("peft", MEASURE, "LoRA")
    if setup.quantization is not None:
        require("bitsandbytes", '"lora-profiler[qlora]"', "A quantised base")
    device = device or setup.device
    if device != "meta" and not torch.get_device_module(device).is_available():
        raise UnbuildableError(
            f"torch {torch.__version__} sees no {setup.device} device on this machine; try --device"
            " cpu."
        )

    torch.manual_seed(0)
    with quiet():
        on_stage("load")
        deferred = None
        if setup.quantization is not None and weights is None and device != "meta":
            deferred = DeferredWeights(device)
        model = base_model(workload.model, setup, weights, device, deferred)
        _check(model, workload)
        freeze(model, setup)
        if setup.sharding == "tp":
            with refusals(f"transformers cannot cut {workload.model.id}"):
                tensor_parallel(model, setup.world_size, "cpu" if device == "meta" else device)
        if setup.has_wide_ends:
            for name, module in model.named_modules():
                if is_wide_end(name):
                    module.float()
        if patched := part("kernels", setup.kernels, "stand_in", "patched"):
            model = patched(model)
        if setup.quantization is not None:
            on_stage("quantise")
            quantise(
                model,
                setup.quantization,
                setup.dtype,
                deferred,
                sharded=setup.sharding in FULLY_SHARDED,
                in_16_bit=_kept_in_16_bit(workload.model),
            )
            prepare_for_training(model, setup.quantization, setup.checkpointing)
        if setup.has_wide_routers:
            for name, module in model.named_modules():
                if name.endswith(".gate"):
                    module.float()
        if setup.qat != "none" and not is_of_adapted_layers(setup):
            model = with_fake_quantizers(model, setup)
        if setup.lora is not None and not bare:
            on_stage("adapter_inject")
            place = (
                torch.device("meta") if device == "meta" else nullcontext()
            )  # PEFT moves no adapter to where the base is then
            with refusals(f"PEFT refuses these adapters on {workload.model.id}"), place:
                model = inject_adapters(model, setup)
            if setup.sharding == "tp":
                widths_named(model)
            if setup.lora.fast_lora:
                from lora_profiler.trace.modeling.foak import with_fast_lora

                with_fast_lora(model)
            if joined := part("lora_kernels", setup.lora.lora_kernels, "stand_in", "patched"):
                joined(model)
        if is_of_adapted_layers(setup):
            model = with_fake_quantizers(model, setup)
        if setup.transformers != "5":
            from lora_profiler.trace.modeling.generations import with_older_loss

            with_older_loss(model, setup)
        if setup.checkpointing and not bare:
            with refusals(f"{workload.model.id} has no activation checkpointing"):
                enable_checkpointing(model, setup)
        elif setup.has_input_gradients and not bare:
            model.enable_input_require_grads()  # type: ignore[operator]
    return model.train()


def base_model(
    spec: ModelSpec,
    setup: TrainSetup,
    weights: str | None = None,
    device: str | None = None,
    deferred: DeferredWeights | None = None,
) -> torch.nn.Module:
    """The model itself on `device` (None: that of the setup) in `setup.dtype`; already in 4 bit
    where transformers quantises while it loads. Random weights of linear layers wait in `deferred`,
    if there is one.

    Raises as `build_model` does.
    """
    if weights is None:
        model_class, config = _class_and_config(spec, leave_out=_NO_ARCHITECTURE)
        place = torch.device(device or setup.device)
        with refusals(f"transformers cannot build {spec.id}"), place, deferred or nullcontext():
            model: torch.nn.Module = model_class._from_config(config, **_options(spec, setup))
            untie_head(model, spec.published)
            for parameter in model.parameters():  # as from_pretrained leaves them, Whisper's table
                parameter.requires_grad_(parameter.is_floating_point())  # of positions among them
            return model.to(
                place
            )  # torch.normal, for one, makes its tensors on the CPU all the same
    model_class, config = _class_and_config(spec, leave_out=("auto_map",))
    source = _pretrained(spec, setup, weights)
    bar = (
        redirect_stderr(StringIO()) if "gguf_file" in source else nullcontext()
    )  # its own, which no setting turns off
    with refusals(f"the weights of {spec.id} could not be loaded from {weights}"), bar:
        model, report = model_class.from_pretrained(
            config=config,
            device_map={"": setup.device},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in words
            **source,
            **_options(spec, setup),
        )
    absent = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
    if absent:
        raise UnbuildableError(
            f"{weights} lacks {len(absent)} weights of {spec.id}, or has them in another shape:"
            f" {absent[0]} is the first. Give the weights of this model."
        )
    return model


def filled_config(spec: ModelSpec) -> dict[str, Any]:
    """The config.json of a model with everything that transformers fills in, such as the types of
    its layers.

    Raises UnbuildableError where transformers knows no such model, or refuses its config.
    """
    require("transformers", MEASURE, "Building a model")
    with quiet():
        filled: dict[str, Any] = _class_and_config(spec, leave_out=_NO_ARCHITECTURE)[1].to_dict()
    return filled


def _class_and_config(spec: ModelSpec, leave_out: tuple[str, ...]) -> tuple[Any, Any]:
    """The transformers class of a model and a fresh config object, without the fields to
    `leave_out`."""
    import transformers

    raw = {name: value for name, value in spec.published.items() if name not in leave_out}
    if not raw:
        raise UnbuildableError(
            f"the config.json of {spec.id} is not known, so no model can be built from it."
        )
    model_class = getattr(transformers, spec.architecture, None)
    if spec.architecture == HEADLESS and spec.model_type in transformers.CONFIG_MAPPING:
        kind = transformers.CONFIG_MAPPING[spec.model_type]
        model_class = transformers.AutoModel._model_mapping[kind]
    if model_class is None or spec.model_type not in transformers.CONFIG_MAPPING:
        raise UnbuildableError(
            f"transformers {transformers.__version__} has no {spec.architecture} for model type"
            f" {spec.model_type!r}; update it."
        )
    with refusals(f"transformers refuses the config.json of {spec.id}"):
        config = transformers.CONFIG_MAPPING[spec.model_type].from_dict(
            deepcopy(raw) | {"model_type": spec.model_type}
        )
    config.use_cache = False
    if spec.architecture.endswith("ForSequenceClassification") and config.pad_token_id is None:
        config.pad_token_id = 0  # by which it finds each row's last token
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = (
            0  # the first id that the decoder reads: any does, and published files leave it out
        )
    return model_class, config


def _options(spec: ModelSpec, setup: TrainSetup) -> dict[str, Any]:
    """dtype and attention. For "auto" transformers chooses: SDPA, but eager for the families that
    have no other.

    Gemma 2 caps its scores, which no SDPA kernel does: 5.24 runs it eager and refuses SDPA, 5.17
    would leave the cap out.
    """
    attention = {"eager": "eager", "auto": None}.get(setup.attention, "sdpa")
    if type_of(spec).eager_only and attention != "eager":
        if attention == "sdpa":
            raise UnbuildableError(
                f"{spec.id} caps its attention scores, so {setup.attention} cannot run; use eager"
                " or auto."
            )
        attention = "eager"
    return {"dtype": getattr(torch, setup.dtype), "attn_implementation": attention}


def _kept_in_16_bit(spec: ModelSpec) -> Sequence[str] | None:
    """Modules that a 4-bit checkpoint leaves, where its config.json lists them."""
    names = spec.stored.in_16_bit if spec.stored else ()
    return [*names, *filter(None, [spec.output_embedding])] if names else None


def _pretrained(spec: ModelSpec, setup: TrainSetup, weights: str) -> dict[str, Any]:
    """What `from_pretrained` is given to find weights, and how to take them."""
    on_the_fly = {}
    if setup.quantization is not None:
        sharded = setup.sharding in FULLY_SHARDED
        on_the_fly["quantization_config"] = base_config(
            setup.quantization, setup.dtype, sharded=sharded, in_16_bit=_kept_in_16_bit(spec)
        )
    if weights == "hub":
        return {"pretrained_model_name_or_path": spec.id, **on_the_fly}
    path = Path(weights).expanduser()
    if path.is_dir():
        return {"pretrained_model_name_or_path": str(path), **on_the_fly}
    if not path.is_file() or path.suffix != ".gguf":
        raise UsageError(
            f"weights are {weights!r}; give random, hub, a folder with a model's files, or a .gguf"
            " file."
        )
    require("gguf", "gguf", "Reading a GGUF file")
    import transformers

    # From 5.24 on transformers may leave the weights packed, which nothing can train.
    packed = getattr(transformers, "GgufConfig", None)
    plain = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **plain}


def _check(model: Any, workload: Workload) -> None:
    """Raises UnbuildableError unless the model is the one asked for: as many parameters, in the
    dtype asked for.

    transformers itself keeps some weights of some families in float32, router weights for one;
    those may be.
    """
    spec, dtype = workload.model, getattr(torch, workload.setup.dtype)
    count, _ = count_parameters(model)
    if count != spec.num_parameters:
        raise UnbuildableError(
            f"{spec.id} was built with {count} parameters, but its config.json means"
            f" {spec.num_parameters}; the weights are another model's, or transformers is another"
            " version."
        )
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, parameter in model.named_parameters():
        wanted = parameter.dtype == dtype or not parameter.is_floating_point()
        if not wanted and not (
            parameter.dtype == torch.float32 and any(part in name for part in kept)
        ):
            raise UnbuildableError(f"{spec.id}: {name} is {parameter.dtype}, not {dtype}.")
