"""Single changes that lower the peak, each predicted anew."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.stacks.stack import BARE, Trainer, check_able, find_stack
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import engine_for_search, peak_bytes, predict
from lora_profiler.planning.setups import DEFAULTS, fields_of, setups, written_options
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import flag
from lora_profiler.question.support.packing import takes_flattened
from lora_profiler.question.workload import OPTIONS, Method, TrainSetup, Workload

T = TypeVar("T")

AWAY_FROM_HEAD = ("setup", "last_layer_forward", "optimizer_step")
"""Moments that do not depend on how the head makes the loss."""


class Lever(NamedTuple):
    """One change that lowers the peak: what it is, the option that makes it, the peak after it, and
    its price in words.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, levers
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> levers(workload)[0].price
        'runs most of the forward pass twice'
    """

    name: str
    option: str
    price: str
    peak_bytes: int
    saved_bytes: int

    @property
    def saved_fraction(self) -> float:
        return self.saved_bytes / (self.peak_bytes + self.saved_bytes)


def levers(
    workload: Workload,
    engine: str = "auto",
    prediction: Prediction | None = None,
    *,
    besides: Collection[str] = (),
    trainer: Trainer | None = None,
) -> tuple[Lever, ...]:
    """Single changes that lower the steady-state peak, the largest saving first; each is predicted
    anew, none is guessed.

    Changes to a method in `besides` are left out, and those that `trainer` cannot make. Empty where
    the engine does not know the activations: then the peak itself is only a lower bound.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, levers
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> levers(workload)[0].option
        '--checkpointing'
    """
    prediction = prediction or predict(workload, engine)
    answerer = engine_for_search(prediction, engine)
    every = changes(workload, prediction, besides, trainer)
    tried = (_try(change, workload, answerer) for change in every)
    return tuple(sorted((lever for lever in tried if lever), key=lambda lever: -lever.saved_bytes))


def best_lever(
    workload: Workload,
    engine: str = "auto",
    prediction: Prediction | None = None,
    *,
    besides: Collection[str] = (),
    trainer: Trainer | None = None,
) -> Lever | None:
    """The first of `levers`, in less time: a change that cannot save as much as one already tried
    is not tried.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.memory_savings import best_lever
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> best_lever(workload).option
        '--checkpointing'
    """
    prediction = prediction or predict(workload, engine)
    answerer = engine_for_search(prediction, engine)
    best: Lever | None = None
    every = changes(workload, prediction, besides, trainer)
    for change in sorted(every, key=lambda change: -change.at_most):
        if best is not None and change.at_most <= best.saved_bytes:
            break
        lever = _try(change, workload, answerer)
        if lever is not None and (best is None or lever.saved_bytes > best.saved_bytes):
            best = lever
    return best


class Departure(IntEnum):
    """How far a change takes the update from what it was."""

    NONE = 0
    """The same but for rounding."""
    PRECISION = 1
    """Something that is trained, or adapters' inputs, in fewer bits."""
    METHOD = 2
    """Other weights are trained, or over another base."""


class MemoryChange(NamedTuple):
    """A change to try. It lowers the present peak moment by at most `at_most` bytes, hence the peak
    by no more."""

    name: str
    option: str
    price: str
    setup: TrainSetup
    before: int
    at_most: int
    departure: Departure


def _try(change: MemoryChange, workload: Workload, engine: str) -> Lever | None:
    try:
        after = peak_bytes(replace(workload, setup=change.setup), engine)
    except LoraProfilerError:  # this change does not exist for this model
        return None
    if after >= change.before:
        return None
    return Lever(
        name=change.name,
        option=change.option,
        price=change.price,
        peak_bytes=after,
        saved_bytes=change.before - after,
    )


_OWN_LOOPS = (BARE, "loop")
"""Where everything is the user's own code."""


def changes(
    workload: Workload,
    prediction: Prediction,
    besides: Collection[str],
    trainer: Trainer | None = None,
) -> Iterator[MemoryChange]:
    """Every change worth a try; of `trainer` those that its options make, written as it takes
    them."""
    if prediction.saved_activation_bytes is None:
        return
    setup, lora, peak = workload.setup, workload.setup.lora, prediction.peak
    everything = peak.total_bytes
    of_pass = ("activations", "temporaries")
    adapted = ("adapters", "gradients", "optimizer_states", *of_pass)
    trainer = trainer or Trainer(stack=find_stack(BARE))
    stack = trainer.stack
    fixed = stack.options - trainer.explicit if stack.name not in _OWN_LOOPS else frozenset()

    def change(
        name: str,
        option: str,
        price: str,
        touched: Collection[str] = (),
        departure: Departure = Departure.NONE,
        **fields: Any,
    ) -> Iterator[MemoryChange]:
        """None where the setup does not go with it, or the trainer cannot do it."""
        try:
            changed = replace(setup, **fields)
            check_able(stack, written_options(changed), _names_in(option))
        except UsageError:
            return
        sizes = (size for category, size in peak.bytes.items() if category in touched)
        at_most = sum(sizes) if touched else everything
        yield MemoryChange(name, option, price, changed, everything, at_most, departure)

    def method(name: str, method: Method, option: str, price: str) -> Iterator[MemoryChange]:
        fields = _fields_of_method(workload, method, trainer)
        if fields is not None and method not in besides:
            if option.endswith(" adamw"):
                fields["optimizer"] = "adamw"
            yield from change(name, option, price, (), Departure.METHOD, **fields)

    if lora is None:
        option = "--method lora"
        if optimizer_facts(setup.optimizer).whole_weights_alone:  # of whole weights alone
            option += " --optimizer adamw"
        price = "trains an update of low rank"
        yield from method("LoRA instead of full fine-tuning", "lora", option, price)
    if lora is not None and setup.quantization is None:
        price = "dequantises every weight again for each use"
        yield from method("a 4-bit base (QLoRA)", "qlora", "--method qlora", price)
    if not setup.checkpointing:
        name, option = "gradient checkpointing", "--checkpointing"
        price = "runs most of the forward pass twice"
        yield from change(name, option, price, of_pass, checkpointing=True)
    recipe = setup.quantization.recipe if setup.quantization else "stock"
    is_wide = lora is not None and lora.adapter_dtype == "float32" and setup.dtype != "float32"
    if lora is not None and is_wide and recipe == "stock":
        narrow = replace(lora, adapter_dtype=setup.dtype)
        name, option = f"{setup.dtype} adapters", f"--adapter-dtype {setup.dtype}"
        price, rounded = "updates the adapters in 16 bit", Departure.PRECISION
        yield from change(name, option, price, adapted, rounded, lora=narrow)
    if setup.quantization is not None and recipe.startswith("kbit") and "recipe" not in fixed:
        base = replace(setup.quantization, recipe="stock")
        name, option = "a 4-bit base without k-bit preparation", "--recipe stock"
        price, rounded = "leaves norms, embedding and head in 16 bit", Departure.PRECISION
        yield from change(name, option, price, (), rounded, quantization=base)
    in_update = peak.moment == "optimizer_step"
    if (
        setup.optimizer_impl == "foreach"
        and optimizer_facts(setup.optimizer).has_fused
        and in_update
    ):
        name, option = "the fused optimizer", "--optimizer-impl fused"
        yield from change(name, option, "none known", ["temporaries"], optimizer_impl="fused")
    if setup.optimizer == "adamw":
        eight = {"optimizer": "adamw_8bit", "optimizer_impl": "foreach"}
        states = ("optimizer_states", "temporaries") if in_update else ("optimizer_states",)
        price, rounded = "keeps the optimizer states in 8 bit", Departure.PRECISION
        yield from change("8-bit AdamW", "--optimizer adamw_8bit", price, states, rounded, **eight)
    if setup.dtype == "float32" and setup.precision in ("pure", "amp", "amp-float16"):
        yield from _in_16_bit(workload, change)
    if (
        loss_facts(setup.loss).can_be_fused
        and not setup.is_shared
        and peak.moment in ("end_of_forward", "loss_backward")
    ):
        steady = (m for m in prediction.moments if m.step == "steady")
        elsewhere = max(m.total_bytes for m in steady if m.moment in AWAY_FROM_HEAD)
        price = "leaves no logits to look at"
        for saving in change("a fused loss", "--loss fused", price, loss="fused"):
            yield saving._replace(at_most=everything - elsewhere)  # these moments stay as they are
    if setup.hold_outputs and "hold_outputs" not in fixed:
        outputs = ("logits_and_loss", "activations")
        name, option = "dropping outputs", "--no-hold-outputs"
        yield from change(name, option, "none known", outputs, hold_outputs=False)
    if (setup.eval_batch_size or 1) > 1:
        name, option = "evaluation one sequence at a time", "--eval-batch-size 1"
        yield from change(name, option, "evaluates more slowly", eval_batch_size=1)
    if setup.attention in ("eager", "math"):
        name, option = "SDPA attention", "--attention auto"
        yield from change(name, option, "none known", of_pass, attention="auto")
    taken = setup.attention == "flash" or setup.is_flash_attention_2
    if setup.is_packed and setup.device == "cuda" and not taken and takes_flattened(workload.model):
        name, option = "FlashAttention 2 for packed rows", "--attention flash"
        yield from change(name, option, "needs the flash-attn package", of_pass, attention="flash")
    if lora is not None and lora.lora_dropout > 0:
        dry, other = replace(lora, lora_dropout=0.0), Departure.METHOD
        yield from change(
            "no adapter dropout", "--dropout 0", "regularises less", of_pass, other, lora=dry
        )
    if lora is not None and lora.has_rank and lora.r > 1:
        rank = lora.r // 2
        name, option, price = f"rank {rank}", f"--rank {rank}", "an update of lower rank"
        lower = replace(lora, r=rank)
        yield from change(name, option, price, adapted, Departure.METHOD, lora=lower)
    if lora is not None and lora.target_modules == "all-linear":
        fewer, other = replace(lora, target_modules=None), Departure.METHOD
        name, option = "PEFT's default targets", "--targets default"
        yield from change(name, option, "adapts fewer layers", adapted, other, lora=fewer)
    for size, times in smaller_batches(setup.batch_size, stack.rows)[:1]:
        steps = setup.accumulation * times
        written = size // stack.rows
        name, option = f"micro-batch {written}", f"-b {written} --accumulation {steps}"
        sized = ("inputs", "activations", "logits_and_loss", "temporaries")
        price = "more, smaller micro-batches a step"
        yield from change(name, option, price, sized, batch_size=size, accumulation=steps)


def smaller_batches(batch_size: int, rows: int = 1) -> list[tuple[int, int]]:
    """(rows of a micro-batch, how many of them make up the old one), the smallest first; `rows`
    belong together."""
    samples = batch_size // rows
    sizes = (size for size in range(1, samples) if samples % size == 0)
    return [(rows * size, samples // size) for size in sizes]


def _names_in(option: str) -> set[str]:
    """The options of '-b 2 --accumulation 4', by name."""
    flags = {word for word in option.split() if word.startswith("-")}
    return {o.name for o in OPTIONS if flags & {o.flag, o.declared.short, flag(f"no_{o.name}")}}


def _in_16_bit(workload: Workload, change: Callable[..., Iterator[T]]) -> Iterator[T]:
    """Weights in the 16-bit format that the card computes in. Under autocast frozen weights are
    multiplied in it anyway."""
    setup = workload.setup
    dtype = "bfloat16" if workload.platform.has_bfloat16 else "float16"
    precision = "amp-float16" if setup.precision == "amp" and dtype == "float16" else None
    option = f"--dtype {dtype}{f' --precision {precision}' if precision else ''}"
    is_frozen = setup.lora is not None and setup.precision != "pure"
    price = "keeps frozen weights as autocast takes them" if is_frozen else "trains in 16 bit"
    departure = Departure.NONE if is_frozen else Departure.PRECISION
    fields = {"dtype": dtype, "precision": precision or setup.precision}
    yield from change(f"{dtype} weights", option, price, (), departure, **fields)


def _fields_of_method(
    workload: Workload, method: Method, trainer: Trainer
) -> dict[str, Any] | None:
    """What another method of the same trainer changes in the setup, what was given left as it is;
    None where there is no such method."""
    model, platform, setup = workload.model, workload.platform, workload.setup
    now = written_options(setup)

    def written(of: Method) -> dict[str, Any]:
        options = {**DEFAULTS, "methods": (of,), "device": setup.device}
        (made,) = setups(model, options, {"methods"}, platform, trainer.stack)
        return written_options(made)

    try:
        before, after = written(setup.method), written(method)
        own = {
            name: value
            for name, value in after.items()
            if name not in before
            or (name not in trainer.explicit and now[name] == before[name] != value)
        }
        return fields_of({**now, **own}, own, model)
    except UsageError:
        return None
