"""Predict without a server: an HTML page, opened from disk, offline. The first model is in it, each
other one in a file of its own in `predict-models`, loaded when it is chosen.

`python -m space.page FILE` writes both, of every bundled model, which takes some hours;
`mkdocs build` makes `predict.html` anew, of the most wanted models.
Peaks are the polynomials of the rules, laws and estimates with exact integers, in the browser.
What a card keeps free is what the allocator needs, simulated there over the same requests as in
`planning.simulated`; the bound on fragmentation where there is no tape, as there is none for cards
without bfloat16.
"""

import base64
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # mkdocs runs its hook by the path

from lora_profiler import Workload, __version__, find_model
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import Gpu, bundled_gpus, bundled_models
from lora_profiler.facts.stacks import BARE, GUIDE, as_guided, find_stack, guided_trainers, spelled
from lora_profiler.memory.compiled.regime import (
    KernelChoice,
    kernel_choice,
    pads_masks,
    walks_over_tokens,
    windows_of,
)
from lora_profiler.memory.compiled.requests import FLASH_ROWS, room_of
from lora_profiler.planning.engine import (
    answers_without_trace,
    as_known,
    doubt_share,
    engine_for_all,
)
from lora_profiler.planning.fit import BATCHES, LENGTHS, NEAR, RANKS, lengths
from lora_profiler.planning.reserve import (
    FRAGMENTATION_BYTES,
    FRAGMENTATION_PERCENT,
    PART,
    SURE,
    reserve_for,
)
from lora_profiler.planning.setups import DEFAULTS, workloads, written_options
from lora_profiler.question.gpu_platform import BFLOAT16_CAPABILITY, Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import flag
from lora_profiler.question.support.check import check
from lora_profiler.question.support.library_memory import workspace_bytes
from lora_profiler.question.support.sdpa import MASK_ALIGNMENT
from lora_profiler.question.workload import Method
from lora_profiler.report.answer.verdicts import gpu_name
from space.peaks import (
    ALL_RANKS,
    ENGINE,
    OTHER_RANKS,
    RANK,
    Law,
    NotOnPageError,
    Tables,
    held,
    of_model,
    resized,
)
from space.tapes import Tapes
from space.times import OFF, TOKENS, times_of

WANTED = (
    "meta-llama/Llama-3.1-8B",
    "HuggingFaceTB/SmolLM2-1.7B",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-2-7b-hf",
    "mistralai/Mistral-7B-v0.3",
    "mistralai/Mistral-Small-24B-Base-2501",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen2.5-14B",
    "Qwen/Qwen2.5-32B",
    "Qwen/Qwen2.5-72B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-14B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-2-2b",
    "google/gemma-3-1b-it",
    "microsoft/Phi-4-mini-instruct",
    "microsoft/phi-4",
    "allenai/OLMo-2-1124-7B",
    "openai-community/gpt2",
)
MODELS = WANTED[: int(os.environ.get("LORA_PROFILER_PAGE_MODELS") or len(WANTED))]
"""LORA_PROFILER_PAGE_MODELS=2 makes a page of two in seconds, to check that the pages build."""
FOLDER = "predict-models"
FEW = 9
"""Fewer models are made in one process."""
FIRST = "rtx_4090"
METHODS: tuple[Method, ...] = get_args(Method)
TRAINERS = (GUIDE, BARE, *guided_trainers())
LEAST_LENGTH = 64
"""In tokens: from there on the polynomials hold that are kept."""
HERE = Path(__file__).parent / "static"


def files(name: str, models: Sequence[str]) -> dict[str, str]:
    """The page called `name`, and the file of each model but the first; the same whenever they are
    made. Raises UsageError for no model."""
    if not models:
        raise UsageError("the page needs at least one model.")
    if len(models) < FEW:
        first, *others = map(packed_model, models)
    else:
        with ProcessPoolExecutor() as processes:
            first, *others = processes.map(packed_model, models)
    made = {name: page(models, first)}
    for model, text in zip(models[1:], others, strict=True):
        made[f"{FOLDER}/{file_of(model)}"] = f"received({json.dumps(text)});\n"
    return made


def write(place: Path, models: Sequence[str]) -> None:
    """The page at `place`, and the files of its models in `FOLDER` there."""
    (place.parent / FOLDER).mkdir(exist_ok=True)
    for name, content in files(place.name, models).items():
        (place.parent / name).write_text(content, "utf-8")


def file_of(model: str) -> str:
    return f"{model.replace('/', '--')}.js"


def page(models: Sequence[str], first: str) -> str:
    """`first`: of the first of `models`, as `packed_model` has it."""
    from jinja2 import Environment, FileSystemLoader

    from lora_profiler.report.page.write import colour_variables

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True)
    return environment.get_template("page.html.j2").render(
        light=colour_variables("light"),
        dark=colour_variables("dark"),
        style=(HERE / "page.css").read_text("utf-8"),
        script="".join((HERE / name).read_text("utf-8") for name in SCRIPTS),
        files=json.dumps({model: f"{FOLDER}/{file_of(model)}" for model in models}),
        first=first,
        models=len(models),
        off=round(100 * OFF),
        catalogue=len(bundled_models()),
        version=__version__,
    )


def all_models() -> list[str]:
    """Every bundled model that some trainer trains: the wanted first, then by name."""
    names = sorted(entry.id for entry in bundled_models() if _is_trained(entry.id))
    return [*WANTED, *(name for name in names if name not in WANTED)]


def _is_trained(name: str) -> bool:
    try:
        way(find_model(name, offline=True), GUIDE, "lora", Platform())
    except UsageError:
        return False
    return True


def _starts(spec: ModelSpec) -> list[int]:
    """Lengths from which on other rules hold. A law of layers that walk over tokens is of one
    length."""
    starts = {LEAST_LENGTH, *(window for window in windows_of(spec) if window > LEAST_LENGTH)}
    if walks_over_tokens(spec):
        for length in lengths(LENGTHS[0], spec.trained_length):
            asked = way(spec, BARE, "lora", Platform(), seq_len=length)
            if _answerer(asked) == "compiled":
                starts |= {length, length + 1}
    return sorted(starts)


SCRIPTS = ("allocator.js", "laws.js", "page.js")


@cache
def packed_model(model: str) -> str:
    """JSON, deflated, as base64."""
    text = json.dumps(data(model), separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def data(model: str) -> dict[str, Any]:
    """What the script evaluates of one model. `tables` are as `matrix` has them. A model's `ways`
    are by trainer, method and kernels of a GPU, `usual` without one: a place among all `ways`, or ~
    one of `refusals`; its `length` is that of a question that gives none. A way has `leaves`
    without and with checkpointing: ~ one of `refusals`, or tables, tapes, the share by which the
    peak may be off and one of `helds`, [bytes, bytes a rank], by batch (one, or more), by the span
    of lengths that begins at one of `starts`, and by whether the length is a multiple of
    `alignment`, then of `rank` alone where its own differ; and likewise one of `times` each, or
    null: see `times_of`. `stops`, and `lengths` of a model, are those of sliders."""
    spec = find_model(model, offline=True)
    alike: dict[Kernels, tuple[Platform, list[Gpu]]] = {}
    shown = [_card(gpu, spec, alike) for gpu in cards()]
    usual, _ = alike.setdefault(_kernels(spec, Platform()), (Platform(), []))
    platforms = [platform for platform, _ in alike.values()]
    known = Known(platforms, [gpus for _, gpus in alike.values()])
    described = known.model(spec)
    return {
        "first": FIRST,
        "least_length": LEAST_LENGTH,
        "alignment": MASK_ALIGNMENT,
        "near": NEAR,
        "stops": {"batch": BATCHES, "rank": RANKS},
        "fragmentation": [FRAGMENTATION_PERCENT, FRAGMENTATION_BYTES],
        "simulated": {"sure": SURE, "part": PART, "rows": FLASH_ROWS},
        "usual": platforms.index(usual),
        "cards": shown,
        "trainers": [_trainer(name) for name in TRAINERS],
        "model": described,
        "ways": known.document("way"),
        "leaves": known.document("leaf"),
        "places": known.document("places"),
        "helds": known.document("held"),
        "refusals": known.document("refusal"),
        "rank": RANK,
        "tokens": TOKENS,
        "times": known.document("times"),
        "tables": known.tables.document,
        "tapes": known.tapes.document,
    }


def cards() -> Iterator[Gpu]:
    """NVIDIA's GPUs of one memory size, from the smallest on, of one size those of which a program
    has the most first."""
    found = [
        gpu
        for gpu in bundled_gpus()
        if gpu.vendor == "nvidia" and gpu.usable_bytes is not None and gpu.capability is not None
    ]
    yield from sorted(found, key=lambda gpu: (gpu.memory_gib_marketed, -(gpu.usable_bytes or 0)))


def way(
    spec: ModelSpec, trainer: str, method: Method, platform: Platform, **given: Any
) -> Workload:
    """The question by a trainer as its guides pass it. Raises UsageError."""
    stack = as_guided(find_stack(trainer))
    stack.check_model(spec)
    options = {**DEFAULTS, **given, "methods": (method,)}
    written, names = spelled(stack, options, {"methods", *given})
    (workload,) = workloads(spec, written, names, platform, stack)
    check(workload, ENGINE)
    return workload


Kernels = tuple[tuple[KernelChoice, str], ...]
"""Of attention, and the dtype, for each method."""


def _kernels(spec: ModelSpec, platform: Platform) -> Kernels:
    ways = (way(spec, GUIDE, method, platform) for method in METHODS)
    return tuple((kernel_choice(asked, platform), asked.setup.dtype) for asked in ways)


def _card(
    gpu: Gpu, spec: ModelSpec, alike: dict[Kernels, tuple[Platform, list[Gpu]]]
) -> dict[str, Any]:
    """`alike`: a platform for each choice of attention kernels met so far, and the GPUs with it, of
    which this one has `place`."""
    platform, reserve = gpu.platform(), reserve_for(gpu, 0)
    chosen = _kernels(spec, platform)
    _, of_kernels = alike.setdefault(chosen, (platform, []))
    of_kernels.append(gpu)
    return {
        "key": gpu.key,
        "name": gpu_name(gpu),
        "memory": gpu.memory_gib_marketed,
        "kernels": list(alike).index(chosen),
        "place": len(of_kernels) - 1,
        "bfloat16": platform.has_bfloat16,
        "small": platform.has_small_memory,
        "platform": f"{platform.capability_text} {platform.has_small_memory}",
        "usable": gpu.usable_bytes,
        "contexts": [reserve.least_context_bytes, reserve.context_bytes],
        "workspaces": reserve.workspace_bytes,
        "workspace": workspace_bytes(platform),
        "room": room_of(platform),
    }


def _trainer(name: str) -> dict[str, Any]:
    """`words`: what the command takes for it, by whether the GPU has bfloat16, and by method."""
    label = LABELS.get(name) or find_stack(name).library
    words = [[_words(name, method, has) for method in METHODS] for has in (False, True)]
    return {"name": name, "label": label, "words": words, "listed": name in guided_trainers()}


LABELS = {
    GUIDE: "the loop of PEFT's and TRL's guides",
    BARE: "a plain PyTorch loop",
    "loop": "your own loop",
}


def _words(trainer: str, method: Method, has_bfloat16: bool) -> str:
    """Options beside `--trainer` that make of its defaults what its guides pass. Sizes and
    checkpointing are left to the question."""
    if trainer in (GUIDE, BARE):
        return ""
    platform = Platform(capability=None if has_bfloat16 else BFLOAT16_CAPABILITY - 5)
    stack, given = find_stack(trainer), dict[str, Any]()
    spec = find_model(WANTED[0], offline=True)
    guided = written_options(way(spec, trainer, method, platform).setup)
    while True:
        options = {**DEFAULTS, **given, "methods": (method,)}
        (named,) = workloads(spec, options, {"methods", *given}, platform, stack)
        own = written_options(named.setup)
        more = {n: v for n, v in guided.items() if own[n] != v and n not in (*given, *LEFT)}
        if not more:
            return " ".join(_word(name, value) for name, value in given.items())
        given |= more


LEFT = ("batch_size", "seq_len", "rank", "checkpointing", "alpha")  # the last costs nothing


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {value}"


class Known:
    """Everything of a model, whose ways share what is equal."""

    def __init__(self, platforms: Sequence[Platform], gpus: Sequence[Sequence[Gpu]]) -> None:
        """`gpus`: those of each of `platforms`."""
        self.tables, self.tapes = Tables(), Tapes()
        self._alike = list(zip(platforms, gpus, strict=True))
        self._places: dict[str, dict[str, int]] = {}
        self._leaves: dict[Any, int] = {}
        self._times: dict[Any, int | None] = {}

    def document(self, kind: str) -> list[Any]:
        return list(map(json.loads, self._places.get(kind, ())))

    def _put(self, kind: str, what: Any) -> int:
        known = self._places.setdefault(kind, {})
        return known.setdefault(json.dumps(what), len(known))

    def model(self, spec: ModelSpec) -> dict[str, Any]:
        starts = _starts(spec)
        ways = [
            [[self._way(spec, t, m, p, gpus, starts) for p, gpus in self._alike] for m in METHODS]
            for t in TRAINERS
        ]
        return {
            "id": spec.id,
            "length": way(spec, GUIDE, "lora", Platform()).setup.seq_len,
            "starts": starts,
            "lengths": lengths(LENGTHS[0], spec.trained_length),
            **of_model(way(spec, GUIDE, "lora", Platform())),
            "ways": ways,
        }

    def _way(
        self,
        spec: ModelSpec,
        trainer: str,
        method: Method,
        platform: Platform,
        gpus: Sequence[Gpu],
        starts: list[int],
    ) -> int:
        try:
            usual = way(spec, trainer, method, platform)
        except UsageError as e:
            return ~self._put("refusal", str(e))
        leaves, times = list[int](), list[int | None]()
        for on in (False, True):
            try:
                asked = way(spec, trainer, method, platform, checkpointing=on)
                leaves.append(self._leaf(asked, starts))
            except (UsageError, NotOnPageError) as e:
                leaves.append(~self._put("refusal", str(e)))
                times.append(None)
                continue
            assert on != usual.setup.checkpointing or asked.setup == usual.setup
            times.append(self._time(asked, gpus))
        return self._put(
            "way",
            {
                "law": Law(usual).written,
                "on": int(usual.setup.checkpointing),
                "bfloat16": int(usual.setup.needs_bfloat16),
                "leaves": leaves,
                "times": times,
            },
        )

    def _time(self, asked: Workload, gpus: Sequence[Gpu]) -> int | None:
        key = asked.setup, gpus[0].key if gpus else None
        if key not in self._times:
            seconds = times_of(asked, gpus)
            self._times[key] = None if seconds is None else self._put("times", seconds)
        return self._times[key]

    def _leaf(self, asked: Workload, starts: list[int]) -> int:
        """Of GPUs whose kernels are the same for this model it is the same."""
        key = asked.model.id, asked.setup, kernel_choice(asked, asked.platform)
        if key not in self._leaves:
            self._leaves[key] = self._put("leaf", self._laid_out(asked, starts))
        return self._leaves[key]

    def _laid_out(self, asked: Workload, starts: list[int]) -> list[Any]:
        """Of all ranks alike; where a law of one rank alone answers, of the others and then of
        that."""
        if not _has_law_of_rank(asked, starts):
            return self._of_ranks(asked, starts, ALL_RANKS)
        others = self._of_ranks(resized(asked, rank=OTHER_RANKS[0]), starts, OTHER_RANKS)
        own = self._of_ranks(asked, starts, (RANK,))
        return [[*ours, *more] for ours, more in zip(others, own, strict=True)]

    def _of_ranks(
        self, asked: Workload, starts: list[int], ranks: Sequence[int]
    ) -> list[list[Any]]:
        tables, tapes, doubts, helds = list[Any](), list[Any](), list[float](), list[int]()
        held_by: dict[str, int] = {}
        for batch in (1, 2):
            for start, end in zip(starts, [*starts[1:], None], strict=True):
                places = tape = None
                aligned = -(-start // MASK_ALIGNMENT) * MASK_ALIGNMENT
                other = start if start < aligned else start + 1
                for length in (other, aligned):
                    sized = resized(asked, batch, min(length, (end or length + 1) - 1))
                    if not answers_without_trace(as_known(sized, ENGINE)):
                        raise NotOnPageError
                    if places is None or pads_masks(sized):
                        of_sizes = self.tables.places(sized, start, end, ranks)
                        places = self._put("places", of_sizes)
                        tape = self.tapes.place(sized)
                    tables.append(places)
                    tapes.append(tape)
                    doubts.append(doubt_share(sized, ENGINE))
                    answerer = _answerer(sized)
                    if answerer not in held_by:
                        held_by[answerer] = self._put("held", held(sized, ranks))
                    helds.append(held_by[answerer])
        return [tables, tapes, doubts, helds]


def _has_law_of_rank(asked: Workload, starts: list[int]) -> bool:
    """Whether who answers at rank `RANK` answers at no other: a law of one rank, where states are
    counted tensor by tensor."""
    if not Law(asked).counts_states:
        return False
    sizes = product((1, 2), (start + 1 for start in starts))
    ways = [resized(asked, *each) for each in sizes]
    return any(_answerer(way) != _answerer(resized(way, rank=OTHER_RANKS[0])) for way in ways)


def _answerer(sized: Workload) -> str:
    return engine_for_all(as_known(sized, ENGINE), ENGINE)


# --- mkdocs ---------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Adds the page to the documentation (mkdocs' hook)."""
    from mkdocs.structure.files import File

    for name, content in made("predict.html").items():
        files.append(File.generated(config, name, content=content))
    return files


@cache
def made(name: str) -> dict[str, str]:
    """Once, where `mkdocs serve` builds again and again."""
    return files(name, MODELS)


if __name__ == "__main__":
    write(Path(sys.argv[1]), all_models())
