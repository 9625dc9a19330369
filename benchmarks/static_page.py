"""Predict for a part of the catalogue as one HTML file without a server: opened from disk, offline.

`python -m benchmarks.static_page FILE` writes it; `mkdocs build` makes it anew as `predict.html`.
Peaks are the polynomials of the rules with exact integers, in the browser. What a card keeps free
is what the allocator needs, simulated there over the same requests as in `planning.simulated`; the
bound on fragmentation where there is no tape, as there is none for cards without bfloat16.
"""

import base64
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # mkdocs runs its hook by the path

from benchmarks.static_tapes import Tapes, matrix
from lora_profiler import LoraConfig, TrainSetup, Workload, __version__, find_model
from lora_profiler.algebra import undominated
from lora_profiler.catalog import Gpu, bundled_gpus
from lora_profiler.compiled.regime import KernelChoice, kernel_choice
from lora_profiler.compiled.requests import FLASH_ROWS, room_of
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.engine import peak_polynomials, predict_checked, windows_of
from lora_profiler.planning.reserve import (
    FRAGMENTATION_BYTES,
    FRAGMENTATION_PERCENT,
    held_bytes,
    reserve_for,
)
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.planning.simulated import PART, SURE
from lora_profiler.planning.sizes import BATCHES, LENGTHS, RANKS, lengths
from lora_profiler.platform import Platform
from lora_profiler.support.check import check
from lora_profiler.support.library_memory import workspace_bytes
from lora_profiler.support.sdpa import MASK_ALIGNMENT
from lora_profiler.workload import Method

MODELS = (
    "HuggingFaceTB/SmolLM2-1.7B",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
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
FIRST = ("meta-llama/Llama-3.1-8B", "rtx_4090")
METHODS: tuple[Method, ...] = get_args(Method)
Kernels = tuple[tuple[KernelChoice, str], ...]
"""Of attention, and the dtype, for each method and model."""
ENGINE = "auto"
"""A profile where there is one, as the command asks."""
LEAST_LENGTH = 64
"""In tokens: from there on the polynomials hold that are kept."""
HERE = Path(__file__).parent / "static"
DASHBOARD = HERE.parents[1] / "lora_profiler" / "dashboard"


@cache
def page() -> str:
    """The whole file, the same whenever it is made."""
    from jinja2 import Environment, FileSystemLoader

    from lora_profiler.dashboard.answered import answered
    from lora_profiler.dashboard.question import Question
    from lora_profiler.report.card import frame
    from lora_profiler.report.page.write import colour_variables

    asked = Question(model=FIRST[0], options={**DEFAULTS, "methods": METHODS}, gpu=FIRST[1])
    result = answered(find_model(FIRST[0], offline=True), asked)
    folders = [str(HERE), str(DASHBOARD / "template")]
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True)
    return environment.get_template("page.html.j2").render(
        bars=frame(result.answers, result.about("lora").prediction),
        light=colour_variables("light"),
        dark=colour_variables("dark"),
        style=(DASHBOARD / "style.css").read_text("utf-8"),
        slides=(DASHBOARD / "slides.css").read_text("utf-8"),
        script="".join(
            path.read_text("utf-8")
            for path in (DASHBOARD / "slides.js", HERE / "allocator.js", HERE / "page.js")
        ),
        data=packed(data()),
        models=len(MODELS),
        version=__version__,
    )


def packed(document: dict[str, Any]) -> str:
    """JSON, deflated, as base64."""
    text = json.dumps(document, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def data() -> dict[str, Any]:
    """What the script evaluates. `tables` are as `matrix` has them; a model's `peaks` and
    `tapes` are by the card's kernels, by method, without and with checkpointing, by batch (one, or
    more), by the span of lengths that begins at one of `starts`, and by whether the length is a
    multiple of `alignment`; `held` is [bytes, bytes a rank]. `stops`, and `lengths` of a model, are
    those of sliders."""
    specs = [find_model(name, offline=True) for name in MODELS]
    platforms: dict[Kernels, Platform] = {}
    shown = [_card(gpu, specs, platforms) for gpu in cards()]
    tables: dict[str, int] = {}
    tapes = Tapes()
    models = [_model(spec, list(platforms.values()), tables, tapes) for spec in specs]
    return {
        "first": list(FIRST),
        "least_length": LEAST_LENGTH,
        "alignment": MASK_ALIGNMENT,
        "stops": {"batch": BATCHES, "rank": RANKS},
        "fragmentation": [FRAGMENTATION_PERCENT, FRAGMENTATION_BYTES],
        "simulated": {"sure": SURE, "part": PART, "rows": FLASH_ROWS},
        "cards": shown,
        "models": models,
        "tables": [json.loads(table) for table in tables],
        "tapes": tapes.document,
    }


def cards() -> Iterator[Gpu]:
    """NVIDIA's cards of one memory size."""
    for gpu in bundled_gpus():
        if gpu.vendor == "nvidia" and gpu.usable_bytes is not None and gpu.capability is not None:
            yield gpu


def ways(spec: ModelSpec, platform: Platform) -> list[Workload]:
    """One for each of `METHODS`, in the formats that the platform computes in."""
    return workloads(spec, {**DEFAULTS, "methods": METHODS}, {"methods"}, platform)


def _card(
    gpu: Gpu, specs: Sequence[ModelSpec], platforms: dict[Kernels, Platform]
) -> dict[str, Any]:
    """`platforms` are those met so far, one for each choice of attention kernels."""
    platform, reserve = Platform(capability=gpu.capability), reserve_for(gpu, 0)
    chosen = tuple(
        (kernel_choice(way, platform), way.setup.dtype)
        for spec in specs
        for way in ways(spec, platform)
    )
    platforms.setdefault(chosen, platform)
    return {
        "key": gpu.key,
        "name": gpu.name,
        "kernels": list(platforms).index(chosen),
        "usable": gpu.usable_bytes,
        "contexts": [reserve.least_context_bytes, reserve.context_bytes],
        "workspaces": reserve.workspace_bytes,
        "workspace": workspace_bytes(platform),
        "room": room_of(platform),
    }


def _model(
    spec: ModelSpec, platforms: Sequence[Platform], tables: dict[str, int], tapes: Tapes
) -> dict[str, Any]:
    starts = [LEAST_LENGTH, *(w for w in windows_of(spec) if w > LEAST_LENGTH)]
    assert not any(start % MASK_ALIGNMENT for start in starts)

    def laid_out(place: Callable[[Workload], int | None], asked: Workload) -> list[Any]:
        def sized(on: bool, batch: int, start: int) -> Workload:
            sizes = {"checkpointing": on, "batch_size": batch, "seq_len": start}
            return replace(asked, setup=replace(asked.setup, **sizes))

        return [
            [
                [[place(sized(on, batch, start + more)) for more in (1, 0)] for start in starts]
                for batch in (1, 2)
            ]
            for on in (False, True)
        ]

    peaks, held, requests = list[Any](), list[Any](), list[Any]()
    for platform in platforms:
        asked = dict(zip(METHODS, ways(spec, platform), strict=True))
        peaks.append({m: laid_out(lambda way: _table(way, tables), w) for m, w in asked.items()})
        requests.append({m: laid_out(tapes.place, w) for m, w in asked.items()})
        held.append({m: _held(way) for m, way in asked.items()})
    return {
        "id": spec.id,
        "starts": starts,
        "lengths": lengths(LENGTHS[0], spec.trained_length),
        **{"peaks": peaks, "held": held, "tapes": requests},
    }


def _table(way: Workload, tables: dict[str, int]) -> int:
    """The place of what can be the peak from the sizes of `way` on, at any rank."""
    check(way, ENGINE)
    corner = way.setup.batch_size, way.setup.seq_len, 1
    shifted = {p.shifted(*corner): p for p in peak_polynomials(way, ENGINE)}
    text = json.dumps(matrix([shifted[p] for p in undominated(shifted)]))
    return tables.setdefault(text, len(tables))


def _held(way: Workload) -> list[int]:
    """What lives through every step, which grows with the rank as adapters do."""
    setup = way.setup
    sizes = [setup if r is None else replace(setup, lora=LoraConfig(r=r)) for r in _ranks(setup)]
    found = [held_bytes(predict_checked(replace(way, setup=s), ENGINE)) for s in sizes]
    each = found[1] - found[0] if len(found) > 1 else 0
    return [found[0] - each, each] if each else [found[0], 0]


def _ranks(setup: TrainSetup) -> tuple[int | None, ...]:
    return (1, 2) if setup.lora else (None,)


# --- mkdocs ---------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Adds the page to the documentation (mkdocs' hook)."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "predict.html", content=page()))
    return files


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
