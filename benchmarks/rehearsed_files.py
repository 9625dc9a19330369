"""Public files' settings in TRL's own trainers on pretended cards, each steady peak beside what
`lora-profile` says of the same settings.

    python -m benchmarks.rehearsed_files --python PYTHON [--seconds N] [--again]
    trl=REPOSITORY axolotl=REPOSITORY ...

For files whose own framework `rehearsed_frameworks` has not run: a file is read, and what it says
of model, method, adapter, batch, optimizer, checkpoints and formats is handed to SFTTrainer, or to
DPOTrainer where the file is DPO's, with 512 tokens, one micro-batch a step and SDPA. Its kernels,
loss, packing and ranks are not in it. Of files with the same settings the first is run. Each
REPOSITORY is a git repository on this disk as for `benchmarks.trainer_files`; PYTHON is that of
`benchmarks.rehearsed_trainers`. Writes a row of `results/rehearsed_files.jsonl` as each ends, and
`results/rehearsed_files.md`; what is there is not run again. --again predicts all rows anew.
"""

import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.forked_rehearsals import ForkedRehearsals
from benchmarks.rehearsed_frameworks import ROWS as OWN_ROWS
from benchmarks.rows import append_row, parser_of_rows, read_rows, write_rows
from benchmarks.trainer_files import CORPORA, configurations, git
from lora_profiler.catalog import find_gpu, find_model
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import predict, rules_know
from lora_profiler.planning.setups import setup_for
from lora_profiler.platform import Platform, version_of
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import on_model, usual_options
from lora_profiler.workload import Workload

RESULTS = Path(__file__).parent / "results"
ROWS, PAGE = RESULTS / "rehearsed_files.jsonl", RESULTS / "rehearsed_files.md"
CARD, LENGTH = "a100_sxm_80gb", 512
LARGEST = {"full": 2_000_000_000, "lora": 4_000_000_000, "qlora": 9_000_000_000}
"""Parameters of a model that the host has room for while it is loaded."""
LORA = ("rank", "alpha", "dropout", "targets", "modules_to_save", "use_dora")
KEPT = (
    "batch_size",
    "checkpointing",
    "use_reentrant",
    "optimizer",
    "optimizer_impl",
    "dtype",
    "precision",
)
OF_A_BASE = ("double_quant", "quant_type")
OPTIMIZERS = {
    ("adamw", "fused"): "adamw_torch_fused",
    ("adamw", "foreach"): "adamw_torch",
    **{
        (name, impl): name
        for name in ("paged_adamw_8bit", "paged_adamw_32bit", "adafactor", "sgd", "lion_8bit")
        for impl in ("fused", "foreach")
    },
    **{("adamw_8bit", impl): "adamw_bnb_8bit" for impl in ("fused", "foreach")},
}
"""By transformers' names, those that need no other package."""


def questions(name: str, repository: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows without what was found, of the files of a framework that TRL can be asked the like."""
    own = {json.loads(line)["file"] for line in OWN_ROWS.read_text("utf-8").splitlines()}
    commit = git(repository, "rev-parse", "--short=7", "HEAD").decode().strip()
    with tarfile.open(fileobj=BytesIO(git(repository, "archive", "HEAD"))) as archive:
        archive.extractall(folder, filter="data")
    for path in configurations(CORPORA[name], folder):
        address = f"{CORPORA[name].project}@{commit}:{path.relative_to(folder)}"
        if address not in own:
            try:
                yield from question(path, address)
            except LoraProfilerError:
                continue  # a model that is not bundled, or a file that is no question


def question(path: Path, address: str) -> Iterator[dict[str, Any]]:
    file = read_files([path])
    model = find_model(file.model or "no model named", offline=True)
    file = on_model(file, model)
    asked = {**usual_options(file.stack, file.options), **file.options}
    (method,) = asked["methods"]
    names = (*KEPT, *(LORA if method != "full" else ()), *(OF_A_BASE if method == "qlora" else ()))
    options = {name: asked[name] for name in names if asked.get(name) is not None}
    if options.get("optimizer", "adamw") != "adamw":
        options.pop("optimizer_impl", None)
    is_like = (
        model.num_parameters <= LARGEST[method]
        and model.text_side_of is None
        and model.stored is None
        and "images" not in asked
        and asked.get("sharding", "none") in ("none", "ddp")
        and asked.get("peft_type", "lora") == "lora"
        and options.get("precision", "amp") in ("amp", "pure")
        and options.get("quant_type", "nf4") == "nf4"  # the rules know no products in int8
        and _optimizer(options) in OPTIMIZERS
        and not str(options.get("targets", "")).startswith("re:")
    )
    if is_like:
        stack = file.stack if file.stack == "trl-dpo" else "trl-sft"
        row = {"file": address, "trainer": stack, "method": method, "model": model.id}
        yield row | {"options": {**options, "seq_len": LENGTH}}


def _optimizer(options: Mapping[str, Any]) -> tuple[str, str]:
    return options.get("optimizer", "adamw"), options.get("optimizer_impl", "foreach")


def key(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in ("trainer", "method", "model", "options")])


def handed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `rehearsed_trainers_server` gives the trainer."""
    o = row["options"]
    arguments = {
        "per_device_train_batch_size": o["batch_size"],
        "gradient_checkpointing": o["checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": o.get("use_reentrant", False)},
        "optim": OPTIMIZERS[_optimizer(o)],
        "bf16": o["precision"] == "amp",
    }
    lora = None
    if row["method"] != "full":
        targets = o.get("targets", "default")
        lora = {"r": o["rank"], "lora_alpha": o.get("alpha", 2 * o["rank"])}
        lora |= {"lora_dropout": o.get("dropout", 0.0), "use_dora": o.get("use_dora", False)}
        if targets != "default":
            lora["target_modules"] = targets if targets == "all-linear" else targets.split(",")
        if saved := o.get("modules_to_save"):
            lora["modules_to_save"] = saved.split(",")
    base: dict[str, Any] | None = None
    if row["method"] == "qlora":
        base = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        base["bnb_4bit_use_double_quant"] = o.get("double_quant", True)
    asked = {"trainer": row["trainer"], "model": row["model"], "seq_len": o["seq_len"]}
    asked |= {"dtype": o["dtype"], "quantization": base, "lora": lora, "arguments": arguments}
    return asked


def predicted(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        model = find_model(row["model"], offline=True)
        setup = setup_for(model, row["trainer"], row["method"], **row["options"])
        capability, torch = find_gpu(CARD).capability, version_of(row["torch"]) or (0, 0)
        platform = Platform(capability=capability, torch=torch)
        workload = Workload(model=model, setup=setup, platform=platform)
        if not rules_know(workload):
            return {"refused": "its layers are known by traces alone"}
        answer = predict(workload, may_trace=False)
    except LoraProfilerError as error:
        return {"refused": str(error)}
    return {"predicted_bytes": answer.peak.total_bytes, "exactness": answer.exactness}


def counted_bytes(row: Mapping[str, Any]) -> int:
    return int(row["requested_bytes"] - row["workspaces_bytes"])


def error(row: Mapping[str, Any]) -> float:
    return float(row["predicted_bytes"] / counted_bytes(row) - 1)


def run(python: Path, until: float, asked: Sequence[dict[str, Any]], rows: list[Any]) -> None:
    known = {key(row) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        more = {"LORA_PROFILER_RUN": folder, "HF_HUB_CACHE": f"{folder}/hub"}
        server = ForkedRehearsals(
            python,
            find_gpu(CARD),
            "benchmarks.rehearsed_trainers_server",
            {**more, "WANDB_MODE": "disabled"},
        )
        for row in asked:
            if key(row) in known or time.monotonic() > until:
                continue
            known.add(key(row))
            start = time.monotonic()
            found = server.ask(handed(row))
            row |= {"torch": server.torch, "seconds": round(time.monotonic() - start), **found}
            row |= predicted(row)
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
            append_row(ROWS, row)
        server.end()


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    done = [row for row in rows if row["status"] == "done" and "predicted_bytes" in row]
    equal = sum(error(row) == 0 for row in done)
    off = 100 * max((abs(error(row)) for row in done), default=0.0)
    lines = [
        "# Public files' settings, rehearsed in TRL",
        "",
        "`python -m benchmarks.rehearsed_files`: what public files say of model, method, adapter,"
        " batch, optimizer, checkpoints and formats, handed to TRL's own trainers over torch's CUDA"
        f" build on a pretended {CARD}, {LENGTH} tokens, models at full size; the requested peak of"
        " the third step, BLAS workspaces left out, beside what `lora-profile` says of the same."
        " Files are named by address and not kept here. Nothing here was measured on a card.",
        "",
        f"Of {len(done)} files {equal} are equal to the byte; the worst is {off:.2f} % off.",
        "",
        "| file | trainer | method | model | rehearsed | predicted | says | error |",
        "| --- | --- | --- | --- | ---: | ---: | --- | ---: |",
    ]
    for row in sorted(done, key=lambda row: -abs(error(row))):
        told = [row[name] for name in ("file", "trainer", "method", "model")]
        sizes = f"{counted_bytes(row):,} | {row['predicted_bytes']:,}"
        end = f"{row['exactness']} | {100 * error(row):+.4f} %"
        lines.append(f"| {' | '.join(told)} | {sizes} | {end} |")
    if others := [row for row in rows if row not in done]:
        lines += ["", "## What did not run, or is not predicted", ""]
        lines += [f"- {r['file']}: {r.get('error') or r.get('refused')}" for r in others]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of_rows(__doc__)
    parser.add_argument("repositories", nargs="*")
    options = parser.parse_args()
    rows = read_rows(ROWS)
    if options.again:
        said = ("predicted_bytes", "exactness", "refused")
        rows = [{n: v for n, v in row.items() if n not in said} for row in rows]
        rows = [row | predicted(row) for row in rows]
        write_rows(ROWS, rows)
    else:
        asked = []
        for argument in options.repositories:
            name, _, repository = argument.partition("=")
            with tempfile.TemporaryDirectory() as folder:
                asked += questions(name, repository, Path(folder))
        print(len({key(row) for row in asked}), "to ask", file=sys.stderr, flush=True)
        run(options.python, time.monotonic() + options.seconds, asked, rows)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
