"""Makes the profiles that come with the package: what people ask of each model of the catalogue,
traced and compiled.

    python -m benchmarks.truth.bundle compile [--deadline SECONDS] [--jobs N]
                                        [--types NAME ...] [--smallest N] [--cases TEXT]
    python -m benchmarks.truth.bundle laws [--deadline SECONDS] [--cases TEXT]
    python -m benchmarks.truth.bundle pack

The first takes hours and goes on where it was cut off; of the given types alone, of the N smallest
models of each, of cases with a text in their label, as "foreach, batch 2"; no profile is begun
after so many seconds. The second makes laws of the types that no rule knows: `LAWS` says of which
questions. The third writes the package's file, and results.

Full, LoRA on all linear layers, LoRA on PEFT's default, QLoRA; with and without checkpointing;
AdamW as foreach and fused; one sample and several; sliding windows that the sequence fills or not.
The models of one type are compiled one after another: a tape that is the same as a relative's,
which was checked at full depth, needs fewer traces. Each model has at least one profile that was
checked at its own full depth. Results:
`results/bundle.md` and `results/bundle.json`.
"""

import json
import re
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.pages import (
    RESULTS,
    page_of,
    parser_of,
    table,
    words_of,
    write_document,
    write_page,
)
from lora_profiler._common.polynomial import rounded_up
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_gpu, find_model
from lora_profiler.facts.stacks import as_guided, find_stack
from lora_profiler.memory.analytic import knows
from lora_profiler.memory.compiled.law import facts_of, law_key
from lora_profiler.memory.compiled.library import BUNDLED, bundled_profiles, write_bundle
from lora_profiler.memory.compiled.profile import Profile, packed, unpacked
from lora_profiler.memory.compiled.regime import key_of, regime_of, windows_of
from lora_profiler.planning.guided import asked_of
from lora_profiler.planning.setups import DEFAULTS, setup_for
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.check import check
from lora_profiler.question.support.sdpa import MASK_ALIGNMENT
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

WORK = Path(__file__).resolve().parents[1] / ".bundle" / "work.sqlite"
ALL, DEFAULT = LoraConfig(), LoraConfig(target_modules=None)
METHODS = {
    "full": TrainSetup(),
    "LoRA": TrainSetup(lora=ALL),
    "QLoRA": TrainSetup(lora=ALL, quantization=Quantization()),
    "LoRA, default targets": TrainSetup(lora=DEFAULT),
}
IMPLS = ("foreach", "fused")
LONGEST_WINDOW = 8192
"""Windows that hardly a sequence fills are left open; others are asked about where rows of masks
are whole."""


def asked(model: ModelSpec, impl: str) -> Iterator[tuple[str, Workload]]:
    """What is bundled of a model, with one of AdamW's implementations; the plainest first."""
    lengths = [
        2048 if all(w > 2048 for w in windows_of(model)) else 2,
        *(rounded_up(w, MASK_ALIGNMENT) for w in windows_of(model) if w <= LONGEST_WINDOW),
    ]
    for checkpointing, (method, base), seq, batch in product(
        (False, True), METHODS.items(), lengths, (2, 1)
    ):
        setup = replace(
            base, checkpointing=checkpointing, optimizer_impl=impl, batch_size=batch, seq_len=seq
        )  # type: ignore[arg-type]
        label = (
            f"{method}{', checkpointing' if checkpointing else ''}, {impl}, batch {batch}, {seq}"
            " tokens"
        )
        yield label, Workload(model=model, setup=setup)


ADAPTED = ("lora", "qlora")
LOOPS = ("transformers", "trl-sft", "unsloth", "axolotl", "llamafactory", "loop")
LAWS = (
    ("guide lora 1", "guide qlora 1", "guide full 1"),
    ("plain trl-sft lora", "plain trl-sft qlora", "plain unsloth lora", "plain unsloth qlora"),
    ("plain axolotl lora", "plain axolotl qlora", "plain loop lora", "plain loop qlora"),
    ("plain llamafactory lora", "plain llamafactory qlora"),
    tuple(f"plain {trainer} {method} x4" for trainer, method in product(LOOPS, ADAPTED)),
    tuple(f"plain {trainer} {method} x4 t4" for trainer, method in product(LOOPS, ADAPTED)),
    tuple(f"plain {trainer} qlora t4" for trainer in LOOPS),
    tuple(f"plain {trainer} lora t4" for trainer in LOOPS),
    ("plain trl-sft full", "plain axolotl full", "plain loop full"),
    ("plain unsloth full", "plain llamafactory full"),
    ("trl-sft lora", "trl-sft qlora"),
    ("unsloth qlora", "unsloth lora", "axolotl lora", "axolotl qlora", "llamafactory lora"),
    ("trl-sft full", "axolotl full", "llamafactory qlora", "llamafactory full"),
    ("transformers lora", "transformers full", "transformers qlora"),
    ("trl-sft lora 1", "trl-sft qlora 1", "unsloth qlora 1", "unsloth lora 1", "bare lora 1"),
    ("bare lora", "bare full", "bare qlora", "guide lora 2", "guide full 2", "guide qlora 2"),
)
"""Trainers, methods and rows that laws are bundled for, the most wanted ones first; without rows
those of the trainer. `plain`: as a question without a trainer asks each of them, on a GPU of the
usual kernels or on the one that is named, with one row or as many as behind `x`. All of a line are
made of a type before the next type."""
LATER = frozenset({
    "bamba", "gemma4_unified", "granitemoehybrid", "jamba", "mamba", "mamba2", "nemotron_h",
    "qwen3_5_moe", "qwen3_next",
})  # fmt: skip
"""Types that go over tokens in a loop where their kernels are missing, or that have many layers in
a unit: slow to trace, and mostly no law."""


def laws_asked() -> Iterator[tuple[str, Workload]]:
    """A label and a workload for each law that is bundled: of every set of facts of a type that no
    rule knows, by the smallest model with them, most models first."""
    alike: dict[str, list[ModelSpec]] = defaultdict(list)
    for entry in bundled_models():
        model = find_model(entry.id, offline=True)
        if not knows(Workload(model=model)):
            alike[facts_of(model)].append(model)
    groups = sorted(alike.values(), key=lambda of: (of[0].model_type in LATER, -len(of), of[0].id))
    for line, models in product(LAWS, groups):
        for model, asked_as in product(_smallest(models), line):
            try:
                workload = workload_of(model, asked_as)
                workload = replace(workload, setup=nearest_traced(workload.setup))
                check(workload, "compiled")
            except LoraProfilerError:
                continue
            yield f"{model.model_type} ({len(models)} models), {asked_as}", workload


def _smallest(models: list[ModelSpec]) -> list[ModelSpec]:
    """Those that are no causal language models train in the dtype that they are published in: of
    each dtype the smallest model."""
    by_size = sorted(models, key=lambda m: -m.num_parameters)
    return [*{None if m.is_causal else m.dtype: m for m in by_size}.values()]


def of_one_micro_batch(workload: Workload) -> Workload:
    """`workload` with a step of one, whose law answers for several too."""
    return replace(workload, setup=replace(workload.setup, accumulation=1))


def law_rows(
    connection: sqlite3.Connection, workload: Workload
) -> list[tuple[bytes | None, str | None]]:
    """The laws that were made of a step of one micro-batch, and of as many as are asked for, each
    with why there is none."""
    found = []
    for asked in (of_one_micro_batch(workload), workload):
        key = (key_of_law(asked),)
        found += connection.execute("SELECT data, reason FROM made WHERE key = ?", key)
    return found


def workload_of(model: ModelSpec, words: str) -> Workload:
    """Of the words of one of `LAWS`. Raises LoraProfilerError where the trainer cannot run it."""
    match words.split():
        case ["plain", trainer, method, *more]:
            rows = [int(word[1:]) for word in more if re.fullmatch(r"x\d+", word)]
            gpus = [word for word in more if not re.fullmatch(r"x\d+", word)]
            on = find_gpu(gpus[0]).platform() if gpus else Platform()
            options = {**DEFAULTS, "batch_size": rows[0]} if rows else DEFAULTS
            given = ("batch_size",) if rows else ()
            stack = as_guided(find_stack(trainer))
            return asked_of(stack, model, options, given, method, on)  # type: ignore[arg-type]
        case [trainer, method, rows]:
            setup = setup_for(model, trainer, method, batch_size=int(rows))  # type: ignore[arg-type]
        case [trainer, method]:
            setup = setup_for(model, trainer, method)  # type: ignore[arg-type]
    return Workload(model=model, setup=setup)


# --- compiling ------------------------------------------------------------------------------------


def work() -> sqlite3.Connection:
    """What was made or refused so far; in a fresh checkout, what the package and its results
    hold."""
    WORK.parent.mkdir(exist_ok=True)
    fresh = not WORK.exists()
    connection = sqlite3.connect(WORK, timeout=60)
    with connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS made (key TEXT PRIMARY KEY, data BLOB, reason TEXT)"
        )
        if fresh:
            connection.executemany(
                "INSERT INTO made VALUES (?, ?, NULL)",
                ((p.key, packed(p)) for p in bundled_profiles()),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO made VALUES (?, NULL, ?)", _refused_before()
            )
    return connection


def _refused_before() -> Iterator[tuple[str, str]]:
    """(key, reason) of all profiles and laws that the last results say were refused."""
    for entry in _results("bundle", "models"):
        if entry["refused"]:
            model = find_model(entry["model"], offline=True)
            keys = {
                label: key_of(workload) for impl in IMPLS for label, workload in asked(model, impl)
            }
            yield from (
                (keys[label], reason) for label, reason in entry["refused"].items() if label in keys
            )
    refused = {(row["asked"], row["model"]): row.get("no") for row in _results("laws", "laws")}
    for label, workload in laws_asked():
        if reason := refused.get((label, workload.model.id)):
            yield key_of_law(of_one_micro_batch(workload)), reason


def _results(name: str, of: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))[of] if path.exists() else []
    return found


def key_of_law(workload: Workload) -> str:
    return law_key(workload.model, workload.setup, regime_of(workload))


def compile_type(names: list[str], impl: str, cases: str, until: float) -> int:
    """Compiles what is missing of the models of one type, in a process of its own; how many
    profiles were made or refused."""
    import warnings

    from lora_profiler.trace.compiler import compile_profile, tape_signature

    warnings.simplefilter("ignore")
    proven: set[str] = set()
    count = 0
    with closing(work()) as connection:
        for name in names:
            model = find_model(name, offline=True)
            deep = False  # whether a profile of this very model was checked at full depth
            for label, workload in asked(model, impl):
                key = key_of(workload)
                row = connection.execute("SELECT data FROM made WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    if row[0] is not None:
                        profile = unpacked(row[0])
                        proven.add(tape_signature(profile.tape))
                        deep = deep or any(
                            layers == model.num_layers for layers, *_ in profile.checked
                        )
                    continue
                if cases not in label:
                    continue
                if time.time() > until:
                    return count
                data = reason = None
                try:
                    profile = compile_profile(workload, proven=proven if deep else ())
                except LoraProfilerError as e:
                    reason = str(e)
                except (
                    Exception
                ) as e:  # whatever a library raises on a meta tensor belongs into the table
                    reason = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
                else:
                    proven.add(tape_signature(profile.tape))
                    deep, data = True, packed(profile)
                with connection:
                    connection.execute(
                        "INSERT OR REPLACE INTO made VALUES (?, ?, ?)", (key, data, reason)
                    )
                count += 1
    return count


def compile_laws(cases: str, until: float) -> None:
    import warnings

    from lora_profiler.trace.compiler import compile_law

    warnings.simplefilter("ignore")
    with closing(work()) as connection:
        refused = set()
        for label, workload in laws_asked():
            rows = law_rows(connection, workload)
            is_first = label.endswith(LAWS[0][0])
            if rows and rows[0][0] is None and is_first:
                refused.add(workload.model.id)  # in all loops, mostly
            if rows or not re.search(cases, label) or workload.model.id in refused:
                continue
            if time.time() > until:
                return
            workload = of_one_micro_batch(workload)
            key = key_of_law(workload)
            began, data, reason = time.monotonic(), None, None
            try:
                data = packed(compile_law(workload))
            except (ImportError, MemoryError, OSError):
                raise  # which say nothing of the model
            except Exception as e:  # whatever a library raises belongs into the table
                reason = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
                if is_first:
                    refused.add(workload.model.id)
            with connection:
                connection.execute(
                    "INSERT OR REPLACE INTO made VALUES (?, ?, ?)", (key, data, reason)
                )
            outcome = reason or f"{len(data or b''):,} bytes"
            print(f"{time.monotonic() - began:.0f} s: {label}: {outcome}", flush=True)


def _order(model: ModelSpec) -> int:
    """Types that the rules do not know first, since nothing else answers them; those traced layer
    by layer, hours, at the end."""
    from lora_profiler.trace.toys import layout_of

    return 2 if layout_of(model) is None else int(knows(Workload(model=model)))


def compile_all(types: list[str], smallest: int, cases: str, deadline: float, jobs: int) -> None:
    by_type: dict[str, list[ModelSpec]] = defaultdict(list)
    for entry in bundled_models():
        by_type[entry.model_type].append(find_model(entry.id, offline=True))
    until = time.time() + deadline
    in_turn = sorted(
        by_type.items(),
        key=lambda item: (_order(item[1][0]), max(m.num_layers for m in item[1]), item[0]),
    )
    groups = [
        ([m.id for m in sorted(models, key=lambda m: m.num_parameters)][:smallest], impl)
        for impl in IMPLS
        for name, models in in_turn
        if name in types or not types
    ]
    began = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(compile_type, *group, cases, until): group for group in groups}
        for finished in as_completed(running):
            names, impl = running[finished]
            print(
                f"{time.monotonic() - began:.0f} s: {names[0]} and {len(names) - 1} more, {impl}:"
                f" {finished.result()}",
                flush=True,
            )


# --- packing --------------------------------------------------------------------------------------


def pack() -> dict[str, Any]:
    """Writes the package's file out of all that was made; what is in it, and why the rest is
    not."""
    packs: list[list[Profile]] = []
    models: list[dict[str, Any]] = []
    known: set[str] = set()
    with closing(work()) as connection:
        for entry in sorted(bundled_models(), key=lambda m: m.id):
            model = find_model(entry.id, offline=True)
            profiles: list[Profile] = []
            refused: dict[str, str] = {}
            num_asked = num_open = 0
            for impl in IMPLS:
                for label, workload in asked(model, impl):
                    num_asked += 1
                    key = key_of(workload)
                    row = connection.execute(
                        "SELECT data, reason FROM made WHERE key = ?", (key,)
                    ).fetchone()
                    if row is None:
                        num_open += 1
                    elif row[0] is None:
                        refused[label] = row[1]
                    elif key not in known:
                        known.add(key)
                        profiles.append(unpacked(row[0]))
            if profiles:
                packs.append(profiles)
            models.append(
                {
                    "model": entry.id,
                    "type": model.model_type,
                    "asked": num_asked,
                    "not_compiled_yet": num_open,
                    "answered": num_asked - num_open - len(refused),
                    "own": len(profiles),
                    "folded": sum(p.layout is not None for p in profiles),
                    "checked_at_full_depth": sum(
                        any(point[0] == model.num_layers for point in p.checked) for p in profiles
                    ),
                    "refused": refused,
                }
            )
        laws: dict[str, dict[str, Profile]] = defaultdict(dict)
        for _, workload in laws_asked():
            for data in [data for data, _ in law_rows(connection, workload) if data][:1]:
                law = unpacked(data)
                laws[workload.model.model_type][law.key] = law
    packs += [list(of_type.values()) for of_type in laws.values()]
    write_bundle(BUNDLED, packs)
    versions = packs[0][0].versions if packs else {}
    return {
        "models": models,
        "profiles": len(known),
        "laws": sum(map(len, laws.values())),
        "bytes": BUNDLED.stat().st_size,
        "versions": {
            name: version for name, version in versions.items() if name != "lora-profiler"
        },
    }


_COLUMNS = ("model", "type", "asked", "answered", "own", "folded", "checked_at_full_depth")


def markdown(result: dict[str, Any]) -> str:
    models = result["models"]
    answered = [m for m in models if m["answered"]]
    reasons: dict[str, list[str]] = defaultdict(list)
    for m in models:
        for reason, count in Counter(m["refused"].values()).items():
            general = reason.replace(m["model"], "MODEL")
            reasons[general].append(f"{m['model']} ({count} of {m['asked']})")
    return page_of(
        "The profiles that come with the package",
        f"`python -m benchmarks.truth.bundle`: {result['profiles']:,} profiles for"
        f" {len(answered)} of {len(models)} models, and {result['laws']} laws of types (`laws.md`),"
        f" {result['bytes'] / 2**20:.1f} MiB. Made with " + words_of(result["versions"]) + ".",
        "Asked of each: full, LoRA on all linear layers, LoRA on PEFT's default targets, QLoRA;"
        " checkpointing on and off; AdamW\n"
        "foreach and fused; one sample and several; sliding windows filled and not. `own`: not"
        " shared with a model of equal\n"
        "layers; `deep`: compared with a fresh trace of all its layers, the others with one of"
        " five units, since a relative's\n"
        "equal tape was compared at full depth.",
        table(
            "model | type | >asked | >answered | >own | >folded | >deep | >refused |"
            " >not compiled yet",
            (
                [*(m[name] for name in _COLUMNS), len(m["refused"]), m["not_compiled_yet"]]
                for m in models
            ),
        ),
        "## Refused, and why",
        (
            f"- {reason}\n  {', '.join(who)}"
            for reason, who in sorted(reasons.items(), key=lambda item: -len(item[1]))
        ),
    )


def main() -> int:
    parser = parser_of(__doc__, smallest=1000, cases="", deadline=float("inf"), jobs=2)
    parser.add_argument("what", choices=("compile", "laws", "pack"))
    parser.add_argument("--types", default=[], nargs="+")
    options = parser.parse_args()
    if options.what == "compile":
        compile_all(options.types, options.smallest, options.cases, options.deadline, options.jobs)
        return 0
    if options.what == "laws":
        compile_laws(options.cases, time.time() + options.deadline)
        return 0
    result = pack()
    write_document("bundle", result)
    write_page("bundle", markdown(result))
    counts = f"{result['profiles']} profiles, {result['laws']} laws"
    print(f"{counts}, {result['bytes'] / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
