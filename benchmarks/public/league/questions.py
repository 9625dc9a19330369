"""The public rows as every estimator is asked: what was run, in words that none of them owns.

A row is asked where its peak is held to something (tier 1 and 2), its length is published, and its
model has a config.json in the catalogue, which all are given. The others nobody is asked, for the
reason that is told.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.public import conditions
from benchmarks.public.address import address
from benchmarks.public.conditions import FUSED_LINEAR, source_of
from benchmarks.public.replay import ROWS
from lora_profiler.facts.catalog import find_model

Row = Mapping[str, str]
Quantity = Literal["allocated", "reserved"]
QUANTITIES: dict[str, Quantity] = {
    "peak_allocated": "allocated",
    "peak_active": "allocated",
    "peak_reserved": "reserved",
    "max_reserved": "reserved",
}
GIB = 2**30
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = {
    "": (),
    "q,v": ("q_proj", "v_proj"),
    "q_proj k_proj v_proj o_proj": ATTENTION,
    "all (q k v o gate up down)": (*ATTENTION, *MLP),
    "DEFAULT (attention qkv; c_attn for qwen)": ATTENTION[:3],
}
CARDS = {
    "NVIDIA A100 80GB": 80,
    "NVIDIA A100": 80,
    "NVIDIA A100-SXM4-40GB": 40,
    "RTX 3090 (280W)": 24,
    "RTX 4090 (400W)": 24,
}
"""Memory of a card, in GB as it is sold."""
TORCHTUNE_COMPILED = 2
"""From this row of torchtune's table on, layers and loss are compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One published peak of one card, and what ran.

    `config` is the model's config.json, `parameters` of the base model, `trainable` of what is
    trained. `targets` name the linear layers that adapters of rank `rank` are on. `weights` is the
    format that the base model's weights are kept in before 4-bit quantisation. `sharding` is fsdp
    where `cards` share the weights. `is_plain` where the libraries' own kernels and loss ran; with
    other kernels `loss` says whose. `apart` is why our replay is not graded on the row, else "".
    """

    id: str
    quantity: Quantity
    source: str
    url: str
    tier: int
    apart: str
    stack: str
    is_plain: bool
    measured_bytes: int
    model: str
    config: Mapping[str, Any]
    parameters: int
    trainable: int
    method: Literal["full", "lora", "qlora"]
    rank: int | None
    targets: tuple[str, ...]
    double_quant: bool
    weights: Literal["bf16", "fp32"]
    loss: Literal["plain", "triton", "liger", "chunked"]
    optimizer: Literal["adamw", "adamw_8bit"]
    batch_size: int
    seq_len: int
    checkpointing: bool
    attention: Literal["flash_attention_2", "sdpa"]
    sharding: Literal["none", "ddp", "fsdp"]
    cards: int
    card: str
    card_gib: int

    @property
    def key(self) -> str:
        return f"{self.id} {self.quantity}"

    def asked(self) -> dict[str, Any]:
        """What an estimator is told: all but what was measured."""
        fields = asdict(self)
        del fields["measured_bytes"]
        return fields


def peak_rows() -> list[Row]:
    with ROWS.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["quantity"] in QUANTITIES]


def unasked(row: Row) -> str:
    """Why nobody is asked for a row, or ""."""
    if row["tier"] == "3":
        return "direction only: conditions are missing"
    if not row["seq_len"]:
        return "the longest batch is not published"
    if not row["model_config"]:
        return "its model has no config.json in the catalogue"
    if row["method"].partition(" ")[0] not in ("full", "lora", "qlora"):
        return f"{row['method']}: another method"
    return ""


def questions() -> list[Question]:
    return [question(row) for row in peak_rows() if not unasked(row)]


def question(row: Row) -> Question:
    model = find_model(row["model_config"], offline=True, on_disk=False)
    config = dict(model.published)
    method = row["method"].partition(" ")[0]
    rank = int(row["rank"]) if method != "full" else None
    targets = ("c_attn",) if rank and "n_embd" in config else _targets(row["target_modules"])
    source = source_of(row)
    is_plain, loss, stack = _ran(row)
    assert method in ("full", "lora", "qlora")
    return Question(
        id=row["id"],
        quantity=QUANTITIES[row["quantity"]],
        source=source,
        url=address(row["source"]),
        tier=int(row["tier"]),
        apart=_apart(row),
        stack=stack,
        is_plain=is_plain,
        measured_bytes=round(float(row["value"]) * GIB),
        model=row["model_config"],
        config=config,
        parameters=model.num_parameters,
        trainable=(
            model.num_parameters
            if rank is None
            else rank * sum(_widths(config, name) for name in targets) * model.num_layers
        ),
        method=method,
        rank=rank,
        targets=targets,
        double_quant=method == "qlora"
        and ("double-quant" in row["method"] or "dq" in row["method"]),
        weights="fp32" if row["weight_dtype"].startswith("fp32") else "bf16",
        loss=loss,
        optimizer="adamw_8bit" if "8-bit" in row["optimizer"] else "adamw",
        batch_size=int(row["batch"]),
        seq_len=int(row["seq_len"]),
        checkpointing=row["grad_checkpointing"].startswith("yes"),
        attention="flash_attention_2" if row["attention"] == "flash_attention_2" else "sdpa",
        sharding=_sharding(row["parallelism"]),
        cards=int(row["n_gpus"]),
        card=row["gpu"],
        card_gib=CARDS[row["gpu"]],
    )


def _targets(published: str) -> tuple[str, ...]:
    return TARGETS[published.removesuffix(" c_attn")]


def _widths(config: Mapping[str, Any], name: str) -> int:
    """Inputs and outputs of a linear layer: what a rank of its adapter has parameters of."""
    if name == "c_attn":  # one head of keys and values
        hidden = config["n_embd"]
        return hidden + hidden + 2 * hidden // config["n_head"]
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    return {"q_proj": 2 * hidden, "o_proj": 2 * hidden}.get(
        name, hidden + (wide if name in MLP else keys)
    )


def _sharding(parallelism: str) -> Literal["none", "ddp", "fsdp"]:
    if "FULL_SHARD" in parallelism:
        return "fsdp"
    return "ddp" if "NO_SHARD" in parallelism else "none"


def _ran(row: Row) -> tuple[bool, Literal["plain", "triton", "liger", "chunked"], str]:
    """Whether the libraries' own kernels ran, whose loss, and the stack's name."""
    source, kernels = source_of(row), row["kernels"]
    if source == "torchtune-flags":
        if int(row["id"].split(":")[1]) < TORCHTUNE_COMPILED:
            return True, "plain", "torchtune"
        return False, "chunked", "torchtune, compiled, and more"
    if source != "fms":
        names = {"litgpt-rt": "LitGPT", "fsdp_qlora": "bare loop", "swift": "ms-swift"}
        return True, "plain", names[source]
    special = {"Mixtral": ", experts", "santacoder": ", santacoder"}
    kind = next((words for name, words in special.items() if name in row["model"]), "")
    if kernels in FUSED_LINEAR:
        return False, "liger", f"Trainer, Liger's kernels{kind}"
    if kernels in (conditions.STOCK, conditions.NF4):
        return True, "plain", f"Trainer{kind}"
    if kernels == conditions.NF4_KBIT:
        return True, "plain", f"Trainer, k-bit preparation{kind}"
    return False, "triton", f"Trainer, Triton's kernels{kind}"


def _apart(row: Row) -> str:
    if "santacoder" in row["model"]:
        return "a rule of the replay was read off these rows"
    return "reserved bytes are a range" if "reserved" in row["quantity"] else ""


def never_asked() -> Iterator[tuple[str, str]]:
    """Ids and reasons of the peaks that nobody is asked for."""
    for row in peak_rows():
        reason = unasked(row)
        if reason:
            yield f"{row['id']} {row['quantity']}", reason
