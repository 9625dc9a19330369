"""Public files' settings in TRL's own trainers on simulated GPUs, each steady peak against `lora-
profile` with the same settings.

    python -m benchmarks.rehearsed.files --python PYTHON [--seconds N] [--again]
    trl=REPOSITORY axolotl=REPOSITORY ...

For files whose own framework `rehearsed.frameworks` has not run: a file is read, and what it says
of model, method, adapter, batch, optimizer, checkpoints and formats is handed to SFTTrainer, or to
DPOTrainer where the file is DPO's, with 512 tokens, one micro-batch a step and SDPA. Its kernels,
loss, packing and ranks are not in it. Of files with the same settings the first is run. Each
REPOSITORY is a git repository on this disk as for `benchmarks.public.trainer_files`; PYTHON is that
of `benchmarks.rehearsed.trainers`. Writes a row of `results/rehearsed_files.jsonl` as each ends,
and `results/rehearsed_files.md`; what is there is not run again. --again predicts all rows anew.
"""

import json
import tarfile
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.pages import page_of
from benchmarks.public.trainer_files import CORPORA, configurations, git
from benchmarks.questions import workload_on
from benchmarks.rehearsed import frameworks as rehearsed_frameworks
from benchmarks.rehearsed.forked import ForkedRehearsals
from benchmarks.rehearsed.peaks import Family, compared, predicted, predicted_anew
from benchmarks.rows import Row, read_rows
from benchmarks.runner import Asked, Rows
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_model
from lora_profiler.planning.engine import rules_know
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.workload import Workload
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import on_model, usual_options

FAMILY = Family(
    name="rehearsed_files",
    heads="file | trainer | method | model",
    cells=lambda row: [row[name] for name in ("file", "trainer", "method", "model")],
    named=lambda row: str(row["file"]),
)
CARD, LENGTH = "a100_sxm_80gb", 512
LARGEST = {"full": 2_000_000_000, "lora": 4_000_000_000, "qlora": 9_000_000_000}
"""Parameters of a model that the host has room for while it is loaded."""
LORA = ("rank", "alpha", "dropout", "targets", "modules_to_save", "use_dora")
KEPT = (
    "batch_size", "checkpointing", "use_reentrant", "optimizer", "optimizer_impl", "dtype",
    "precision",
)  # fmt: skip
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
    own = {row["file"] for row in read_rows(rehearsed_frameworks.FAMILY.rows)}
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


def workload(row: Row) -> Workload:
    """Raises LoraProfilerError, also where no rule describes the layers."""
    model = find_model(row["model"], offline=True)
    setup = setup_for(model, row["trainer"], row["method"], **row["options"])
    asked = workload_on(model, setup, CARD, row["torch"])
    if not rules_know(asked):
        raise LoraProfilerError("its layers are known by traces alone")
    return asked


def told(row: Row) -> dict[str, Any]:
    found = predicted(partial(workload, row))
    return {name: value for name, value in found.items() if name != "error_bound"}


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    rows: list[dict[str, Any]] = []
    for argument in options.repositories:
        name, _, repository = argument.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            rows += questions(name, repository, Path(folder))
    with ForkedRehearsals(options.python, "trainers_server", with_hub=True) as rehearsals:

        def made(row: dict[str, Any]) -> dict[str, Any]:
            start = time.monotonic()
            found = rehearsals.ask(CARD, handed(row))
            row |= {"torch": rehearsals.torch, "seconds": round(time.monotonic() - start), **found}
            return row | told(row)

        yield ({key(row): row for row in reversed(rows)}.items(), made)


def page(rows: Sequence[Row]) -> str:
    errors = [FAMILY.error(row) for row in compared(rows)]
    off = 100 * max(map(abs, errors), default=0.0)
    return page_of(
        "Public files' settings, rehearsed in TRL",
        "`python -m benchmarks.rehearsed.files`: what public files say of model, method, adapter,"
        " batch, optimizer, checkpoints and formats, handed to TRL's own trainers over torch's CUDA"
        f" build on a pretended {CARD}, {LENGTH} tokens, models at full size; the requested peak of"
        " the third step, BLAS workspaces left out, beside what `lora-profile` says of the same."
        " Files are named by address and not kept here. Nothing here was measured on a card.",
        f"Of {len(errors)} files {errors.count(0)} are equal to the byte; the worst is {off:.2f} %"
        " off.",
        FAMILY.every_run(rows),
        *FAMILY.others(rows),
    )


def again(row: Row) -> dict[str, Any]:
    return predicted_anew(row, told(row))


BENCHMARK = Rows(text=__doc__, name=FAMILY.name, page=page, key=key, again=again)

if __name__ == "__main__":
    BENCHMARK.main(asked, repositories={"nargs": "*"})
