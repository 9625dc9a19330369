"""What other versions of torch, transformers, PEFT and bitsandbytes change in the package's laws
and profiles.

    python -m benchmarks.truth.again [--types NAME ...] [--cases TEXT] [--jobs N]
                                     [--renew] [--write]

Traces each once with the libraries that are installed, the model cut to five units and as long as
can be, and holds the trace against what the package has, event by event. `--types`: of these model
types alone; `--cases`: of questions that match, as "trl-sft lora". For every night: ends with 1
where one differs.

With `--renew` the work of `benchmarks.truth.bundle` is brought up to date: what is equal gets the
versions that it was found equal with, what differs is dropped. `bundle compile`, `bundle laws` and
`bundle pack` then make it anew. Results: `results/again.md` and `results/again.json`.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from typing import Any

from benchmarks.pages import page_of, parser_of, table, tell, words_of
from benchmarks.truth.bundle import IMPLS, asked, key_of_law, laws_asked, of_one_micro_batch, work
from lora_profiler._common.packages import installed_versions
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_model
from lora_profiler.memory.compiled.library import bundled_profile, bundled_profiles
from lora_profiler.memory.compiled.profile import packed
from lora_profiler.memory.compiled.regime import key_of
from lora_profiler.question.workload import Workload

Question = tuple[str, str, Workload]
"""A key of the bundle, words for its question, and the question."""
EQUAL = ""
_A_CHUNK = 24
"""Questions of one model type that a process answers before the next chunk."""


def questions(types: list[str], cases: str) -> Iterator[Question]:
    """One for each law and profile of the package, laws first."""
    seen: set[str] = set()
    for key, label, workload in (*_of_laws(), *_of_profiles()):
        is_wanted = not types or workload.model.model_type in types
        if is_wanted and key not in seen and re.search(cases, label):
            seen.add(key)
            yield key, label, workload


def _of_laws() -> Iterator[Question]:
    keys = {profile.key for profile in bundled_profiles() if profile.law is not None}
    for label, workload in laws_asked():
        for one in (of_one_micro_batch(workload), workload):
            if (key := key_of_law(one)) in keys:
                yield key, label, one
                break


def _of_profiles() -> Iterator[Question]:
    keys = {profile.key for profile in bundled_profiles() if profile.law is None}
    for entry in bundled_models():
        model = find_model(entry.id, offline=True)
        for impl in IMPLS:
            for label, workload in asked(model, impl):
                if (key := key_of(workload)) in keys:
                    yield key, f"{model.model_type}: {label}", workload


def _answer(chunk: list[Question]) -> list[tuple[str, str, str, str]]:
    """Of each question its key, words, model, and how a fresh trace differs, if it does."""
    import warnings

    from lora_profiler.trace.compiler import check_again

    warnings.simplefilter("ignore")
    found = []
    for key, label, workload in chunk:
        profile, difference = bundled_profile(key), EQUAL
        assert profile is not None
        try:
            check_again(profile, workload)
        except (ImportError, MemoryError, OSError):
            raise  # which say nothing of the libraries
        except LoraProfilerError as e:
            difference = str(e)
        except Exception as e:  # whatever a library raises belongs into the table
            difference = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
        found.append((key, label, workload.model.id, difference))
    return found


def outcome(types: list[str], cases: str, jobs: int, *, renews: bool) -> dict[str, Any]:
    of_type: dict[str, list[Question]] = defaultdict(list)
    for question in questions(types, cases):
        of_type[question[2].model.model_type].append(question)
    chunks = [
        (name, of[start : start + _A_CHUNK])
        for name, of in of_type.items()
        for start in range(0, len(of), _A_CHUNK)
    ]
    before = {
        name: version
        for name, version in next(bundled_profiles()).versions.items()
        if name != "lora-profiler"
    }
    checked: Counter[str] = Counter()
    changed = []
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(_answer, chunk): name for name, chunk in chunks}
        for number, done in enumerate(as_completed(running), 1):
            name, answers = running[done], done.result()
            checked[name] += len(answers)
            for key, label, model, difference in answers:
                if renews:
                    _renew(key, is_equal=not difference)
                if difference:
                    changed.append(
                        {"type": name, "question": label, "model": model, "difference": difference}
                    )
            print(f"[{number}/{len(chunks)}] {name}", file=sys.stderr, flush=True)
    return {
        "versions": installed_versions(before),
        "versions_before": before,
        "checked": dict(sorted(checked.items())),
        "changed": sorted(changed, key=lambda row: (row["type"], row["question"], row["model"])),
    }


def _renew(key: str, *, is_equal: bool) -> None:
    profile = bundled_profile(key)
    assert profile is not None
    versions = installed_versions(tuple(profile.versions))
    with closing(work()) as connection, connection:
        if is_equal:
            data = packed(replace(profile, versions=versions))
            connection.execute("UPDATE made SET data = ? WHERE key = ?", (data, key))
        else:
            connection.execute("DELETE FROM made WHERE key = ?", (key,))


def report(document: dict[str, Any]) -> str:
    changed, checked = document["changed"], document["checked"]
    by_type: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in changed:
        by_type[row["type"]].append(row)
    return page_of(
        "Laws and profiles under newer libraries",
        f"`python -m benchmarks.truth.again`: {sum(checked.values()):,} laws and profiles of the"
        f" package, made with {words_of(document['versions_before'])}, each held against a fresh"
        f" trace with {words_of(document['versions'])}, event by event.",
        f"**{len(changed):,} differ, of {len(by_type)} of {len(checked)} model types.**",
        table(
            "type | >checked | >differ | the first event that differs",
            (
                (name, checked[name], len(rows), rows[0]["difference"].replace("|", "\\|"))
                for name, rows in sorted(by_type.items())
            ),
        )
        if changed
        else "",
    )


def main() -> int:
    parser = parser_of(__doc__, cases="", jobs=2, renew=False, write=False)
    parser.add_argument("--types", default=[], nargs="+")
    options = parser.parse_args()
    document = outcome(options.types, options.cases, options.jobs, renews=options.renew)
    tell("again", report(document), document, writes=options.write)
    return int(bool(document["changed"]))


if __name__ == "__main__":
    sys.exit(main())
