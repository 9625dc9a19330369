"""The page of `rehearsed.rules`: predictions less rehearsals, all together, by group, the worst."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.pages import page_of, table
from benchmarks.rows import Row, grouped
from lora_profiler.facts.catalog import find_model
from lora_profiler.measuring.records.serialize import setup_from_dict
from lora_profiler.memory.analytic.families import FAMILIES

MIB = 1 << 20


def page(
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    of_traces: Sequence[Mapping[str, Any]],
) -> str:
    """`results` of answers, and those of traces."""
    refused = sum("refused" in row for row in rows)
    failed = [row for row in rows if "failed" in row]
    kinds = {
        "answers": lambda r: f"{r['engine']}, {r['exactness']}",
        "card": lambda r: r["card"],
        "method": _method,
        "attention": lambda r: r["setup"]["attention"] + " " + (", ".join(r["attention"]) or "-"),
        "model type": lambda r: find_model(r["model"], offline=True).model_type,
    }
    return page_of(
        "Predicted and rehearsed",
        f"`python -m benchmarks.rehearsed.rules`: {len(rows)} seeded configurations, over "
        "the real CUDA build of torch on pretended cards of plenty of memory, at full model size; "
        "steady peak of three steps. Rehearsed, not measured. BLAS workspaces are added to the "
        "prediction. "
        f"{refused} are refused before they run, {len(failed)} did not run.",
        _nearness(results),
        _summaries({"all": results} | grouped(results, kinds)),
        "The worst by requested bytes:",
        _worst(results, "requested_bytes"),
        *(_of_traces(of_traces) if of_traces else ()),
        "What did not run:" if failed else "",
        (
            f"- {row['model']} on {row['card']}, {options_words(row)}: {row['failed']}"
            for row in failed
        ),
    )


def _worst(results: Sequence[Mapping[str, Any]], counter: str) -> list[str]:
    """A table of at most 25 that are not equal."""
    unequal = [result for result in results if result["errors"][counter]]
    return table(
        "model | card | options | >predicted less rehearsed | >share | answer",
        (
            (
                result["model"],
                result["card"],
                options_words(result),
                f"{result['errors'][counter]:,}",
                f"{_share(result, counter):+.4%}",
                f"{result['engine']}, {result['exactness']}",
            )
            for result in sorted(unequal, key=lambda r: -abs(_share(r, counter)))[:25]
        ),
    )


_OF_TRACES: Mapping[str, Callable[[Row], bool]] = {
    "model types without rules": lambda r: (
        find_model(r["model"], offline=True).model_type not in FAMILIES
    ),
    "expandable segments": lambda r: bool(r.get("expandable")),
    "plain segments": lambda r: not r.get("expandable"),
}


def _of_traces(results: Sequence[Row]) -> Iterator[str | list[str]]:
    groups = {name: [r for r in results if holds(r)] for name, holds in _OF_TRACES.items()}
    beyond = [result["bytes_beyond"] for result in results]
    shares = [result["bytes_beyond"] / result["peak_bytes"] for result in results]
    yield "## Traces and the simulated allocator"
    yield (
        "`--trace`: the same configurations, each traced at exactly its size, and the trace "
        "replayed through the simulated allocator with BLAS workspaces."
    )
    yield _summaries({"all": results, **{name: of for name, of in groups.items() if of}})
    yield (
        "The least that the allocator completes two steps with, simulated, is above peak and "
        f"workspaces by {mean(shares):.1%} on average, by at most {max(shares):.1%}; in bytes by"
        f" at most {max(beyond) / MIB:,.0f} MiB."
    )
    yield "The worst by requested bytes:"
    yield _worst(results, "requested_bytes")
    yield "Reserved, every rehearsal, the furthest off first:"
    yield table(
        "model | card | options | >predicted, MiB | >rehearsed, MiB | >error",
        (
            (
                result["model"],
                result["card"],
                options_words(result),
                f"{_reserved(result, 'errors') / MIB:,.0f}",
                f"{_reserved(result) / MIB:,.0f}",
                f"{_share(result, 'reserved_bytes'):+.2%}",
            )
            for result in sorted(results, key=lambda r: -abs(_share(r, "reserved_bytes")))
        ),
    )


def _reserved(result: Row, *more: str) -> int:
    return sum(int(result[part]["reserved_bytes"]) for part in ("rehearsed", *more))


def _nearness(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for exactness in ("exact", "estimate"):
        of_kind = [result for result in results if result["exactness"] == exactness]
        errors = [abs(result["errors"]["requested_bytes"]) for result in of_kind]
        near = sum(abs(_share(result, "requested_bytes")) <= 0.001 for result in of_kind)
        lines.append(
            f"- Answers that say {exactness}: {len(of_kind)}. Requested bytes are equal in "
            f"{errors.count(0)}, within 4 KiB in {sum(error <= 4096 for error in errors)}, within "
            f"0.1 % in {near}."
        )
    return lines


def _share(result: Mapping[str, Any], counter: str) -> float:
    return float(result["errors"].get(counter, 0) / result["rehearsed"][counter])


def _summaries(groups: Mapping[str, Sequence[Row]]) -> list[str]:
    return table(
        " | >compared | >requested equal | >mean | >worst | >allocated equal | >mean | >worst |"
        " >reserved equal | >mean | >worst",
        (_summary(name, results) for name, results in groups.items()),
    )


def _summary(name: str, results: Sequence[Row]) -> list[str]:
    cells = [name, str(len(results))]
    for counter in ("requested_bytes", "allocated_bytes", "reserved_bytes"):
        counted = [result for result in results if counter in result["errors"]]
        if not counted:
            cells += ["-", "-", "-"]
            continue
        shares = [abs(_share(result, counter)) for result in counted]
        equal = sum(result["errors"][counter] == 0 for result in counted)
        cells += [f"{equal} of {len(counted)}", f"{mean(shares):.3%}", f"{max(shares):.3%}"]
    return cells


def _method(row: Mapping[str, Any]) -> str:
    setup = setup_from_dict(row["setup"])
    return "full" if setup.lora is None else "QLoRA" if setup.quantization else "LoRA"


def options_words(row: Mapping[str, Any]) -> str:
    setup = setup_from_dict(row["setup"])
    words = [_method(row), f"{setup.batch_size} x {setup.seq_len}", setup.dtype, setup.attention]
    words += ["amp"] if setup.precision == "amp" else []
    words += ["checkpointing"] if setup.checkpointing else []
    words += [f"accumulation {setup.accumulation}"] if setup.accumulation > 1 else []
    words += [setup.optimizer_impl] if setup.optimizer_impl != "foreach" else []
    if setup.lora is not None and setup.lora.lora_dropout:
        words.append("dropout")
    if setup.quantization is not None:
        words.append(setup.quantization.recipe)
    return ", ".join(words)
