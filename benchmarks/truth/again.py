"""What other versions of torch, transformers, PEFT and bitsandbytes change in the package's laws
and profiles.

    python -m benchmarks.truth.again [--types NAME ...] [--cases TEXT] [--jobs N]
                                     [--renew] [--write]

Traces each once with the libraries that are installed, the model cut to five units and as long as
can be, and holds the trace against what the package has, event by event. `--types`: of these model
types alone; `--cases`: of questions that match, as "trl-sft lora". For every night: ends with 1
where one differs.

With `--renew` the work of `benchmarks.truth.bundle` is brought up to date: what is equal gets the
versions that it was found equal with, what differs is made anew. `bundle pack` then writes the
package's file. Results: `results/again.md` and `results/again.json`.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from benchmarks.pages import page_of, parser_of, table, tell, words_of
from benchmarks.truth.bundle import IMPLS, asked, key_of_law, laws_asked, of_one_micro_batch, work
from lora_profiler._common.packages import installed_versions
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_model
from lora_profiler.memory.compiled.library import bundled_profile, bundled_profiles
from lora_profiler.memory.compiled.profile import Profile, packed
from lora_profiler.memory.compiled.regime import key_of
from lora_profiler.question.workload import Workload

Question = tuple[str, str, Workload]
"""A key of the bundle, words for its question, and the question."""
T = TypeVar("T")
_A_CHUNK = 12
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


def _answer(chunk: list[Question], *, renews: bool) -> list[dict[str, str]]:
    """Of each question its words, model, how a fresh trace differs, if it does, and why nothing
    could be made anew."""
    import warnings

    from lora_profiler.trace.compiler import check_again, compile_law, compile_profile

    warnings.simplefilter("ignore")
    found = []
    for key, label, workload in chunk:
        profile = bundled_profile(key)
        assert profile is not None
        _, difference = _tried(partial(check_again, profile, workload))
        reason = ""
        if renews:
            renewed: Profile | None = replace(
                profile, versions=installed_versions(tuple(profile.versions))
            )
            if difference:
                make = compile_profile if profile.law is None else compile_law
                renewed, reason = _tried(partial(make, workload))
            _keep(key, renewed, reason)
        row = {"question": label, "model": workload.model.id, "difference": difference}
        found.append({**row, "refused": reason} if reason else row)
    return found


def _tried(do: Callable[[], T]) -> tuple[T | None, str]:
    """What `do` returns, or what it raises in words."""
    try:
        return do(), ""
    except (ImportError, MemoryError, OSError):
        raise  # which say nothing of the libraries
    except LoraProfilerError as e:
        return None, str(e)
    except Exception as e:  # whatever a library raises belongs into the table
        return None, f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


def _keep(key: str, renewed: Profile | None, reason: str) -> None:
    row = (renewed and packed(renewed), reason or None, key)
    with closing(work()) as connection, connection:
        connection.execute("UPDATE made SET data = ?, reason = ? WHERE key = ?", row)


def outcome(types: list[str], cases: str, jobs: int, *, renews: bool) -> dict[str, Any]:
    of_type: dict[str, list[Question]] = defaultdict(list)
    for question in questions(types, cases):
        of_type[question[2].model.model_type].append(question)
    chunks = [
        (name, of_type[name][start : start + _A_CHUNK])
        for name in types or of_type
        for start in range(0, len(of_type[name]), _A_CHUNK)
    ]
    before = {
        name: version
        for name, version in next(bundled_profiles()).versions.items()
        if name != "lora-profiler"
    }
    checked: Counter[str] = Counter()
    changed: list[dict[str, str]] = []
    # what a library keeps of its traces grows to gigabytes
    with ProcessPoolExecutor(jobs, max_tasks_per_child=1) as pool:
        running = {pool.submit(_answer, chunk, renews=renews): name for name, chunk in chunks}
        for number, done in enumerate(as_completed(running), 1):
            name, answers = running[done], done.result()
            checked[name] += len(answers)
            changed += [{"type": name, **row} for row in answers if row["difference"]]
            print(f"[{number}/{len(chunks)}] {name}", file=sys.stderr, flush=True)
    return {
        "versions": installed_versions(before),
        "versions_before": before,
        "renewed": renews,
        "checked": dict(sorted(checked.items())),
        "changed": sorted(changed, key=lambda row: (row["type"], row["question"], row["model"])),
    }


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
        f"**{len(changed):,} differ, of {len(by_type)} of {len(checked)} model types.**"
        + (f" {_renewed(changed)}" if document["renewed"] and changed else ""),
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


def _renewed(changed: list[dict[str, str]]) -> str:
    refused = [row["refused"] for row in changed if "refused" in row]
    if not refused:
        return "They were made anew."
    return f"They were made anew, but for {len(refused)}: {refused[0]}"


def main() -> int:
    parser = parser_of(__doc__, cases="", jobs=2, renew=False, write=False)
    parser.add_argument("--types", default=[], nargs="+")
    options = parser.parse_args()
    document = outcome(options.types, options.cases, options.jobs, renews=options.renew)
    tell("again", report(document), document, writes=options.write)
    return int(bool(document["changed"]))


if __name__ == "__main__":
    sys.exit(main())
