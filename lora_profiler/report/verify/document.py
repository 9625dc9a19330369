"""What `verify` found, as the JSON of the command line and as text. The schema lies beside this
file; no torch is needed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lora_profiler.mathematics.claim import Checked
from lora_profiler.model_spec import ModelSpec
from lora_profiler.records.record import Device, Environment
from lora_profiler.report.blocks import Block, Row, Table, heading, paragraph
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.report.measurements import environment_line
from lora_profiler.report.verify.headlines import headline
from lora_profiler.report.verify.tables import claim_tables
from lora_profiler.units import seconds_text, short_count_text

SCHEMA_VERSION = "1.0"


def verify_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `verify --format json` prints."""
    from importlib.resources import files

    schema: dict[str, Any] = json.loads(
        files("lora_profiler.report").joinpath("verify.schema.json").read_text("utf-8")
    )
    return schema


def verify_payload(
    spec: ModelSpec,
    environment: Environment,
    checked: Sequence[Checked],
    *,
    weights: str,
    text: str,
    note: str | None,
    seed: int,
    quick: bool,
) -> dict[str, Any]:
    """The whole document. Numbers that are none, as where a broken layer puts out nothing finite,
    are null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "id": spec.id,
            "model_type": spec.model_type,
            "source": spec.source if spec.source in ("bundled", "hub") else "local",
            "num_layers": spec.num_layers,
            "num_parameters": spec.num_parameters,
            "weights": weights,
            "text": text,
            "note": note,
        },
        "environment": asdict(environment),
        "seed": seed,
        "quick": quick,
        "seconds": sum(each.seconds for each in checked),
        "claims": [_claim(each) for each in checked],
    }


def _claim(checked: Checked) -> dict[str, Any]:
    claim, finding = checked.claim, checked.finding
    return {
        "id": claim.id,
        "title": claim.title,
        "statement": claim.statement,
        "verdict": finding.verdict,
        "must_hold": claim.must_hold,
        "seconds": checked.seconds,
        "finding": list(finding.sentences),
        "evidence": _finite(finding.evidence),
    }


def _finite(value: Any) -> Any:
    """`value` in JSON's own types."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- text -----------------------------------------------------------------------------------------


def verify_blocks(document: Mapping[str, Any]) -> list[Block]:
    """A document of `verify_payload`, fresh or read from a file, as text: what was looked at, a row
    for each claim, then each claim with its tables and sentences.
    """
    blocks: list[Block] = [
        heading(f"{document['model']['id']}: the mathematics of LoRA"),
        paragraph(*subject_lines(document)),
    ]
    if document["model"]["note"]:
        blocks.append(paragraph(f"! {document['model']['note']}"))
    blocks += [
        _summary(document["claims"]),
        paragraph("* must hold exactly: where it fails, the exit code is 1."),
    ]
    for claim in document["claims"]:
        blocks += claim_blocks(claim)
    return blocks


def claim_blocks(claim: Mapping[str, Any]) -> list[Block]:
    """One claim of the document: its verdict, what it says, tables and sentences."""
    return [
        heading(f"{claim['id']}. {claim['title']}: {CLAIM_VERDICT_LABELS[claim['verdict']]}"),
        paragraph(claim["statement"]),
        *claim_tables(claim),
        paragraph(*(f"- {sentence}" for sentence in claim["finding"])),
    ]


def subject_lines(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What was looked at, how much was done, and with what."""
    model = document["model"]
    environment = Environment(
        **{**document["environment"], "device": Device(**document["environment"]["device"])}
    )
    effort = "a quick run" if document["quick"] else "a full run"
    return (
        (
            f"{model['model_type']}, {model['num_layers']} layers,"
            f" {short_count_text(model['num_parameters'])} parameters; weights: {model['weights']};"
            f" text: {model['text']}"
        ),
        f"{effort}, {seconds_text(document['seconds'])}, seed {document['seed']}",
        environment_line(environment),
    )


def _summary(claims: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        Row(
            cells=(
                f"{claim['id']}{'*' if claim['must_hold'] else ''}",
                claim["title"],
                CLAIM_VERDICT_LABELS[claim["verdict"]],
                headline(claim),
                seconds_text(claim["seconds"]),
            ),
            kind="peak" if claim["verdict"] == "fails" else "plain",
        )
        for claim in claims
    ]
    return Table(columns=("", "claim", "verdict", "in numbers", "took"), rows=tuple(rows), left=4)
