"""What people type against what they measured: model, method, rank, batch size, length, GPU alone.

    python -m benchmarks.public.as_typed [--write]

Each public peak of one GPU (`public_rows/rows.csv`), each Unsloth notebook that printed its peak
(`public_rows/unsloth_notebooks.csv`) and each run that ran out of memory
(`public_rows/out_of_memory.csv`) is asked for by the shortest natural question: model, method,
rank, batch size, length, GPU. Checkpointing is asked as the run had it, and once more not at all,
since the answer of adapters then takes it for granted. And every bundled model is asked on a T4, an
RTX 4090 and an H100, for the lines that have no number. The answer without a trainer is the loop of
guides; beside it the run's own trainer as guides pass it, the same with the version that its source
publishes, and the bare loop. Of ranges there are the one of all trainers' lines and those that the
answers state, over all that the question leaves open. Nothing is fitted to a row.
Prints the page; `--write` writes it to `results/as_typed.md` with every row in
`results/as_typed.json`. Six minutes on one core; traces nothing.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from benchmarks.pages import page_of, parser_of, table, tell
from benchmarks.public.replay import is_liger_file
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_models, find_gpu, find_model
from lora_profiler.facts.stacks import (
    BARE,
    GUIDE,
    Stack,
    Trainer,
    as_guided,
    find_stack,
    guided_trainers,
)
from lora_profiler.facts.stacks.stack import METHODS
from lora_profiler.planning.guided import Foreseen, asked_of, foresee, guided_lines
from lora_profiler.planning.reserve import held_bytes, reserve_for
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.planning.unknowns import peak_interval
from lora_profiler.question.workload import TrainSetup, Workload

HERE = Path(__file__).resolve().parents[1] / "public_rows"
MARGIN = 0.03
"""What a fully described answer was off by, at each end of the range."""
GPUS = {
    "NVIDIA A100 80GB": "a100_sxm_80gb",
    "NVIDIA A100-SXM4-80GB": "a100_sxm_80gb",
    "NVIDIA A100-SXM4-40GB": "a100_sxm_40gb",
    "NVIDIA A100": "a100_sxm_80gb",
    "NVIDIA L40S": "l40s",
    "NVIDIA A10G 24GB": "a10g",
    "NVIDIA A10G": "a10g",
    "NVIDIA L4": "l4",
    "Tesla T4": "t4",
}
TRAINER_OF = {
    "fms": "transformers",
    "litgpt": "litgpt",
    "peft": "peft-bench",
    "swift": "transformers",
    "torchtune": "torchtune",
    "unsloth": "unsloth",
}
UNSAID, NAMED, VERSIONED = "unsaid", "named", "versioned"
"""Answers: no trainer and checkpointing not asked; the run's own trainer; that of its version."""
GROUPS = ("public", "notebooks", "failed")
PEAKS = {"peak_allocated", "peak_active", "peak_reserved", "max_reserved"}
Row = Mapping[str, str]
Ends = Callable[[Mapping[str, Any]], tuple[int, int] | None]
"""The ends of a row's range, where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`reserved`: the counter has what the allocator took from the driver, not what tensors have.
    `fused`: kernels that no short question names. `version`: of the trainer, as `--trainer` takes
    it, where the source publishes an older one than the newest that is known."""

    id: str
    situation: str
    source: str
    model: str
    method: str
    rank: int | None
    batch_size: int
    seq_len: int
    checkpointing: bool | None
    gpu: str
    measured_bytes: int | None
    reserved: bool
    fused: bool = False
    version: str = ""

    @property
    def options(self) -> dict[str, Any]:
        typed = {"methods": (self.method,), "batch_size": self.batch_size, "seq_len": self.seq_len}
        typed |= {"rank": self.rank} if self.rank else {}
        said = self.checkpointing is not None
        return typed | ({"checkpointing": self.checkpointing} if said else {})


# --- rows as questions ----------------------------------------------------------------------------


def _read(name: str) -> list[Row]:
    with (HERE / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def public_questions() -> Iterator[Question]:
    for row in _read("rows.csv"):
        method = row["method"].partition(" ")[0]
        source = re.split(r"[:\-]", row["id"])[0]
        is_asked = (
            row["n_gpus"] == "1"
            and row["quantity"] in PEAKS
            and method in ("full", "lora", "qlora")
            and source in TRAINER_OF
            and row["model_config"]
            and row["gpu"] in GPUS
            and row["batch"].isdecimal()
        )
        if not is_asked:
            continue
        is_peft = source == "peft"
        yield Question(
            id=f"{row['id']} {row['quantity']}",
            situation=row["situation"],
            source=source,
            model=row["model_config"],
            method=method,
            rank=int(row["rank"]) if row["rank"].isdecimal() else None,
            batch_size=int(row["batch"]),
            seq_len=768 if is_peft else int(row["seq_len"]),
            checkpointing=_is_checkpointed(row["grad_checkpointing"]),
            gpu=GPUS[row["gpu"]],
            measured_bytes=round(float(row["value"]) * 2**30),
            reserved="reserved" in row["quantity"],
            fused="fused" in row["kernels"].lower() or "liger" in row["kernels"].lower(),
            version=_published_version(row),
        )


def _is_checkpointed(stated: str) -> bool | None:
    """What begins with yes, as 'yes+offload', or with no, as 'no (single device)'."""
    word = re.match(r"yes|no", stated)
    return word[0] == "yes" if word else None


def _published_version(row: Row) -> str:
    if row["id"].startswith("fms"):
        return "4.45" if is_liger_file(row) else "4.48"
    return {"litgpt-hub": "0.4", "litgpt-rt": "2023.10"}.get(row["id"].partition(":")[0], "")


def notebook_questions() -> Iterator[Question]:
    """Notebooks of text models; a length that a notebook caps is not that of its samples."""
    for row in _read("unsloth_notebooks.csv"):
        length = row["max_length"] or row["max_seq_length"]
        is_asked = (
            row["trainer"] in ("SFTTrainer", "UnslothTrainer")
            and row["vision"] == "False"
            and "Audio" not in row["file"]
            and length
            and row["per_device_train_batch_size"].isdecimal()
            and row["peak_reserved_gb"]
            and not _steps_of_another_run(row)
        )
        if not is_asked:
            continue
        is_quantized = row["load_in_4bit"] == "True" or "bnb-4bit" in row["model"]
        method = "full" if row["full_finetuning"] == "True" else "qlora" if is_quantized else "lora"
        yield Question(
            id=row["file"],
            situation=row["file"],
            source="unsloth",
            model=row["model"],
            method=method,
            rank=int(row["r"]) if row["r"].isdecimal() and method != "full" else None,
            batch_size=int(row["per_device_train_batch_size"]),
            seq_len=int(length),
            checkpointing=False if row["use_gradient_checkpointing"] == "False" else None,
            version=_unsloth_version(row["unsloth"]),
            gpu=GPUS[row["gpu_name"]],
            measured_bytes=round(float(row["peak_reserved_gb"]) * 2**30),
            reserved=True,
            fused=True,
        )


def _unsloth_version(stated: str) -> str:
    """The version of `unsloth` that is known which is as old as the one that a notebook prints."""
    if stated.startswith("2024"):
        return "2024.10"
    return "2026.4" if stated and stated < "2026.5" else ""


def _steps_of_another_run(row: Row) -> str | None:
    """The micro-batches a step that a notebook's stored output states, where its code has another
    number: the output was copied from another notebook."""
    stated = re.search(r"Gradient Accumulation steps = (\d+)", row["banner"])
    return stated[1] if stated and stated[1] != row["gradient_accumulation_steps"] else None


def failed_questions() -> Iterator[Question]:
    for row in _read("out_of_memory.csv"):
        yield Question(
            id=row["id"],
            situation=row["id"],
            source="fms",
            model=row["model"],
            method=row["method"],
            rank=int(row["rank"]) if row["rank"] else None,
            batch_size=int(row["batch"]),
            seq_len=int(row["seq_len"]),
            checkpointing=True,
            gpu="a100_sxm_80gb",
            measured_bytes=None,
            reserved=False,
            fused=row["framework"] not in ("none", "baseline-peft-bnb", "accelerated-peft-bnb"),
        )


# --- their answers --------------------------------------------------------------------------------


class Answered(NamedTuple):
    """What the question's counter would show, the verdict, and the range of measured peaks that the
    answer states, where it knows one."""

    counted_bytes: int
    verdict: str | None
    low_bytes: int | None = None
    high_bytes: int | None = None


@cache
def answered(question: Question) -> Mapping[str, Answered | str]:
    """By trainer; a refusal in words. "guide" and "bare" are answers without a trainer: today's and
    the loop of the rules."""
    gpu = find_gpu(question.gpu)
    model = find_model(question.model, offline=True)
    options = {**DEFAULTS, **question.options}
    given = set(question.options)
    unsaid = {**DEFAULTS, **{n: v for n, v in question.options.items() if n != "checkpointing"}}
    own = TRAINER_OF[question.source]
    found: dict[str, Answered | str] = {}
    for name, stack, asked, names in (
        (GUIDE, find_stack(GUIDE), options, given),
        (BARE, find_stack(BARE), options, given),
        (UNSAID, find_stack(GUIDE), unsaid, given - {"checkpointing"}),
        (NAMED, _own(own), options, given),
        (VERSIONED, _own(f"{own}@{question.version}" if question.version else own), options, given),
    ):
        try:
            workload = asked_of(stack, model, asked, names, question.method, gpu.platform())
            found[name] = _answered(foresee(workload, gpu), question, stack, names)
        except LoraProfilerError as e:
            found[name] = str(e)
    for line in guided_lines(model, options, given, question.method, workload, gpu):
        found[line.stack.name] = (
            _counted(line.foreseen, question) if line.foreseen else str(line.refusal)
        )
    return found


def _own(name: str) -> Stack:
    """As its guides pass it; of a script that is fixed its own defaults are what runs."""
    stack = find_stack(name)
    return as_guided(stack) if stack.name in guided_trainers() else stack


def _answered(
    foreseen: Foreseen, question: Question, stack: Stack, names: Collection[str]
) -> Answered | str:
    """Beside what is counted, the range as the answer states it; a reserved counter counts what the
    allocator loses at its upper end too."""
    counted = _counted(foreseen, question)
    if isinstance(counted, str):
        return counted
    trainer = Trainer(stack=stack, explicit=frozenset(names))
    likely = peak_interval(foreseen.prediction, trainer, names)
    if likely is None or likely.low_bytes is None or likely.high_bytes is None:
        return counted
    lost = 0
    if question.reserved:
        held = held_bytes(foreseen.prediction)
        lost = reserve_for(find_gpu(question.gpu), likely.high_bytes, held).fragmentation_bytes
    return counted._replace(low_bytes=likely.low_bytes, high_bytes=likely.high_bytes + lost)


def _counted(foreseen: Foreseen, question: Question) -> Answered | str:
    prediction, judged = foreseen.prediction, foreseen.judged
    if not prediction.is_whole:
        return "a lower bound: what its layers keep is not known"
    assert judged is not None
    besides = judged.bound.workspace_bytes
    if question.reserved:
        besides += judged.reserve.fragmentation_bytes
    return Answered(prediction.peak.total_bytes + besides, judged.verdict)


def outcome() -> dict[str, Any]:
    rows = []
    left_out = {
        row["file"]: f"its stored output is of a run with {steps} micro-batches a step"
        for row in _read("unsloth_notebooks.csv")
        if (steps := _steps_of_another_run(row))
    }
    asked = (public_questions(), notebook_questions(), failed_questions())
    for group, questions in zip(GROUPS, asked, strict=True):
        for question in questions:
            if _is_less_than_its_weights(question):
                left_out[question.id] = "its stated peak is less than its 16-bit weights take"
                continue
            try:
                answer = answered(question)
            except LoraProfilerError as e:
                left_out[question.id] = str(e)
                continue
            sizes = [
                a.counted_bytes
                for name in guided_trainers()
                if not isinstance(a := answer[name], str)
            ]
            if isinstance(answer[GUIDE], str) or isinstance(answer[BARE], str) or not sizes:
                left_out[question.id] = next(v for v in answer.values() if isinstance(v, str))
                continue
            rows.append(
                {
                    "group": group,
                    **asdict(question),
                    "guide": answer[GUIDE],
                    "bare": answer[BARE],
                    **{
                        name: None if isinstance(answer[name], str) else answer[name]
                        for name in (UNSAID, NAMED, VERSIONED)
                    },
                    "lines": {name: answer[name] for name in guided_trainers()},
                    "least_bytes": round(min(sizes) * (1 - MARGIN)),
                    "most_bytes": round(max(sizes) * (1 + MARGIN)),
                }
            )
    return {"rows": rows, "left_out": left_out, "lines": lines_without_a_number()}


def _is_less_than_its_weights(question: Question) -> bool:
    if question.measured_bytes is None or question.method == "qlora":
        return False
    return question.measured_bytes < 2 * find_model(question.model, offline=True).num_parameters


CAUSES = {
    "the trainer has no such model": "has no models of type",
    "no causal language model": "trains causal language models",
    "no language model": "reads images",
    "the trainer has the model, not priced": "",
}
"""Why a line is refused, by a pattern of its words; the last is this package's own."""


def lines_without_a_number() -> dict[str, Any]:
    """Lines of all bundled models, methods and trainers on three GPUs, at 1 x 1,024 tokens."""
    given = {"methods", "batch_size", "seq_len"}
    options = {**DEFAULTS, "batch_size": 1, "seq_len": 1024}
    refused: dict[str, Counter[str]] = {cause: Counter() for cause in CAUSES}
    count = bounds = 0
    for entry, key in product(bundled_models(), ("t4", "rtx_4090", "h100_sxm_80gb")):
        model = find_model(entry.id, offline=True)
        on = Workload(model=model, setup=TrainSetup(), platform=find_gpu(key).platform())
        for method in METHODS:
            for line in guided_lines(model, options, given, method, on):
                count += 1
                if line.foreseen is not None:
                    bounds += not line.foreseen.prediction.is_whole
                    continue
                words = str(line.refusal)
                cause = next(c for c, pattern in CAUSES.items() if re.search(pattern, words))
                refused[cause][f"{line.stack.library or line.stack.name}: {model.model_type}"] += 1
    return {"count": count, "bounds": bounds, "refused": refused}


# --- the page -------------------------------------------------------------------------------------


def _errors(rows: Iterable[Mapping[str, Any]], policy: str) -> list[float]:
    return [r[policy][0] / r["measured_bytes"] - 1 for r in rows if r[policy]]


def _policy_cells(rows: Sequence[Mapping[str, Any]], policy: str) -> Iterator[str]:
    errors = _errors(rows, policy)
    by_situation: dict[str, list[float]] = {}
    for row, error in zip([r for r in rows if r[policy]], errors, strict=True):
        by_situation.setdefault(row["situation"], []).append(abs(error))
    yield str(len(errors))
    if not errors:
        yield from "-----"
        return
    yield f"{100 * fmean(map(abs, errors)):.1f}"
    yield f"{100 * fmean(map(fmean, by_situation.values())):.1f}"
    yield f"{100 * median(map(abs, errors)):.1f}"
    yield f"{100 * median(errors):+.1f}"
    yield f"{100 * max(errors, key=abs):+.1f}"


def _range_cells(rows: Sequence[Mapping[str, Any]], ends: Ends) -> Iterator[str]:
    known = [(row["measured_bytes"], *pair) for row in rows if (pair := ends(row)) is not None]
    if not known:
        yield from "---"
        return
    inside = sum(low <= measured <= high for measured, low, high in known)
    yield f"{inside} of {len(known)}"
    yield f"{100 * inside / len(known):.0f} %"
    yield f"x {median(high / low for _, low, high in known):.2f}"


def _stated(row: Mapping[str, Any], policy: str) -> tuple[int, int] | None:
    answer = row[policy]
    return (answer[2], answer[3]) if answer and answer[2] else None


POLICIES = {
    "guide": "no trainer typed (guide)",
    "unsaid": "the same, checkpointing not asked",
    "bare": "the bare loop",
    "named": "the run's own trainer, as guides pass it",
    "versioned": "the same, of the version that its source publishes",
}
RANGES: Mapping[str, Ends] = {
    "all trainers' lines": lambda row: (row["least_bytes"], row["most_bytes"]),
    "stated, no trainer typed": lambda row: _stated(row, "guide"),
    "stated, the run's own trainer": lambda row: _stated(row, NAMED),
}
ERRORS = ">n | >mean abs. | >by situation | >median abs. | >median | >worst"
ROW = (
    "row | method | >measured, GiB | >guide | >own trainer | >its version | >bare | >lines, GiB"
    " | >own range"
)
VERDICTS = ("fits", "tight", "does_not_fit")


def report(document: Mapping[str, Any]) -> str:
    rows, lines = document["rows"], document["lines"]
    public, notebooks, failed = ([r for r in rows if r["group"] == name] for name in GROUPS)
    packed = [r for r in public if "Mixtral" in r["model"]]
    plain = [r for r in public if not r["fused"] and r["source"] != "torchtune" and r not in packed]
    methods = dict.fromkeys(r["method"] for r in plain)
    sets = {
        "all public rows": public,
        "without fused kernels, torchtune and packed experts": plain,
        **{f"of these, {m}": [r for r in plain if r["method"] == m] for m in methods},
        "packed experts (4 bit in transformers 4, 16 bit in 5)": packed,
        "Unsloth's notebooks": notebooks,
    }
    errors = [
        (name, words, *_policy_cells(of, policy))
        for name, of in sets.items()
        for policy, words in POLICIES.items()
    ]
    refused = [
        (name, len(of), *(_count(of, policy, "does_not_fit") for policy in POLICIES))
        for name, of in (("public rows", public), ("notebooks", notebooks))
    ]
    out_of_memory = [
        (words, *(_count(failed, policy, verdict) for verdict in VERDICTS))
        for policy, words in POLICIES.items()
    ]
    fitting = [
        f"{name} {sum(r['lines'][name][1] == 'fits' for r in failed)}"
        for name in guided_trainers()
        if not any(isinstance(r["lines"][name], str) for r in failed)
    ]
    return page_of(
        "What people type, against what they measured",
        "Written by `python -m benchmarks.public.as_typed --write`. Errors are (predicted -"
        " measured) / measured, in %. Peak and BLAS' workspaces are held to allocated peaks, with"
        " fragmentation to reserved ones.",
        table(f"rows | answer | {ERRORS}", errors),
        "A notebook's length is a cap: its samples may be shorter. One has 500,000 tokens, for"
        " which other trainers' attention would hold the scores of all pairs; its run tiled the"
        " MLPs too, which no question says. ms-swift's rows count reserved memory over samples of"
        " many lengths, of which PyTorch reserves more (`rehearsed/many_lengths.py`).",
        "Measured peaks inside a range: of all trainers' lines, with"
        f" {MARGIN:.0%} added at each end; and as the answer states it, over all that the question"
        " leaves open.",
        table("rows | range | >inside | >share | >median width", _ranges(sets)),
        "Runs that finished and are refused:",
        table(f"rows | >n | {' | '.join(f'>{words}' for words in POLICIES.values())}", refused),
        f"{len(failed)} runs that ran out of memory, some with kernels that no question names:",
        table("answer | >said to fit | >may run out | >refused", out_of_memory),
        f"Trainers' lines that say they fit: {', '.join(fitting)}.",
        "## Lines without a number",
        f"{lines['count']:,} lines: every bundled model, method and trainer on a T4, an RTX 4090"
        f" and an H100. {lines['bounds']:,} are lower bounds, of types of models for which neither"
        " rules nor a profile know what the trainer's loop keeps.",
        table("refused since | >lines | of", _refused(lines["refused"])),
        "## Rows",
        table(ROW, map(_cells, rows)),
        "## Left out",
        [f"- {name}: {reason}" for name, reason in document["left_out"].items()],
    )


def _refused(causes: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[object, ...]]:
    for cause, found in causes.items():
        by_trainer: dict[str, list[str]] = {}
        for name in found:
            trainer, _, kind = name.partition(": ")
            by_trainer.setdefault(trainer, []).append(kind)
        of = (f"{trainer}: {', '.join(kinds)}" for trainer, kinds in by_trainer.items())
        yield cause, sum(found.values()), "; ".join(of)


def _count(rows: Iterable[Mapping[str, Any]], policy: str, verdict: str) -> int:
    return sum(r[policy][1] == verdict for r in rows if r[policy])


def _ranges(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, ...]]:
    for name, of in sets.items():
        for words, ends in RANGES.items():
            yield name, words, *_range_cells(of, ends)


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield row["id"]
    yield row["method"]
    measured = row["measured_bytes"]
    yield f"{measured / 2**30:.2f}" if measured else "out of memory"
    for policy in ("guide", "named", "versioned", "bare"):
        answer = row[policy]
        if answer is None:
            yield "-"
        else:
            yield f"{100 * (answer[0] / measured - 1):+.1f} %" if measured else str(answer[1])
    for ends in ((row["least_bytes"], row["most_bytes"]), _stated(row, NAMED)):
        yield f"{ends[0] / 2**30:.1f} to {ends[1] / 2**30:.1f}" if ends else "-"


def main() -> None:
    arguments = parser_of(__doc__, write=False).parse_args()
    document = json.loads(json.dumps(outcome()))
    tell("as_typed", report(document), document, writes=arguments.write)


if __name__ == "__main__":
    main()
