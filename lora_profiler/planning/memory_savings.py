"""Single changes that lower the peak, each predicted anew."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lora_profiler.errors import LoraProfilerError, UsageError
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


class Change(NamedTuple):
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


def _try(change: Change, workload: Workload, engine: str) -> Lever | None:
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
) -> Iterator[Change]:
    """Every change worth a try."""
    if prediction.saved_activation_bytes is None:
        return
    setup, lora, peak = workload.setup, workload.setup.lora, prediction.peak
    everything = peak.total_bytes

    def change(
        name: str, option: str, price: str, fields: Mapping[str, Any], *touched: str
    ) -> Iterator[Change]:
        """None where the setup does not go with it."""
        try:
            changed = replace(setup, **fields)
        except UsageError:
            return
        at_most = (
            sum(size for category, size in peak.bytes.items() if category in touched)
            if touched
            else everything
        )
        same = option.startswith(_LEARN_THE_SAME)
        yield Change(name, option, price, changed, everything, at_most, same)

    if lora is None and "lora" not in besides:
        fields: dict[str, Any] = {"lora": LoraConfig()}
        option = "--method lora"
        if setup.optimizer in PROJECTED:  # of whole weights alone
            fields["optimizer"] = "adamw"
            option += " --optimizer adamw"
        price = "trains an update of low rank"
        yield from change("LoRA instead of full fine-tuning", option, price, fields)
    if lora is not None and setup.quantization is None and "qlora" not in besides:
        qlora = {"quantization": Quantization()}
        price = "dequantises every weight again for each use"
        yield from change("a 4-bit base (QLoRA)", "--method qlora", price, qlora, "parameters")
    if not setup.checkpointing:
        checkpointed = {"checkpointing": True}
        price = "runs most of the forward pass twice"
        yield from change(
            "gradient checkpointing",
            "--checkpointing",
            price,
            checkpointed,
            "activations",
            "temporaries",
        )
    recipe = setup.quantization.recipe if setup.quantization else "stock"
    if (
        lora is not None
        and lora.adapter_dtype == "float32"
        and setup.dtype != "float32"
        and recipe == "stock"
    ):
        narrow = {"lora": replace(lora, adapter_dtype=setup.dtype)}
        held = ("activations", "temporaries", "adapters", "gradients", "optimizer_states")
        option = f"--adapter-dtype {setup.dtype}"
        yield from change(
            f"{setup.dtype} adapters", option, "updates the adapters in 16 bit", narrow, *held
        )
    if (
        setup.optimizer_impl == "foreach"
        and setup.optimizer in ("adamw", "sgd")
        and peak.moment == "optimizer_step"
    ):
        fused = {"optimizer_impl": "fused"}
        yield from change(
            "the fused optimizer", "--optimizer-impl fused", "none known", fused, "temporaries"
        )
    if setup.optimizer == "adamw":
        eight = {"optimizer": "adamw_8bit", "optimizer_impl": "foreach"}
        step = ("temporaries",) if peak.moment == "optimizer_step" else ()
        yield from change(
            "8-bit AdamW",
            "--optimizer adamw_8bit",
            "keeps the optimizer states in 8 bit",
            eight,
            "optimizer_states",
            *step,
        )
    if setup.dtype == "float32" and setup.precision == "pure":
        yield from change(
            "bfloat16 weights", "--dtype bfloat16", "trains in 16 bit", {"dtype": "bfloat16"}
        )
    if (
        setup.loss not in ("fused", "llamafactory-dpo")  # which reads all logits
        and setup.world_size == 1
        and peak.moment in ("end_of_forward", "loss_backward")
    ):
        fused_loss = {"loss": "fused"}
        elsewhere = max(
            m.total_bytes
            for m in prediction.moments
            if m.step == "steady" and m.moment in AWAY_FROM_HEAD
        )
        price = "leaves no logits to look at"
        for saving in change("a fused loss", "--loss fused", price, fused_loss):
            yield saving._replace(at_most=everything - elsewhere)  # these moments stay as they are
    if setup.hold_outputs:
        dropped = {"hold_outputs": False}
        option, of_outputs = "--no-hold-outputs", ("logits_and_loss", "activations")
        yield from change("dropping outputs", option, "none known", dropped, *of_outputs)
    if setup.attention in ("eager", "math"):
        fast = {"attention": "auto"}
        yield from change(
            "SDPA attention", "--attention auto", "none known", fast, "activations", "temporaries"
        )
    taken = setup.attention == "flash" or setup.is_flash_attention_2
    if setup.is_packed and setup.device == "cuda" and not taken and takes_flattened(workload.model):
        price = "needs the flash-attn package"
        yield from change(
            "FlashAttention 2 for packed rows",
            "--attention flash",
            price,
            {"attention": "flash"},
            "activations",
            "temporaries",
        )
    if lora is not None and lora.lora_dropout > 0:
        dry = {"lora": replace(lora, lora_dropout=0.0)}
        yield from change(
            "no adapter dropout",
            "--dropout 0",
            "regularises less",
            dry,
            "activations",
            "temporaries",
        )
    if lora is not None:
        adapted = ("adapters", "gradients", "optimizer_states", "activations", "temporaries")
        if lora.has_rank and lora.r > 1:
            lower = {"lora": replace(lora, r=lora.r // 2)}
            yield from change(
                f"rank {lora.r // 2}",
                f"--rank {lora.r // 2}",
                "an update of lower rank",
                lower,
                *adapted,
            )
        if lora.target_modules == "all-linear":
            fewer = {"lora": replace(lora, target_modules=None)}
            yield from change(
                "adapters on PEFT's default targets",
                "--targets default",
                "adapts fewer layers",
                fewer,
                *adapted,
            )
    if setup.batch_size > 1 and setup.batch_size % 2 == 0:
        half, twice = setup.batch_size // 2, setup.accumulation * 2
        smaller = {"batch_size": half, "accumulation": twice}
        sized = ("inputs", "activations", "logits_and_loss", "temporaries")
        yield from change(
            f"micro-batch {half}",
            f"-b {half} --accumulation {twice}",
            "more, smaller micro-batches a step",
            smaller,
            *sized,
        )
