"""Public rows as a user asks for them: a command of options, and what of the run those do not say.

Nothing is replayed here. What is not said was written down by what ran, before any error was seen:
another version of a library makes a description near, kernels and model code that no option names
make it none. Words that came later, in sight of their rows: `--loss plain` of torchtune's runs
without chunks, when `--trainer torchtune` began to bring chunks; and where options began to name
them, the versions, kernels, kind of checkpointing and of FSDP that the source publishes, and the
targets that fsdp_qlora's own script has.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.public import conditions
from benchmarks.public.conditions import (
    FUSED,
    FUSED_ADAPTERS,
    FUSED_LINEAR,
    NotExpressibleError,
    Row,
    source_of,
)
from benchmarks.public.memory import memory_row
from benchmarks.public.replay import FSDP_QLORA_TARGETS, is_liger_file

Description = Literal["exactly", "nearly", "not"]


@dataclass(frozen=True, slots=True)
class Typed:
    """`words` behind `lora-profile`; `near` is of other versions of a library, `unsaid` of what no
    option names. `of_first_step`: the run's longest sample came first, so that its peak is that of
    step 1 in the answer's own table of moments, before gradients and states are there."""

    words: tuple[str, ...]
    near: tuple[str, ...]
    unsaid: tuple[str, ...]
    of_first_step: bool = False

    @property
    def description(self) -> Description:
        return "not" if self.unsaid else "nearly" if self.near else "exactly"


def typed(row: Row) -> Typed:
    """Raises NotExpressibleError for rows that are not replayed either, and for models that no id
    names."""
    memory_row(row)
    if not row["model_config"]:
        raise NotExpressibleError(f"{row['model']} is no model of the catalogue")
    return as_typed(row)


def as_typed(row: Row) -> Typed:
    """Of a row whose model the catalogue has, replayed or not."""
    source = source_of(row)
    words, near, unsaid = {
        "fms": _fms,
        "litgpt-rt": _litgpt,
        "torchtune-flags": _torchtune,
        "fsdp_qlora": _fsdp_qlora,
        "swift": _swift,
    }[source](row)
    sizes = ["--batch-size", row["batch"], "--seq-len", row["seq_len"]]
    method = row["method"].partition(" ")[0]
    rank = [] if method == "full" else ["--rank", row["rank"]]
    return Typed(
        (row["model_config"], "--method", method, *sizes, *rank, *words),
        tuple(near),
        tuple(unsaid),
        of_first_step=source == "litgpt-rt",  # `finetune/lora.py` takes it into its first batch
    )


Parts = tuple[list[str], list[str], list[str]]


def _fms(row: Row) -> Parts:
    kernels, liger_file = row["kernels"], is_liger_file(row)
    sharded = row["parallelism"] != "none"
    wide = sharded and row["compute_dtype"] == "bf16 autocast"
    version = "4.45" if liger_file else "4.48"  # refs/requirements.txt beside each file
    words = ["--trainer", f"transformers@{version}", "--checkpointing"]
    words += ["--attention", "flash_attention_2"]
    words += ["--optimizer-impl", "foreach", "--dtype", "float32" if wide else "bfloat16"]
    words += ["--precision", "amp" if row["compute_dtype"] == "bf16 autocast" else "pure"]
    if row["method"] != "full":
        targets = "c_attn" if "santacoder" in row["model"] else "q_proj,k_proj,v_proj,o_proj"
        words += ["--targets", targets, "--dropout", "0.1"]
    if row["method"].startswith("qlora"):
        words += ["--double-quant"]
    if sharded:
        words += ["--sharding", "fsdp1-no-prefetch"]
        words += ["--world-size", row["n_gpus"]]
    if kernels == conditions.NF4_KBIT:
        words += ["--recipe", "kbit-norms"]
    if kernels in FUSED_LINEAR:
        words += ["--loss", "fused"]
    if kernels in (conditions.TRITON, conditions.NF4_TRITON):
        words += ["--loss", "triton"]
    if kernels in FUSED:
        words += ["--kernels", "foak"]
    if kernels in FUSED_ADAPTERS:
        words += ["--fast-lora"]
    return words, [], []


def _litgpt(row: Row) -> Parts:
    words = ["--trainer", "litgpt@2023.10", "--dtype", "bfloat16", "--precision", "pure"]
    words += ["--adapter-dtype", "bfloat16", "--attention", "flash"]
    if row["method"].startswith("qlora"):
        words += ["--double-quant" if "dq" in row["method"] else "--no-double-quant"]
    return words, [], []


def _torchtune(row: Row) -> Parts:
    flag = int(row["id"].split(":")[1])
    words = ["--trainer", "torchtune", "--attention", "flash"]
    words += ["--checkpointing" if flag >= 4 else "--no-checkpointing"]
    unsaid = ["compiled layers and loss"] * (flag >= 2) + ["the update in backward"] * (flag >= 5)
    unsaid += ["checkpoints in host memory"] * (flag >= 6)
    words += ["--optimizer", "adamw_8bit"] * (flag == 7)
    words += ["--loss", "plain"] * (flag < 3)  # the table's third row is the first of chunks
    return words, ["torchtune's own model: norms and rotation in float32"], unsaid


def _fsdp_qlora(row: Row) -> Parts:
    words = ["--trainer", "loop", "--transformers", "4.45", "--hold-outputs"]
    words += ["--attention", "flash", "--checkpointing", "--use-reentrant"]
    words += ["--targets", ",".join(FSDP_QLORA_TARGETS)]
    words += ["--adapter-dtype", "bfloat16", "--dropout", "0.1"]
    near = ["transformers of early 2024, asked for as 4.45"]
    if "FULL_SHARD" in row["parallelism"]:
        near.append("FSDP with a unit for each matrix of an adapter")
    sharding = "fsdp1" if "FULL_SHARD" in row["parallelism"] else "ddp"
    words += ["--sharding", sharding, "--world-size", row["n_gpus"]]
    return words, near, []


def _swift(row: Row) -> Parts:
    words = ["--trainer", "transformers", "--checkpointing", "--attention", "flash"]
    words += ["--dtype", "bfloat16", "--precision", "amp", "--dropout", "0.05"]
    words += ["--targets", "q_proj,k_proj,v_proj"]
    return words, ["transformers of early 2024"], ["texts of random length"]


def pinned(row: Row) -> tuple[str, ...]:
    """The words of `typed`, and of what these leave to the trainer's default those that the answer
    would name as unknown, as the source publishes them. Raises NotExpressibleError as `typed`, and
    for a run that options do not describe."""
    if source_of(row) not in _PINS:
        raise NotExpressibleError(f"what ran of {source_of(row)} was not written down as options")
    question = typed(row)
    if question.unsaid:
        raise NotExpressibleError(f"no option says {question.unsaid[0]}")
    words, given = list(question.words), {w for w in question.words if w.startswith("--")}
    for flag, value in _PINS[source_of(row)].items():
        if flag not in given and (flag != "--recipe" or "qlora" in words):
            words += [flag, value]
    return tuple(words)


_PINS: dict[str, dict[str, str]] = {
    "fms": {"--kernels": "transformers", "--loss": "plain", "--recipe": "stock", "--padding": "0"},
    "litgpt-rt": {"--padding": "0"},
    "torchtune-flags": {"--padding": "0"},
    "fsdp_qlora": {
        "--kernels": "transformers",
        "--loss": "plain",
        "--precision": "pure",
        "--optimizer-impl": "foreach",
        "--padding": "0",
    },
    "swift": {},
}
