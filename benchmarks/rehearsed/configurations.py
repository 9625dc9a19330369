"""Which configurations `rehearsed.rules` rehearses: seeded draws, the same on every machine.

The first part draws the usual options over the smallest and the largest model of each family of
the rules; the second what the first leaves out; the third is no draw: every optimizer of
bitsandbytes and Muon; the rest draws float16 autocast, and names some with shards.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from benchmarks.questions import drawn_models
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.analytic.families import FAMILIES
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.optimizer import all_optimizers
from lora_profiler.question.support.check import check_model
from lora_profiler.question.support.sdpa import check_platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

SEED, FIRST, SECOND, SCALED = 2026, 140, 200, 16
CARDS = ("t4", "a100_sxm_80gb", "a10", "rtx_4090", "h100_sxm_80gb", "b200_180gb", "rtx_5090")
MOST_PARAMETERS, MOST_LARGE = 9_000_000_000, 73_000_000_000
_NO_TEXT = ("vit",)


class Configuration(NamedTuple):
    model: str
    setup: TrainSetup
    card: str
    expandable: bool = False


def configurations() -> Iterator[Configuration]:
    """Without packed rows, which no rehearsal can tell: transformers asks the card whether rows are
    packed, and a card that computes nothing says no."""
    for configuration in chain(
        _first(), _second(), _third(), _scaled(), _fourth(), _scaled_shards()
    ):
        if not configuration.setup.is_packed:
            yield configuration


def _smallest_and_largest(takes: Callable[[Any], bool]) -> list[str]:
    by_type: dict[str, list[Any]] = {}
    for model in drawn_models():
        if takes(model):
            by_type.setdefault(model.model_type, []).append(model)
    names = []
    for group in by_type.values():
        group.sort(key=lambda model: (model.num_parameters, model.id))
        names += [model.id for model in dict.fromkeys((group[0], group[-1]))]
    return names


def _first() -> Iterator[Configuration]:
    draw = random.Random(SEED)
    names = _smallest_and_largest(
        lambda m: m.model_type in FAMILIES and m.num_parameters <= MOST_PARAMETERS
    )
    for number in range(FIRST):
        setup = _usual(draw)
        yield Configuration(names[number % len(names)], setup, draw.choice(CARDS))


def _usual(draw: random.Random) -> TrainSetup:
    method = draw.choice(("full", "lora", "lora", "qlora"))
    lora = LoraConfig(r=draw.choice((8, 16, 64)), lora_dropout=draw.choice((0.0, 0.0, 0.1)))
    quantization = Quantization(
        double_quant=draw.random() < 0.7, recipe=draw.choice(("stock", "kbit", "trl"))
    )
    precision = draw.choice(("pure", "pure", "amp"))
    return TrainSetup(
        lora=None if method == "full" else lora,
        quantization=quantization if method == "qlora" else None,
        batch_size=draw.choice((1, 2, 4)),
        seq_len=draw.choice((128, 256, 512, 1024)),
        accumulation=draw.choice((1, 1, 1, 2)),
        dtype=draw.choice(("bfloat16", "bfloat16", "float16", "float32")),
        precision=precision,
        optimizer_impl=draw.choice(("foreach", "foreach", "fused", "forloop")),
        checkpointing=draw.random() < 0.5,
        attention=draw.choice(("auto", "auto", "auto", "eager")),
    )


def _second() -> Iterator[Configuration]:
    """In turn: options that the first part has not, on families of the rules; other types of
    model; more than 9 billion parameters; several ranks. Every third with expandable segments."""
    draw = random.Random(SEED + 1)
    families = _smallest_and_largest(
        lambda m: m.model_type in FAMILIES and m.num_parameters <= MOST_PARAMETERS
    )
    others = _smallest_and_largest(
        lambda m: (
            m.model_type not in FAMILIES
            and m.model_type not in _NO_TEXT
            and m.num_parameters <= MOST_LARGE // 2
        )
    )
    large = [
        model.id
        for model in drawn_models()
        if model.model_type in FAMILIES and MOST_PARAMETERS < model.num_parameters <= MOST_LARGE
    ]
    turns = (
        (families, _rarer),
        (others, _usual),
        (families, _rarer),
        (large, _usual),
        (others, _usual),
        (families, _shared),
    )
    for number in range(SECOND):
        names, options = turns[number % len(turns)]
        while True:
            model, card = draw.choice(names), draw.choice(CARDS)
            try:
                setup = options(draw)
                if options is _usual:
                    setup = replace(setup, batch_size=min(setup.batch_size, 2))
                workload = Workload(
                    model=find_model(model, offline=True),
                    setup=setup,
                    platform=Platform(capability=find_gpu(card).capability),
                )
                check_model(workload)
                check_platform(workload)
            except LoraProfilerError:
                continue
            break
        yield Configuration(model, setup, card, expandable=number % 3 == 2)


def _third() -> Iterator[Configuration]:
    """Each optimizer on a model whose largest tensors are paged, in full and with adapters of which
    some are."""
    for optimizer, facts in all_optimizers().items():
        if facts.package is not None and facts.package.package == "bitsandbytes":
            setup = TrainSetup(optimizer=optimizer, seq_len=128)
            yield Configuration("HuggingFaceTB/SmolLM2-135M", setup, "a10")
            yield Configuration("openai-community/gpt2", _adapted(setup, r=32), "a100_sxm_80gb")
    muon = replace(_adapted(TrainSetup(seq_len=128), r=64), optimizer="muon")
    yield Configuration("HuggingFaceTB/SmolLM2-135M", muon, "a10")


def _scaled() -> Iterator[Configuration]:
    """Float16 autocast and its scaled loss, which needs gradients in float32; every other on the
    card that has no bfloat16."""
    draw = random.Random(SEED + 2)
    names = _smallest_and_largest(
        lambda m: m.model_type in FAMILIES and m.num_parameters <= MOST_PARAMETERS // 4
    )
    draw.shuffle(names)
    for number in range(SCALED):
        usual = _usual(draw)
        base = usual.quantization and replace(usual.quantization, recipe="stock")
        setup = replace(
            usual,
            quantization=base,
            precision="amp-float16",
            dtype="float32" if usual.lora is None else usual.dtype,
        )
        card = CARDS[0] if number % 2 else draw.choice(CARDS)
        yield Configuration(names[number % len(names)], setup, card)
    for impl in ("foreach", "fused"):  # where the optimizer step holds the peak
        setup = TrainSetup(
            seq_len=128, dtype="float32", precision="amp-float16", optimizer_impl=impl
        )
        yield Configuration("openai-community/gpt2", setup, CARDS[0])


def _scaled_shards() -> Iterator[Configuration]:
    """The same over two ranks of FSDP2."""
    for model in ("Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M"):
        full = TrainSetup(
            seq_len=512, dtype="float32", precision="amp-float16", sharding="fsdp", world_size=2
        )
        narrow = replace(full, dtype="float16", lora=LoraConfig(), checkpointing=True)
        yield Configuration(model, full, CARDS[0])
        yield Configuration(model, replace(narrow, optimizer_impl="fused"), CARDS[0])
        yield Configuration(model, replace(narrow, sharding="fsdp-no-reshard"), CARDS[0])


def _adapted(setup: TrainSetup, r: int) -> TrainSetup:
    return replace(setup, lora=LoraConfig(r=r))


def _rarer(draw: random.Random) -> TrainSetup:
    """What half of the draws refuse is drawn anew."""
    usual = _usual(draw)
    lora = usual.lora and replace(
        usual.lora,
        adapter_dtype=draw.choice(("float32", "bfloat16")),
        target_modules=draw.choice(("all-linear", None)),
        modules_to_save=draw.choice(((), (), ("lm_head",))),
    )
    optimizer = draw.choice(("adamw", "adamw_8bit", "sgd", "adafactor"))
    packed = draw.choice((None, None, None, usual.seq_len // 4))
    return replace(
        usual,
        lora=lora,
        optimizer=optimizer,
        optimizer_impl="foreach" if optimizer != "adamw" else usual.optimizer_impl,
        loss=draw.choice(("plain", "plain", "chunked", "fused")),
        packed=packed,
        attention=draw.choice(("auto", "auto", "eager", "flash", "efficient", "cudnn", "math")),
    )


def _shared(draw: random.Random) -> TrainSetup:
    usual = _usual(draw)
    sharding = draw.choice(("ddp", "zero1", "fsdp", "fsdp-no-reshard"))
    return replace(usual, world_size=draw.choice((2, 2, 2, 8)), sharding=sharding)


def _fourth() -> Iterator[Configuration]:
    """RMSprop, on each side of where the optimizer step holds the peak; packed experts in 4 bit."""
    for impl in ("foreach", "forloop"):
        setup = TrainSetup(optimizer="rmsprop", optimizer_impl=impl, seq_len=128)
        yield Configuration("HuggingFaceTB/SmolLM2-135M", setup, "a10")
        yield Configuration("openai-community/gpt2", _adapted(setup, r=32), "a100_sxm_80gb")
    packed = TrainSetup(
        lora=LoraConfig(target_modules=".*self_attn.*_proj"),
        quantization=Quantization(quantize_experts=True),
        checkpointing=True,
    )
    yield Configuration("Qwen/Qwen3-30B-A3B", packed, "h100_sxm_80gb")
    yield Configuration("mistralai/Mixtral-8x7B-v0.1", packed, "b200_180gb")
