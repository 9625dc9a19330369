"""A trainer's file as the question that it is: its options, what it leaves open, what it says that
nothing models, and how it goes with a model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.stacks.stack import Gap, Stack, as_loaded, find_stack
from lora_profiler.question.adapters import Adapter, adapters
from lora_profiler.question.feature import part
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import FROZEN_PARTS, flag
from lora_profiler.question.support.bases import packed_experts, rounds_head
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.support.losses import check_loss
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    LoraConfig,
    Loss,
    Method,
    TrainSetup,
    Workload,
    idle_options,
)
from lora_profiler.trainer_files.document import TrainerFileError
from lora_profiler.trainer_files.meaning import GATED_NORM, IMAGES, Direction, is_on

State = Literal["option", "costs nothing", "not modelled", "asks", "unknown"]
_MISSING_OPTIONS = {
    "seq_len": "its length depends on the data; add `--seq-len 2048`",
    "world_size": "it trains on several GPUs; say how many: `--world-size 8`",
}
_DIRECTIONS: Mapping[Direction, str] = {
    "too low": "too low",
    "too high": "too high",
    "either way": "too low or too high",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReading:
    """One key as understood. `line` is 0 for what holds without a key; `direction` is that in which
    the answer is wrong for what is not modelled."""

    file: str
    line: int
    key: str
    value: Any
    state: State
    options: Mapping[str, Any]
    missing: str = ""
    direction: Direction | None = None
    asks: tuple[str, ...] = ()
    note: str = ""
    alternatives: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerFile:
    """A file as a question. `options` are those of a setup by name, as people write them, `methods`
    among them; `stack` is the trainer whose defaults hold beside; `asks` are the options that it
    cannot tell. `has_one_row`: the trainer lays a packed batch into one row. `has_hidden_bucket`:
    DeepSpeed's bucket has as many elements as the square of the hidden size.
    `has_checkpoint_dtype`: weights are loaded in the checkpoint's format. `vllm_share`: of the
    card, taken by vLLM beside the training. `sharding_of_several`: where `--gpu 8xh100`
    names several GPUs and no key a sharding."""

    name: str
    framework: str
    title: str
    stack: str
    model: str | None
    revision: str | None
    options: Mapping[str, Any]
    has_one_row: bool
    has_hidden_bucket: bool
    has_checkpoint_dtype: bool
    vllm_share: float
    asks: tuple[str, ...]
    keys: tuple[KeyReading, ...]
    sharding_of_several: str

    @property
    def not_modelled(self) -> tuple[KeyReading, ...]:
        return tuple(key for key in self.keys if key.missing or key.state == "unknown")

    @property
    def effective_options(self) -> dict[str, Any]:
        """Its options, and where it has none the stack's defaults."""
        return {**usual_options(self.stack, self.options), **self.options}

    def named_model(self) -> tuple[str, str]:
        """The model, and where it stands. Raises TrainerFileError where none does."""
        if self.model is None:
            raise TrainerFileError(f"{self.name} names no model of the hub; add --model ID.")
        row = next(key for key in self.keys if "model" in key.options)
        return self.model, f"{row.file}:{row.line} ({row.key})" if row.line else row.key

    def completing(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its options where `given`, which overrule them, leave something open; those that no
        method asked for would read are left out. Raises TrainerFileError for what neither tells."""
        for name in self.asks:
            if name not in given and name != "model":
                raise TrainerFileError(f"{self._place(name)}: {_MISSING_OPTIONS[name]}.")
        methods = given.get("methods", self.options.get("methods", ()))
        own = {
            name: v
            for name, v in self.options.items()
            if name not in {*given, *idle_options(methods)}
        }
        if given.get("world_size") == 1 and own.get("sharding") not in DEEPSPEED_ZERO:
            own.pop("sharding", None)
        if self.has_one_row and "packed" not in given:
            usual = usual_options(self.stack, {"methods": methods})
            batch, length = (
                {**usual, **self.options, **given}.get(name, 1)
                for name in ("batch_size", "seq_len")
            )
            own |= {"batch_size": 1, "seq_len": batch * length}
        return own

    def _place(self, ask: str) -> str:
        """Where the file leaves an option open."""
        asking = next((key for key in self.keys if ask in key.asks), None)
        if asking is None:
            return self.name
        line = f":{asking.line}" if asking.line else ""
        return f"{asking.file}{line} ({asking.key})"


def by_keys(file: TrainerFile, refusal: str) -> str:
    """`refusal`, with the file's keys in place of options that nobody typed: 'Change lora_r in
    run.yml.' in place of 'Leave --rank out.'"""
    for row in file.keys:
        for name in row.options:
            advice = rf"\b([Ll])eave {re.escape(flag(name))} out"
            refusal = re.sub(advice, f"Change {row.key} in {file.name}", refusal)
    return refusal


def gaps(file: TrainerFile) -> list[Gap]:
    """What the file says and nothing models, each once, with its place and how it errs."""
    each: dict[str, Gap] = {}
    for key in file.not_modelled:
        what = key.missing or "unknown key, ignored"
        place = f"{key.file}:{key.line}" if key.line else key.file
        errs = _DIRECTIONS[key.direction] if key.direction else ""
        direction = f" (the answer is {errs})" if errs else ""
        each.setdefault(
            key.missing or key.key,
            Gap(
                f"{place}: {key.key}: {what}{direction}",
                missing=key.missing or f"the key {key.key}",
                direction=errs,
                alternatives=key.alternatives,
            ),
        )
    return list(each.values())


def with_gaps(stack: Stack, file: TrainerFile) -> Stack:
    """The stack with what the file says and nothing models among its gaps."""
    return replace(stack, gaps=(*stack.gaps, *gaps(file)))


def with_images(file: TrainerFile) -> TrainerFile:
    """The file where the question tells of its images: they are missing no more, and it says which
    parts of the model that sees them are frozen."""
    keys = tuple(row for row in file.keys if row.missing != IMAGES)
    parts = _frozen(file.framework, {row.key: is_on(row.value) for row in file.keys})
    if not parts:
        return replace(file, keys=keys)
    frozen = ",".join(parts)
    if file.framework == "llamafactory" and _is_full_under_autocast(file):
        what = "frozen parts in bfloat16 (model/adapter.py), answered in float32 as what trains"
        keys = (*keys, instead(file.name, "freeze", frozen, frozen, what))
    return replace(file, keys=keys, options={**file.options, "freeze": frozen})


def _is_full_under_autocast(file: TrainerFile) -> bool:
    options = file.effective_options
    is_full = next(iter(file.options.get("methods", ())), "full") == "full"
    return is_full and options.get("precision") == "amp"


def _frozen(framework: str, switches: Mapping[str, bool]) -> Sequence[str]:
    """LLaMA-Factory freezes tower and projector unless told otherwise (hparams/finetuning_args.py),
    axolotl (utils/freeze.py) and Unsloth (FastVisionModel.get_peft_model) where told to."""
    seeing = FROZEN_PARTS[:2]
    if framework == "llamafactory":
        return [part for part in FROZEN_PARTS if switches.get(f"freeze_{part}", part in seeing)]
    is_asked = switches.get("freeze_mm_modules") or not switches.get("finetune_vision_layers", True)
    return seeing if is_asked else ()


def on_model(file: TrainerFile, model: ModelSpec) -> TrainerFile:
    """The file with what rules know of the model: Liger's kernels and a loss without logits do not
    go with each, and are then answered as transformers' own."""
    effective = file.effective_options
    changed: list[KeyReading] = []

    def answered(*reading: Any) -> None:
        changed.append(instead(file.name, *reading))

    def settled(*reading: Any) -> None:
        changed.append(settled_by(file.name, *reading))

    kind, framework = model.model_type, part("trainers", file.framework, "keys", "FRAMEWORK")
    changed += framework.on_model(file, model)
    own_kernels = effective.get("kernels", "transformers")
    known = kernel_set(own_kernels).types
    if effective.get("kernels") and known and kind not in known and not _has(changed, "kernels"):
        what = f"{kernel_set(own_kernels).title} on {kind}, answered without them"
        answered("kernels", own_kernels, "transformers", what)
    loss = effective.get("loss", "plain")
    if not _takes_loss(model, loss, effective):
        answered("loss", loss, "plain", f"the {loss} loss on {kind}, answered as plain")
    if (
        effective.get("qat") == "8da4w"
        and loss.startswith("torchtune")
        and _rounds_head(model, effective)
    ):
        what = "a head fake-quantised for each part of the tokens, answered as one plain loss"
        answered("loss", loss, "plain", what, "too low")
    adapters = adapters_of(model, effective) if effective.get("quantize_experts") else ()
    in_4_bit = effective.get("quantize_experts") and any(a.num_experts > 1 for a in adapters)
    parameters, others = effective.get("target_parameters"), effective | {"target_parameters": None}
    if in_4_bit and parameters and not any(a.num_experts > 1 for a in adapters_of(model, others)):
        what = "adapters on experts in 4 bit, answered without"
        answered("target_parameters", parameters, None, what, "too low")
    elif in_4_bit:
        what = "adapters on experts in 4 bit, answered as on experts in 16"
        answered("quantize_experts", True, False, what)
    elif effective.get("quantize_experts") and not packed_experts(model):
        note = f"{kind} has no experts that are packed into one parameter"
        settled("quantize_experts", True, False, note)
    own = {name: value for row in changed for name, value in row.options.items()}
    pattern = str(file.options.get("targets", ""))
    if model.text_side_of is not None and pattern.startswith("re:"):
        # by the names that modules have in the language model alone
        own["targets"] = re.sub(r"language_model\\?\.", "", pattern)
    if file.has_hidden_bucket and (hidden := model.config.get("hidden_size")):
        own["reduce_bucket_size"] = hidden**2
    if file.has_checkpoint_dtype:
        own["dtype"] = as_loaded(model)
    keys = file.keys
    if model.model_type not in _GATED:
        keys = tuple(_idle(row) if row.missing == GATED_NORM else row for row in keys)
    left_out = {row.key for row in changed if not row.options}  # nothing stands for them
    options = {name: value for name, value in file.options.items() if name not in left_out}
    return replace(file, options=options | own, keys=(*keys, *changed))


_GATED = ("qwen3_5", "qwen3_5_moe")
"""Types whose gated RMSNorm axolotl 067b021 replaces (`integrations/liger/plugin.py`)."""


def _idle(row: KeyReading) -> KeyReading:
    note = "axolotl replaces none in this type"
    return replace(row, state="costs nothing", missing="", direction=None, note=note)


def adapters_of(model: ModelSpec, options: Mapping[str, Any]) -> Sequence[Adapter]:
    """Those that the targets make on the model, where PEFT takes them; axolotl 067b021 lets dropout
    be where it refuses it (`loaders/adapter.py`, _patch_peft_param_wrapper_dropout)."""
    text = str(options.get("targets", "default"))
    named: str | tuple[str, ...] | None = tuple(text.split(","))
    if text in ("all-linear", "default"):
        named = None if text == "default" else text
    elif text.startswith("re:"):
        named = text.removeprefix("re:")
    parameters = tuple(filter(None, str(options.get("target_parameters") or "").split(",")))
    try:
        return adapters(model, LoraConfig(target_modules=named, target_parameters=parameters))
    except LoraProfilerError:
        return ()


def _rounds_head(model: ModelSpec, options: Mapping[str, Any]) -> bool:
    is_full = "full" in options.get("methods", ())
    setup = TrainSetup(qat="8da4w", lora=None if is_full else LoraConfig())
    return rounds_head(Workload(model=replace(model, stored=None), setup=setup))


def _takes_loss(model: ModelSpec, loss: Loss, options: Mapping[str, Any]) -> bool:
    """Whether a loss that multiplies by the head's weight itself goes with the model, and with the
    targets: an adapter on the head adds to the logits."""
    targets = str(options.get("targets", "")).split(",")
    if loss != "plain" and (model.output_embedding or "").rpartition(".")[2] in targets:
        return False
    setup = TrainSetup(loss=loss, kernels=options.get("kernels", "transformers"))
    made = as_made(replace(model, stored=None), setup)
    try:
        check_loss(Workload(model=made, setup=setup))
    except UsageError:
        return False
    return True


def _has(rows: Sequence[KeyReading], option: str) -> bool:
    return any(option in row.options for row in rows)


def instead(
    file: str, option: str, value: Any, nearest: Any, what: str, direction: Direction = "too high"
) -> KeyReading:
    """A reading of what the stack or a key asks for and the nearest stands for, nothing where that
    is None."""
    return KeyReading(
        file=file,
        line=0,
        key=option,
        value=value,
        state="not modelled",
        options={} if nearest is None else {option: nearest},
        missing=what,
        direction=direction,
    )


def settled_by(file: str, option: str, value: Any, own: Any, note: str) -> KeyReading:
    """A reading of what the trainer itself makes of an option, and why."""
    return KeyReading(
        file=file, line=0, key=option, value=value, state="option", options={option: own}, note=note
    )


def usual_options(stack: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stack's defaults of the method asked for."""
    method: Method = next(iter(options.get("methods", ())), "full")
    return find_stack(stack).defaults[method]
