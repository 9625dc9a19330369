"""GPUs by name: memory, bandwidth and dense peaks from `data/gpus.csv`, each row with its source;
what an hour of one costs; and what the driver holds of it for a process that computes on it."""

import csv
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from io import StringIO
from typing import Any, NamedTuple

from lora_profiler.errors import AmbiguousGpuError, UsageError, nearest
from lora_profiler.facts.catalog.config import data_text
from lora_profiler.question.gpu_platform import SMALL_MEMORY_BYTES, TORCH, Platform, capability_of
from lora_profiler.units import GIB, MIB, is_finite, parse_bytes

_NO_NAME = frozenset({
    "nvidia", "amd", "intel", "apple", "geforce", "radeon", "instinct", "tesla", "rtx", "rx",
    "generation", "edition", "per", "gpu",
})  # fmt: skip
"""Words that do not tell one card from another, so that people leave them out."""
_ANY_SIZE = r"\d+(\.\d+)? ?[gm]i?b"
_FIGURES = (
    "memory_gib_marketed", "memory_bytes_usable", "bandwidth_gb_s", "bf16_dense_tflops",
    "fp16_dense_tflops", "tf32_dense_tflops", "fp8_dense_tflops", "fp32_tflops",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card. Peaks are dense TFLOP/s, bandwidth in GB/s (1e9); None where no source gives a
    figure.

    `memory_bytes_usable` is what the driver reports in total, None where nobody has published it;
    `lost_share` is then the share of the printed memory that cards of the same architecture lose.
    `confidence`: high, medium or low (the source's). `compute_capability` is "9.0" for sm_90, None
    for other vendors' cards and `custom:` ones; source: NVIDIA's list of CUDA GPUs,
    https://developer.nvidia.com/cuda-gpus.

    Examples:
        >>> from lora_profiler import find_gpu
        >>> find_gpu("t4").name
        'NVIDIA T4'
    """

    key: str
    name: str
    aliases: tuple[str, ...] = ()
    vendor: str = "custom"
    architecture: str = "custom"
    compute_capability: str | None = None
    memory_gib_marketed: float | None = None
    memory_bytes_usable: int | None = None
    bandwidth_gb_s: float | None = None
    bf16_dense_tflops: float | None = None
    fp16_dense_tflops: float | None = None
    tf32_dense_tflops: float | None = None
    fp8_dense_tflops: float | None = None
    fp32_tflops: float | None = None
    ecc_note: str = ""
    source: str = ""
    confidence: str = "high"
    lost_share: float = 0.0

    def __post_init__(self) -> None:
        """Raises UsageError for a figure that is none, as of a card made by a program."""
        figures = (self.lost_share, *(getattr(self, name) for name in _FIGURES))
        if not all(figure is None or (is_finite(figure) and figure >= 0) for figure in figures):
            raise UsageError(
                f"GPU {self.key[:60]!r} has a figure that is not a finite number from 0 up."
            )

    @property
    def capability(self) -> int | None:
        """Compute capability times ten."""
        return capability_of(self.compute_capability)

    def platform(self, torch: tuple[int, int] = TORCH) -> Platform:
        """What the memory of a step on it depends on, with that version of torch."""
        return Platform(
            capability=self.capability,
            torch=torch,
            has_small_memory=0 < (self.usable_bytes or 0) <= SMALL_MEMORY_BYTES,
        )

    @property
    def usable_is_estimated(self) -> bool:
        return self.memory_bytes_usable is None

    @property
    def usable_bytes(self) -> int | None:
        """Bytes a program can have: the card's own figure, else an estimate; None where the memory
        itself is not fixed."""
        if self.memory_bytes_usable is not None:
            return self.memory_bytes_usable
        if self.memory_gib_marketed is None:
            return None
        return int(self.memory_gib_marketed * GIB * (1 - self.lost_share))


@cache
def bundled_gpus() -> tuple[Gpu, ...]:
    """Every card of the catalogue, in the order of the data file.

    Examples:
        >>> from lora_profiler.facts.catalog import bundled_gpus
        >>> any(card.key == "h100_sxm_80gb" for card in bundled_gpus())
        True
    """
    rows = list(csv.DictReader(StringIO(data_text("gpus.csv"))))
    return tuple(_gpu(row, rows) for row in rows)


def _gpu(row: dict[str, str], rows: list[dict[str, str]]) -> Gpu:
    """The table's columns are the class's fields."""
    values: dict[str, Any] = {**row, "lost_share": _lost_share(row, rows)}
    values["aliases"] = tuple(filter(None, row["aliases"].split(";")))
    values["compute_capability"] = row["compute_capability"] or None
    for name in _FIGURES:
        read = int if name == "memory_bytes_usable" else float
        values[name] = read(row[name]) if row[name] else None
    return Gpu(**values)


def _lost_share(row: dict[str, str], rows: list[dict[str, str]]) -> float:
    """Median share of the printed GiB that is not usable, over cards of the same architecture with
    both figures known.

    Cards with the same kind of memory protection come first, since ECC is most of the difference;
    without any, the vendor's.
    """
    for same in (("architecture", "ecc_note"), ("architecture",), ("vendor",)):
        shares = [
            1 - int(other["memory_bytes_usable"]) / (float(other["memory_gib_marketed"]) * GIB)
            for other in rows
            if other["memory_bytes_usable"]
            and other["memory_gib_marketed"]
            and all(other[k] == row[k] for k in same)
        ]
        if shares:
            return sorted(shares)[len(shares) // 2]
    return 0.0


def shared_with_vllm(gpu: Gpu, share: float) -> Gpu:
    """What vLLM leaves of `gpu` where it was told to take `share` of its whole memory, weights and
    cache and all (`gpu_memory_utilization`). Raises UsageError for a card sold with several memory
    sizes.

    Examples:
        >>> shared_with_vllm(find_gpu("custom:24GiB"), 0.25).usable_bytes
        19327352832
    """
    if not share:
        return gpu
    if gpu.usable_bytes is None:
        raise UsageError(f"{gpu.key} is sold with several memory sizes; name one: `--gpu 24GiB`")
    left = gpu.usable_bytes - round(gpu.usable_bytes * share)
    return replace(gpu, name=f"{gpu.name} less {share:.0%} for vLLM", memory_bytes_usable=left)


def find_gpu(name: str) -> Gpu:
    """The card called `name`: a key (`rtx_4090`), a full name, a short form, where people get one
    for nothing (`colab`, `kaggle`), or `custom:24GiB`.

    Of a short form that fits several the SXM one is taken. Raises UsageError for an unknown card,
    with the nearest, and AmbiguousGpuError for a short form that fits several with none or more
    than one of them.

    Examples:
        >>> from lora_profiler import find_gpu
        >>> card = find_gpu("rtx_4090")
        >>> card.usable_bytes, card.capability
        (25232932864, 89)
    """
    wanted = name.strip()
    if not wanted:
        raise UsageError(
            "the GPU's name is empty; list all: `lora-profile gpus`. Any size: `--gpu 24GiB`"
        )
    if wanted.lower().startswith("custom") or re.fullmatch(_ANY_SIZE, wanted.lower()):
        return _custom(wanted)
    if wanted.lower() == "cpu":
        raise UsageError("a CPU is no GPU; write `--device cpu` in place of `--gpu cpu`.")
    if wanted.lower() == "auto":
        return find_gpu(_installed())
    cards = bundled_gpus()
    words = _words(wanted)
    same = [card for card in cards if _squeeze(wanted) in {_squeeze(n) for n in _names(card)}]
    equal = same or [card for card in cards if words and words in [_words(n) for n in _names(card)]]
    fitting = equal or [card for card in cards if words and set(words) <= _all_words(card)]
    if len(fitting) > 1:  # the one that comes in eights, where there is just one
        fitting = [card for card in fitting if "_sxm_" in card.key] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        sizes = {card.key: f"{card.memory_gib_marketed:g} GB" for card in fitting}
        raise AmbiguousGpuError("GPU", name, sizes)
    raise UsageError(
        f"unknown GPU {name}.{_nearest(wanted)} List all: `lora-profile gpus`."
        " Any size: `--gpu 24GiB`"
    )


def as_gpu(gpu: Gpu | str) -> Gpu:
    """The GPU itself, or the one called so. Raises UsageError."""
    return find_gpu(gpu) if isinstance(gpu, str) else gpu


def _nearest(wanted: str) -> str:
    """' Did you mean ...?': the GPUs with a spelling close to `wanted`, each once."""
    if size := re.fullmatch(r"(\d+) ?g?", wanted.lower()):
        return f" Did you mean `--gpu {size[1]}GiB`?"
    if re.fullmatch(r"\d+ ?[x×].+", wanted.lower()):
        return " That is several GPUs: name one, with world_size and sharding in the setup."
    keys = {
        spelling.lower(): card.key
        for card in bundled_gpus()
        for spelling in (card.key, _squeeze(card.key), *card.aliases)
    }
    close = dict.fromkeys(keys[spelling] for spelling in nearest(_squeeze(wanted), keys, 9))
    return f" Did you mean {', '.join(list(close)[:3])}?" if close else ""


@lru_cache(maxsize=2048)
def _squeeze(name: str) -> str:
    """Letters and digits only, lower case: "RTX 4090", "rtx_4090" and "rtx4090" are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _names(card: Gpu) -> tuple[str, ...]:
    return (card.key, card.name, *card.aliases)


def _words(name: str) -> list[str]:
    """Words that tell cards apart, "rtx4060ti" as two and "80 GB" as one."""
    text = re.sub(r"(\d+)\s*gi?b\b", r"\1gb", name.lower().replace("_", " "))
    text = re.sub(r"\b(rtx|rx)(?=\d)", r"\1 ", text)
    text = re.sub(r"(?<=\d{4})(?=ti|super|xtx)", " ", text)
    return [word for word in re.split(r"[^a-z0-9]+", text) if word and word not in _NO_NAME]


def _all_words(card: Gpu) -> set[str]:
    words = {word for name in _names(card) for word in _words(name)}
    return words | {word[:-1] for word in words if re.fullmatch(r"(sxm|hbm)\d", word)}


def _custom(name: str) -> Gpu:
    """24GiB are usable bytes; 24GB is what a GPU is sold as, of which NVIDIA's lose a share."""
    sold = re.fullmatch(r"(?:custom:)? *(\d+(?:\.\d+)?) ?gb", name.lower())
    if sold and MIB <= float(sold[1]) * GIB < 1 << 60:
        return Gpu(
            key=name,
            name=f"{float(sold[1]):g} GB GPU",
            memory_gib_marketed=float(sold[1]),
            source="given by the user",
            lost_share=_lost_share_of_nvidia(),
        )
    try:
        memory = parse_bytes(name.rpartition(":")[2])
    except UsageError:
        memory = 0
    if not MIB <= memory < 1 << 60:
        raise UsageError(f"{name!r} is not a memory size; write 24GiB, 24GB or 24576MiB.")
    return Gpu(
        key=name,
        name=name,
        memory_gib_marketed=memory / GIB,
        memory_bytes_usable=memory,
        source="given by the user",
    )


@cache
def _lost_share_of_nvidia() -> float:
    """The median over its GPUs."""
    shares = [gpu.lost_share for gpu in bundled_gpus() if gpu.vendor == "nvidia"]
    return sorted(shares)[len(shares) // 2]


def _installed() -> str:
    """Name of the first NVIDIA card in this machine, as its driver gives it."""
    try:
        import pynvml
    except ImportError:
        raise UsageError(
            "--gpu auto needs pynvml; run `pip install nvidia-ml-py`, or name the GPU."
        ) from None
    try:
        pynvml.nvmlInit()
        try:
            name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as e:
        raise UsageError(
            f"--gpu auto found no NVIDIA GPU ({e}); name it. Any size: `--gpu 24GiB`"
        ) from None
    return name.decode() if isinstance(name, bytes) else str(name)


# --- from a driver's name -------------------------------------------------------------------------


_SILENT = frozenset({"nvidia", "amd", "geforce", "tesla", "instinct", "radeon", "gpu"})
"""Words that drivers write or leave out for the same card."""

LEAST_USABLE, MOST_USABLE = 0.88, 1.03
"""Share of the printed GiB that a device reports: ECC costs up to 9 % (T4, A10), some cards hold a
little more than printed."""


def match_device(name: str, total_bytes: int | None = None) -> Gpu | None:
    """The card that torch or NVML calls `name`, None for any doubt: a guessed card would give a
    guessed utilisation.

    The words of the name must be those of one spelling in the catalogue, in any order and without
    case, so that an L40S is neither an L40 nor an L4, and a laptop's chip, a Max-Q or NVL variant,
    a MIG slice or a share of a card is no card at all. `total_bytes` is what the device reports: it
    tells apart cards that share a name, and refuses a card whose memory it cannot be. Without it a
    name that fits several cards fits none.
    """
    words = _driver_words(name)
    fitting = [
        gpu
        for gpu in bundled_gpus()
        if words and words in [_driver_words(spelling) for spelling in (gpu.name, *gpu.aliases)]
    ]
    if total_bytes is not None:
        fitting = [gpu for gpu in fitting if _may_hold(gpu, total_bytes)]
    return fitting[0] if len(fitting) == 1 else None


def _driver_words(name: str) -> list[str]:
    return sorted(
        word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _SILENT
    )


def _may_hold(gpu: Gpu, total_bytes: int) -> bool:
    if gpu.memory_gib_marketed is None:
        return True
    return LEAST_USABLE <= total_bytes / (gpu.memory_gib_marketed * GIB) <= MOST_USABLE


# --- what an hour of a card costs: the user's price, or a small dated table -----------------------


_PRICE = re.compile(r"\s*(?P<amount>[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*/\s*(?:h|hr|hour)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """An hour of one card. `date` is the day on which `provider` asked for it at `source`, as
    `read_from` recorded; all empty for a price of the user's.

    Raises UsageError for an amount that is none.

    Examples:
        >>> from lora_profiler.facts.catalog.gpus import Price
        >>> Price(per_hour=0.74).currency
        ''
    """

    per_hour: float
    currency: str = ""
    date: str = ""
    provider: str = ""
    source: str = ""
    read_from: str = ""

    def __post_init__(self) -> None:
        if not is_finite(self.per_hour) or self.per_hour < 0:
            raise UsageError("a price is a finite number from 0 up, for an hour of one GPU.")


@cache
def table_prices() -> dict[str, Price]:
    """By a card's key, of the cards whose price a source gives with its date, in US dollars."""
    rows = csv.DictReader(StringIO(data_text("prices.csv")))
    named = ("date", "provider", "source", "read_from")
    return {
        row["key"]: Price(
            per_hour=float(row["usd_per_hour"]), currency="USD", **{n: row[n] for n in named}
        )
        for row in rows
    }


def read_price(text: str) -> tuple[str, Price]:
    """The name of a card and its price, of 'rtx_4090=0.74/h'.

    Raises UsageError for another text, and for a price that does not say of how long.

    Examples:
        >>> from lora_profiler.facts.catalog.gpus import read_price
        >>> name, price = read_price("rtx_4090=0.74/h")
        >>> name, price.per_hour
        ('rtx_4090', 0.74)
    """
    name, equals, amount = text.partition("=")
    match = _PRICE.fullmatch(amount)
    if not equals or not name.strip() or match is None:
        raise UsageError(
            f"--price is {text[:60]!r}; write a GPU and its price per hour: rtx_4090=0.74/h"
        )
    return name.strip(), Price(per_hour=float(match["amount"]))


# --- contexts -------------------------------------------------------------------------------------


class Context(NamedTuple):
    """Bytes; what is published of cards of this class lies between the two."""

    least_bytes: int
    most_bytes: int


class PublishedContext(NamedTuple):
    """One row of the table. `what`: "context" or "process"."""

    key: str
    mebibytes: int
    what: str
    source: str
    confidence: str


@cache
def context_of(key: str) -> Context:
    """Of the card `key`: as many multiprocessors as it has, at what the published cards of its
    compute capability take for one. Where none is published, of all; where the card's
    multiprocessors are not known, as of another vendor's or `custom:24GiB`, the fewest and the
    most bytes that are published of any card.

    Examples:
        >>> from lora_profiler.facts.catalog.gpus import context_of
        >>> context_of("t4").most_bytes < context_of("h100_sxm_80gb").least_bytes
        True
    """
    counts = multiprocessors()
    if key not in counts:
        sizes = [row.mebibytes * MIB for row in published_contexts()]
        return Context(min(sizes), max(sizes))
    capability = _capabilities().get(key)
    own = [r for r in published_contexts() if _capabilities()[r.key] == capability]
    rows = own or published_contexts()
    shares = [row.mebibytes * MIB / counts[row.key] for row in rows]
    return Context(round(counts[key] * min(shares)), round(counts[key] * max(shares)))


@cache
def published_contexts() -> tuple[PublishedContext, ...]:
    rows: Any = csv.DictReader(StringIO(data_text("contexts.csv")))
    return tuple(PublishedContext(**{**r, "mebibytes": int(r["mebibytes"])}) for r in rows)


@cache
def multiprocessors() -> dict[str, int]:
    """Key -> multiprocessors."""
    return {key: count for key, (count, _) in processor_table().items()}


@cache
def most_multiprocessors(capability: int) -> int:
    """Of the cards of a compute capability times ten; of all where none has it."""
    counts = multiprocessors()
    own = [n for key, n in counts.items() if _capabilities()[key] == capability]
    return max(own or counts.values())


@cache
def processor_table() -> dict[str, tuple[int, int]]:
    """Key -> multiprocessors and MiB of L2 cache, of NVIDIA's cards, from its specifications; only
    scratch memory of a few kernels goes by the cache."""
    return {
        row["key"]: (int(row["multiprocessors"]), int(row["l2_mib"]))
        for row in csv.DictReader(StringIO(data_text("multiprocessors.csv")))
    }


@cache
def _capabilities() -> dict[str, int | None]:
    return {gpu.key: gpu.capability for gpu in bundled_gpus()}
