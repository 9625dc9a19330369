"""Compiled profiles against fresh traces at points that no compilation has seen: bytes wrong in
peaks, moments and categories.

    python -m benchmarks.truth.held_out [--deadline SECONDS] [--models TEXT] [--seed N] [--jobs N]

An hour; goes on where it was cut off. --models takes those whose name has the text; no case is
begun after the deadline.

For each of the models below, the profiles of the package (two made on the spot where it has none)
and some of every other option are asked at random sizes: any depth from four units on, up to 64
sequences, up to 65,536 tokens, rank up to 512. Each answer is compared with a trace made at just
that point, whose events are added up here, by nothing that the profiles use. Results:
`results/held_out.md` and `results/held_out.json`.
"""

import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from benchmarks.pages import page_of, parser_of, read_document, table, write_document, write_page
from benchmarks.truth.bundle import asked
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_model
from lora_profiler.memory.compiled.library import bundled_profile
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.compiled.regime import below, key_of, least_sizes, regime_of, windows_of
from lora_profiler.memory.compiled.tape import LEAST_UNITS
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

MODELS = (
    "meta-llama/Llama-3.1-8B", "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-7B", "Qwen/Qwen3-4B",
    "mistralai/Mistral-7B-v0.1", "microsoft/Phi-3.5-mini-instruct", "google/gemma-7b",
    "google/gemma-2-2b", "google/gemma-3-4b-it", "openai-community/gpt2", "EleutherAI/pythia-410m",
    "facebook/opt-1.3b", "bigscience/bloom-560m", "tiiuae/falcon-7b", "EleutherAI/gpt-j-6b",
    "microsoft/phi-2", "allenai/OLMo-1B-hf", "allenai/OLMo-2-1124-7B", "allenai/Olmo-3-1025-7B",
    "ibm-granite/granite-3.0-8b-base", "CohereForAI/c4ai-command-r-v01",
    "stabilityai/stablelm-2-zephyr-1_6b", "bigcode/starcoder2-7b", "HuggingFaceTB/SmolLM3-3B",
    "zai-org/GLM-4-9B-0414", "bigcode/gpt_bigcode-santacoder", "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen3-30B-A3B", "Qwen/Qwen2-57B-A14B", "deepseek-ai/DeepSeek-V2-Lite",
    "openai/gpt-oss-20b", "google-bert/bert-base-cased", "FacebookAI/roberta-base",
    "distilbert/distilbert-base-uncased", "google-t5/t5-small", "facebook/bart-base",
    "google/gemma-3-1b-it", "zai-org/GLM-4.5-Air", "MiniMaxAI/MiniMax-M2.5",
    "google/gemma-4-26B-A4B", "deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3.2",
    "zai-org/GLM-5.2",
)  # fmt: skip
LORA = TrainSetup(lora=LoraConfig(), batch_size=2)
FULL = TrainSetup(batch_size=2)
OTHERS: dict[str, TrainSetup] = {
    "dropout": replace(LORA, lora=LoraConfig(lora_dropout=0.1)),
    "dropout, checkpointing": replace(LORA, lora=LoraConfig(lora_dropout=0.1), checkpointing=True),
    "accumulation": replace(LORA, accumulation=4),
    "accumulation, full": replace(FULL, accumulation=4),
    "eager attention": replace(LORA, attention="eager"),
    "efficient attention": replace(LORA, attention="efficient"),
    "math attention, full": replace(FULL, attention="math"),
    "float32": replace(LORA, dtype="float32"),
    "float32, full": replace(FULL, dtype="float32", optimizer_impl="forloop"),
    "float16": replace(LORA, dtype="float16"),
    "autocast": replace(LORA, dtype="float32", precision="amp"),
    "autocast, full": replace(FULL, dtype="float32", precision="amp"),
    "sgd, full": replace(FULL, optimizer="sgd"),
    "adafactor, full": replace(FULL, optimizer="adafactor"),
    "8-bit AdamW, full": replace(FULL, optimizer="adamw_8bit"),
    "8-bit AdamW": replace(LORA, optimizer="adamw_8bit"),
    "bfloat16 adapters": replace(LORA, lora=LoraConfig(adapter_dtype="bfloat16")),
    "k-bit preparation": replace(
        LORA, quantization=Quantization(recipe="kbit"), checkpointing=True
    ),
    "TRL's recipe": replace(LORA, quantization=Quantization(recipe="trl"), checkpointing=True),
    "no double quantisation": replace(LORA, quantization=Quantization(double_quant=False)),
    "one token": replace(LORA, seq_len=1),
    "CPU rules": replace(LORA, device="cpu", dtype="float32"),
    "CPU rules, full": replace(FULL, device="cpu"),
}
OTHERS_EACH = 4
"""Of the others, one model has so many, each model the next ones: a profile of these is made on the
spot."""
POINTS = 6


def cases(name: str) -> Iterator[tuple[str, Workload]]:
    model = find_model(name, offline=True)
    usual = [case for impl in ("foreach", "fused") for case in asked(model, impl)]
    yield from [case for case in usual if _bundled(case[1])] or (usual[0], usual[2])
    labels = list(OTHERS)
    first = MODELS.index(name) * OTHERS_EACH
    for i in range(OTHERS_EACH):
        label = labels[(first + i) % len(labels)]
        yield label, Workload(model=model, setup=OTHERS[label])


def _bundled(workload: Workload) -> Profile | None:
    return bundled_profile(key_of(workload))


def rows_of(name: str, seed: int, until: float) -> list[dict[str, Any]]:
    """One row a case: at how many points a profile was asked, and where it was wrong. Runs in a
    process of its own."""
    import warnings

    from lora_profiler.trace.compiler import compile_profile

    warnings.simplefilter("ignore")
    rows = []
    for label, workload in cases(name):
        if time.time() > until:
            return []
        row: dict[str, Any] = {"model": name, "type": workload.model.model_type, "case": label}
        profile = _bundled(workload)
        row["bundled"] = profile is not None
        try:
            profile = profile or compile_profile(workload)
            rng = random.Random(f"{seed} {name} {label}")
            wrong = [
                difference
                for _ in range(POINTS)
                for difference in _compared(profile, workload, rng)
            ]
        except LoraProfilerError as e:
            rows.append(row | {"reason": str(e)})
            continue
        except Exception as e:  # whatever a library raises on a meta tensor belongs into the table
            rows.append(row | {"reason": f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"})
            continue
        rows.append(row | {"points": POINTS, "wrong": wrong, "folded": profile.layout is not None})
    return rows


def _compared(profile: Profile, workload: Workload, rng: random.Random) -> Iterator[str]:
    """Everything said otherwise at one random point."""
    from lora_profiler.memory.compiled import predict_with
    from lora_profiler.trace.flat import Flat, flat
    from lora_profiler.trace.modeling import build_model
    from lora_profiler.trace.run import trace
    from lora_profiler.trace.toys import at_depth

    asked = _somewhere(workload, rng)
    if profile.layout is not None:
        units = rng.choice((LEAST_UNITS, *range(LEAST_UNITS, 10)))
        asked = replace(asked, model=at_depth(asked.model, profile.layout.layers(units)))
    fresh: Flat = flat(trace(asked, lambda w: build_model(w, device="meta")))
    said = predict_with(profile, asked)
    peaks, category_bytes, phase = _added_up(fresh)
    setup = asked.setup
    where = (
        f"{asked.model.num_layers} layers, {setup.batch_size} x {setup.seq_len}, rank"
        f" {setup.lora.r if setup.lora else 0}"
    )
    steady = {m.moment: m.total_bytes for m in said.moments if m.step == "steady"}
    for name, moments in GROUPS.items():
        mine = max(steady[moment] for moment in moments if moment in steady)
        if mine != peaks[name]:
            yield f"{name} at {where}: {mine} instead of {peaks[name]}"
    if said.peak.moment not in GROUPS[phase]:
        yield f"moment at {where}: {said.peak.moment} instead of one of {phase}"
    nonzero = {category: size for category, size in said.peak.bytes.items() if size}
    if nonzero != category_bytes:
        yield f"categories at {where}: {nonzero} instead of {category_bytes}"


GROUPS = {
    "forward": ("last_layer_forward", "end_of_forward"),
    "backward": ("loss_backward", "last_layer_backward", "first_layer_backward"),
    "optimizer": ("optimizer_step",),
}
_PHASES = {
    "forward": "forward",
    "loss": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
}


def _added_up(fresh: Any) -> tuple[dict[str, int], dict[str, int], str]:
    """Peaks of the steady step by group of phases, the categories at the first highest instant of
    all, and its group."""
    live: Counter[str] = Counter()
    births: list[tuple[str, int]] = []
    peaks: dict[str, int] = defaultdict(int)
    total = highest = 0
    at_peak: dict[str, int] = {}
    phase, peak_phase = "", ""
    for event in fresh.events:
        if event.mark is not None:
            if not event.mark.note:
                phase = _PHASES.get(event.mark.phase, "") if event.mark.step == 2 else ""
        elif event.birth is not None:
            births.append((event.birth.category, event.birth.size))
            live[event.birth.category] += event.birth.size
            total += event.birth.size
        else:
            category, size = births[event.dies]
            live[category] -= size
            total -= size
        if phase:
            peaks[phase] = max(peaks[phase], total)
            if total > highest:
                highest, peak_phase = total, phase
                at_peak = {category: size for category, size in live.items() if size}
    return dict(peaks), at_peak, peak_phase


def _somewhere(workload: Workload, rng: random.Random) -> Workload:
    """The workload at random sizes for which its regime holds; long sequences as likely as short
    ones."""
    regime, windows, setup = regime_of(workload), windows_of(workload.model), workload.setup
    _, least = least_sizes(regime, windows)
    end = below(regime, windows)
    positions = workload.model.config.get("max_position_embeddings")
    longest = min(65536, *(x for x in (end and end - 1, positions) if isinstance(x, int)), 2**20)
    seq = 1 if regime.one_token else round(least * (max(longest, least) / least) ** rng.random())
    lora = (
        replace(
            setup.lora,
            r=regime.rank or rng.choice((1, 2, 7, 8, 16, 33, 64, 128, 512)),
            lora_alpha=None,
        )
        if setup.lora
        else None
    )
    batch = 1 if regime.one_sample else round(2 * 32 ** rng.random())
    return replace(
        workload,
        setup=replace(setup, batch_size=batch, seq_len=min(max(seq, least), longest), lora=lora),
    )


def write(rows: list[dict[str, Any]], seed: int) -> None:
    rows = sorted(rows, key=lambda row: MODELS.index(row["model"]))
    write_document("held_out", {"seed": seed, "rows": rows})
    told = [row for row in rows if "reason" not in row]
    points = sum(row["points"] for row in told)
    wrong = [f"- {row['model']}, {row['case']}: {what}" for row in told for what in row["wrong"]]
    by_option: Counter[str] = Counter()
    for row in told:
        by_option[row["case"].split(", batch")[0]] += row["points"]
    refused: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if "reason" in row:
            reason = row["reason"].replace(row["model"], "MODEL")[:160]
            refused[reason].append(f"{row['model']}: {row['case']}")
    most = sorted(refused.items(), key=lambda item: -len(item[1]))
    text = page_of(
        "Profiles at points that no compilation has seen",
        f"`python -m benchmarks.truth.held_out`, seed {seed}: {points:,} points of {len(told):,}"
        f" profiles ({sum(row['bundled'] for row in told):,} of the package),"
        f" {len({row['type'] for row in told})} architectures,"
        f" {len({row['model'] for row in told})} models. At each, the steady peak of forward,"
        " backward and optimizer, the moment\nof the peak and its bytes by category are held"
        " against a trace made at just that point, whose events are added up.",
        f"- **{len(wrong)} of {5 * points:,} comparisons differ.**",
        wrong[:40],
        table("case | >points", sorted(by_option.items())),
        "## Not asked",
        [f"- {reason}: {len(who)}, {who[0]} for one" for reason, who in most],
    )
    write_page("held_out", text)


def main() -> int:
    parser = parser_of(__doc__, models="", deadline=float("inf"), seed=1, jobs=2)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = read_document("held_out")["rows"]
    done = {row["model"] for row in rows}
    until = time.time() + options.deadline
    names = [name for name in MODELS if options.models in name and name not in done]
    with ProcessPoolExecutor(options.jobs) as pool:
        running = {pool.submit(rows_of, name, options.seed, until): name for name in names}
        for finished in as_completed(running):
            found = finished.result()
            rows += found
            write(rows, options.seed)
            wrong = sum(len(row.get("wrong", ())) for row in found)
            print(f"{running[finished]}: {wrong} wrong", flush=True)
    return 1 if any(row.get("wrong") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
