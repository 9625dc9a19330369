"""Single changes that lower the peak, each predicted anew."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.option_values import OVER_ALL_LOGITS
from lora_profiler.planning.engine import engine_for_search, peak_bytes, predict
from lora_profiler.prediction import Prediction
from lora_profiler.support.packing import takes_flattened
from lora_profiler.workload import PROJECTED, LoraConfig, Quantization, TrainSetup, Workload

AWAY_FROM_HEAD = ("setup", "last_layer_forward", "optimizer_step")
"""Moments that do not depend on how the head makes the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
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
) -> tuple[Lever, ...]:
    """Single changes that lower the steady-state peak, the largest saving first; each is predicted
    anew, none is guessed.

    Changes to a method in `besides` are left out. Empty where the engine does not know the
    activations: then the peak itself is only a lower bound.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, levers
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> levers(workload)[0].option
        '--checkpointing'
    """
    prediction = prediction or predict(workload, engine)
    answerer = engine_for_search(prediction, engine)
    tried = (_try(change, workload, answerer) for change in changes(workload, prediction, besides))
    return tuple(sorted((lever for lever in tried if lever), key=lambda lever: -lever.saved_bytes))


def best_lever(
    workload: Workload,
    engine: str = "auto",
    prediction: Prediction | None = None,
    *,
    besides: Collection[str] = (),
) -> Lever | None:
    """The first of `levers`, in less time: a change that cannot save as much as one already tried
    is not tried.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, best_lever, find_model
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> best_lever(workload).option
        '--checkpointing'
    """
    prediction = prediction or predict(workload, engine)
    answerer = engine_for_search(prediction, engine)
    best: Lever | None = None
    for change in sorted(
        changes(workload, prediction, besides), key=lambda change: -change.at_most
    ):
        if best is not None and change.at_most <= best.saved_bytes:
            break
        lever = _try(change, workload, answerer)
        if lever is not None and (best is None or lever.saved_bytes > best.saved_bytes):
            best = lever
    return best


class MemoryChange(NamedTuple):
    """A change to try. It lowers the present peak moment by at most `at_most` bytes, hence the peak
    by no more. `learns_the_same`: the update is that of before, but for rounding."""

    name: str
    option: str
    price: str
    setup: TrainSetup
    before: int
    at_most: int
    learns_the_same: bool


_LEARN_THE_SAME = ("--checkpointing", "--loss", "--optimizer-impl", "--attention", "-b")
"""Options that change how a step is worked out, not what it learns."""


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


def changes(
    workload: Workload, prediction: Prediction, besides: Collection[str]
) -> Iterator[MemoryChange]:
    """Every change worth a try."""
    if prediction.saved_activation_bytes is None:
        return
    setup, lora, peak = workload.setup, workload.setup.lora, prediction.peak
    everything = peak.total_bytes
    of_pass = ("activations", "temporaries")
    adapted = ("adapters", "gradients", "optimizer_states", *of_pass)

    def change(
        name: str, option: str, price: str, touched: Collection[str] = (), **fields: Any
    ) -> Iterator[MemoryChange]:
        """None where the setup does not go with it."""
        try:
            changed = replace(setup, **fields)
        except UsageError:
            return
        sizes = (size for category, size in peak.bytes.items() if category in touched)
        at_most = sum(sizes) if touched else everything
        same = option.startswith(_LEARN_THE_SAME)
        yield MemoryChange(name, option, price, changed, everything, at_most, same)

    if lora is None and "lora" not in besides:
        fields: dict[str, Any] = {"lora": LoraConfig()}
        option = "--method lora"
        if setup.optimizer in PROJECTED:  # of whole weights alone
            fields["optimizer"] = "adamw"
            option += " --optimizer adamw"
        price = "trains an update of low rank"
        yield from change("LoRA instead of full fine-tuning", option, price, **fields)
    if lora is not None and setup.quantization is None and "qlora" not in besides:
        qlora = Quantization()
        option, price = "--method qlora", "dequantises every weight again for each use"
        yield from change("a 4-bit base (QLoRA)", option, price, ["parameters"], quantization=qlora)
    if not setup.checkpointing:
        name, option = "gradient checkpointing", "--checkpointing"
        price = "runs most of the forward pass twice"
        yield from change(name, option, price, of_pass, checkpointing=True)
    recipe = setup.quantization.recipe if setup.quantization else "stock"
    is_wide = lora is not None and lora.adapter_dtype == "float32" and setup.dtype != "float32"
    if lora is not None and is_wide and recipe == "stock":
        narrow = replace(lora, adapter_dtype=setup.dtype)
        name, option = f"{setup.dtype} adapters", f"--adapter-dtype {setup.dtype}"
        yield from change(name, option, "updates the adapters in 16 bit", adapted, lora=narrow)
    in_update = peak.moment == "optimizer_step"
    if setup.optimizer_impl == "foreach" and setup.optimizer in ("adamw", "sgd") and in_update:
        name, option = "the fused optimizer", "--optimizer-impl fused"
        yield from change(name, option, "none known", ["temporaries"], optimizer_impl="fused")
    if setup.optimizer == "adamw":
        eight = {"optimizer": "adamw_8bit", "optimizer_impl": "foreach"}
        states = ("optimizer_states", "temporaries") if in_update else ("optimizer_states",)
        price = "keeps the optimizer states in 8 bit"
        yield from change("8-bit AdamW", "--optimizer adamw_8bit", price, states, **eight)
    if setup.dtype == "float32" and setup.precision == "pure":
        option, price = "--dtype bfloat16", "trains in 16 bit"
        yield from change("bfloat16 weights", option, price, dtype="bfloat16")
    if (
        setup.loss not in ("fused", "scores", *OVER_ALL_LOGITS)  # which reads all logits
        and not setup.is_shared
        and peak.moment in ("end_of_forward", "loss_backward")
    ):
        steady = (m for m in prediction.moments if m.step == "steady")
        elsewhere = max(m.total_bytes for m in steady if m.moment in AWAY_FROM_HEAD)
        price = "leaves no logits to look at"
        for saving in change("a fused loss", "--loss fused", price, loss="fused"):
            yield saving._replace(at_most=everything - elsewhere)  # these moments stay as they are
    if setup.hold_outputs:
        outputs = ("logits_and_loss", "activations")
        name, option = "dropping outputs", "--no-hold-outputs"
        yield from change(name, option, "none known", outputs, hold_outputs=False)
    if setup.attention in ("eager", "math"):
        name, option = "SDPA attention", "--attention auto"
        yield from change(name, option, "none known", of_pass, attention="auto")
    taken = setup.attention == "flash" or setup.is_flash_attention_2
    if setup.is_packed and setup.device == "cuda" and not taken and takes_flattened(workload.model):
        name, option = "FlashAttention 2 for packed rows", "--attention flash"
        yield from change(name, option, "needs the flash-attn package", of_pass, attention="flash")
    if lora is not None and lora.lora_dropout > 0:
        dry = replace(lora, lora_dropout=0.0)
        yield from change(
            "no adapter dropout", "--dropout 0", "regularises less", of_pass, lora=dry
        )
    if lora is not None and lora.has_rank and lora.r > 1:
        rank = lora.r // 2
        name, option, price = f"rank {rank}", f"--rank {rank}", "an update of lower rank"
        yield from change(name, option, price, adapted, lora=replace(lora, r=rank))
    if lora is not None and lora.target_modules == "all-linear":
        fewer = replace(lora, target_modules=None)
        name, option = "adapters on PEFT's default targets", "--targets default"
        yield from change(name, option, "adapts fewer layers", adapted, lora=fewer)
    if setup.batch_size > 1 and setup.batch_size % 2 == 0:
        half, twice = setup.batch_size // 2, setup.accumulation * 2
        name, option = f"micro-batch {half}", f"-b {half} --accumulation {twice}"
        sized = ("inputs", "activations", "logits_and_loss", "temporaries")
        price = "more, smaller micro-batches a step"
        yield from change(name, option, price, sized, batch_size=half, accumulation=twice)
