"""Predict for a part of the catalogue as one HTML file without a server: opened from disk, offline.

`python -m benchmarks.static_page FILE` writes it; `mkdocs build` makes it anew as `predict.html`.
Peaks are the polynomials of the rules with exact integers, in the browser; what a card keeps free
is the bound on fragmentation, since nothing there simulates the allocator.
"""

import base64
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lora_profiler import LoraConfig, Quantization, TrainSetup, Workload, __version__, find_model
from lora_profiler.algebra import undominated
from lora_profiler.algebra.polynomial import Polynomial
from lora_profiler.catalog import Gpu, bundled_gpus
from lora_profiler.compiled.regime import KernelChoice, kernel_choice
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.engine import peak_polynomials, predict_checked, windows_of
from lora_profiler.planning.reserve import (
    FRAGMENTATION_BYTES,
    FRAGMENTATION_PERCENT,
    held_bytes,
    reserve_for,
)
from lora_profiler.planning.sizes import BATCHES, LENGTHS, RANKS, lengths
from lora_profiler.platform import Platform
from lora_profiler.support.check import check

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
METHODS: dict[str, TrainSetup] = {
    "full": TrainSetup(),
    "lora": TrainSetup(lora=LoraConfig()),
    "qlora": TrainSetup(lora=LoraConfig(), quantization=Quantization()),
}
Kernels = tuple[KernelChoice, ...]
"""Of attention, for each model."""
ENGINE = "analytic"
"""The rules know all of `MODELS`, and are quicker asked than profiles are read."""
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
    from lora_profiler.planning.setups import DEFAULTS
    from lora_profiler.report.card import frame
    from lora_profiler.report.page.write import colour_variables

    asked = Question(model=FIRST[0], options={**DEFAULTS, "methods": tuple(METHODS)}, gpu=FIRST[1])
    result = answered(find_model(FIRST[0], offline=True), asked)
    folders = [str(HERE), str(DASHBOARD / "template")]
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True)
    return environment.get_template("page.html.j2").render(
        bars=frame(result.answers, result.about("lora").prediction),
        light=colour_variables("light"),
        dark=colour_variables("dark"),
        style=(DASHBOARD / "style.css").read_text("utf-8"),
        slides=(DASHBOARD / "slides.css").read_text("utf-8"),
        script=(DASHBOARD / "slides.js").read_text("utf-8") + (HERE / "page.js").read_text("utf-8"),
        data=packed(data()),
        models=len(MODELS),
        version=__version__,
    )


def packed(document: dict[str, Any]) -> str:
    """JSON, deflated, as base64."""
    text = json.dumps(document, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def data() -> dict[str, Any]:
    """What the script evaluates. `tables` are [monomials, coefficients]; a model's `peaks` are by
    the card's kernels, by method, without and with checkpointing, by batch (one, or more) and by
    the span of lengths that begins at one of `starts`; `held` is [bytes, bytes a rank]. `stops`,
    and `lengths` of a model, are those of sliders."""
    specs = [find_model(name, offline=True) for name in MODELS]
    platforms: dict[Kernels, Platform] = {}
    shown = [_card(gpu, specs, platforms) for gpu in cards()]
    tables: dict[str, int] = {}
    return {
        "first": list(FIRST),
        "least_length": LEAST_LENGTH,
        "stops": {"batch": BATCHES, "rank": RANKS},
        "fragmentation": [FRAGMENTATION_PERCENT, FRAGMENTATION_BYTES],
        "cards": shown,
        "models": [_model(spec, list(platforms.values()), tables) for spec in specs],
        "tables": [json.loads(table) for table in tables],
    }


def cards() -> Iterator[Gpu]:
    """NVIDIA's cards of one memory size that have arithmetic of bfloat16."""
    for gpu in bundled_gpus():
        if gpu.vendor == "nvidia" and gpu.usable_bytes is not None and (gpu.capability or 0) >= 80:
            yield gpu


def _card(
    gpu: Gpu, specs: Sequence[ModelSpec], platforms: dict[Kernels, Platform]
) -> dict[str, Any]:
    """`platforms` are those met so far, one for each choice of attention kernels."""
    platform, reserve = Platform(capability=gpu.capability), reserve_for(gpu, 0)
    chosen = tuple(kernel_choice(Workload(model=spec), platform) for spec in specs)
    platforms.setdefault(chosen, platform)
    return {
        "key": gpu.key,
        "name": gpu.name,
        "kernels": list(platforms).index(chosen),
        "usable": gpu.usable_bytes,
        "contexts": [reserve.least_context_bytes, reserve.context_bytes],
        "workspaces": reserve.workspace_bytes,
    }


def _model(
    spec: ModelSpec, platforms: Sequence[Platform], tables: dict[str, int]
) -> dict[str, Any]:
    starts = [LEAST_LENGTH, *(w for w in windows_of(spec) if w > LEAST_LENGTH)]
    ways = {
        (method, on, batch, start): Workload(
            model=spec, setup=replace(setup, checkpointing=on, batch_size=batch, seq_len=start)
        )
        for method, setup in METHODS.items()
        for on in (False, True)
        for batch in (1, 2)
        for start in starts
    }
    of_kernels: dict[KernelChoice, dict[Any, int]] = {}
    places = []
    for platform in platforms:
        chosen = kernel_choice(Workload(model=spec), platform)
        if chosen not in of_kernels:
            of_kernels[chosen] = {
                key: _table(replace(way, platform=platform), tables) for key, way in ways.items()
            }
        places.append(of_kernels[chosen])
    peaks = [
        {
            method: [
                [[of[method, on, b, start] for start in starts] for b in (1, 2)]
                for on in (False, True)
            ]
            for method in METHODS
        }
        for of in places
    ]
    held = {name: _held(spec, setup) for name, setup in METHODS.items()}
    stops = lengths(LENGTHS[0], spec.trained_length)
    return {"id": spec.id, "starts": starts, "lengths": stops, "peaks": peaks, "held": held}


def _table(way: Workload, tables: dict[str, int]) -> int:
    """The place of what can be the peak from the sizes of `way` on, at any rank."""
    check(way, ENGINE)
    corner = way.setup.batch_size, way.setup.seq_len, 1
    shifted = {p.shifted(*corner): p for p in peak_polynomials(way, ENGINE)}
    text = json.dumps(_matrix([shifted[p] for p in undominated(shifted)]))
    return tables.setdefault(text, len(tables))


def _matrix(polynomials: list[Polynomial]) -> list[Any]:
    monomials = sorted({e for p in polynomials for e in p.nonzero()})
    return [monomials, [[p.terms.get(e, 0) for e in monomials] for p in polynomials]]


def _held(spec: ModelSpec, setup: TrainSetup) -> list[int]:
    """What lives through every step, which grows with the rank as adapters do."""
    sizes = [setup if r is None else replace(setup, lora=LoraConfig(r=r)) for r in _ranks(setup)]
    found = [held_bytes(predict_checked(Workload(model=spec, setup=s), ENGINE)) for s in sizes]
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
