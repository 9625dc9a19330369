"""What `verify` found, as the JSON of the command line, with its schema, and as text; no torch is
needed."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, TypedDict

from lora_profiler.measuring.records.record import Device, Environment
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.report.blocks import (
    Block,
    Paragraph,
    Sign,
    Table,
    VerdictLine,
    dim,
    heading,
    paragraph,
    table,
)
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.claim import Chart, Checked, Evidence, Verdict
from lora_profiler.report.json import SCHEMA_VERSION, part
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.report.measured.measurements import environment_line
from lora_profiler.report.terminal import SIGNS
from lora_profiler.units import seconds_text, short_count_text

Source = Literal["bundled", "hub", "local"]


class CheckedModel(TypedDict):
    """`note` is what must be known of a model that nobody asked for."""

    id: str
    model_type: str
    source: Source
    num_layers: int
    num_parameters: int
    weights: str
    text: str
    note: str | None


class CheckedClaim(TypedDict):
    """`finding` is in words, `evidence` in numbers; its type goes with `id`."""

    id: int
    title: str
    statement: str
    verdict: Verdict
    must_hold: bool
    seconds: float
    finding: list[str]
    evidence: Mapping[str, Any]


class VerifyDocument(TypedDict):
    """What a check of each claim found. Shares are fractions of 1; what was not measured, or came
    to nothing finite, is null. New keys may be added under the same schema_version. `environment`
    is as in a record."""

    schema_version: Literal["1.0"]
    model: CheckedModel
    environment: Mapping[str, Any]
    seed: int
    quick: bool
    seconds: float
    claims: list[CheckedClaim]


def verify_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `verify --format json` prints, from the types above and
    those of the claims."""
    import msgspec

    (document, *evidence), definitions = msgspec.json.schema_components(
        [VerifyDocument, *(claim.evidence for claim in CLAIMS)], ref_template="#/$defs/{name}"
    )
    definitions["CheckedClaim"]["allOf"] = [
        {
            "if": {"properties": {"id": {"const": claim.id}}},
            "then": {"properties": {"evidence": kind}},
        }
        for claim, kind in zip(CLAIMS, evidence, strict=True)
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lora-profile verify --format json",
        **document,
        "$defs": definitions,
    }


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
) -> VerifyDocument:
    """The whole document; what is no finite number, as of a broken layer, is null."""
    return part(
        VerifyDocument,
        schema_version=SCHEMA_VERSION,
        model=part(
            CheckedModel,
            spec,
            # a folder is private: no path of it
            source=spec.source if spec.source in ("bundled", "hub") else "local",
            weights=weights,
            text=text,
            note=note,
        ),
        environment=_plain(asdict(environment)),
        seed=seed,
        quick=quick,
        seconds=sum(claim.seconds for claim in checked),
        claims=[
            part(CheckedClaim, each, each.claim, each.evidence, evidence=_plain(each.evidence))
            for each in checked
        ],
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        values = [(field, getattr(value, field.name)) for field in fields(value)]
        own = [(f.name, item) for f, item in values if item is not None or f.default is not None]
        return {name: _plain(item) for name, item in own}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evidence_of(claim: Mapping[str, Any]) -> Evidence:
    """Of a claim of the document, fresh or read from a file. Raises msgspec.ValidationError, with
    the place, for what is not of its shape."""
    import msgspec

    kind = next(known.evidence for known in CLAIMS if known.id == claim["id"])
    return msgspec.convert(claim["evidence"], kind)


def grouped_charts(document: Mapping[str, Any]) -> dict[str, list[Chart]]:
    """The charts that its claims have numbers for, by heading, in the order of the claims."""
    groups: dict[str, list[Chart]] = {}
    for claim in document["claims"]:
        for chart in evidence_of(claim).charts():
            groups.setdefault(chart.heading, []).append(chart)
    return groups


# --- text -----------------------------------------------------------------------------------------


def verify_blocks(document: Mapping[str, Any]) -> list[Block]:
    """A document of `verify_payload`, fresh or read from a file, as text: what was looked at, a row
    for each claim, then each claim with its tables and sentences."""
    blocks: list[Block] = [_verdict(document)]
    if document["model"]["note"]:
        blocks.append(paragraph(f"! {document['model']['note']}"))
    blocks += [
        claims_table(document),
        dim("* must hold exactly; else the exit code is 1.", *subject_lines(document)),
    ]
    for claim in document["claims"]:
        blocks += claim_blocks(claim)
    return blocks


def claims_table(document: Mapping[str, Any]) -> Table:
    """A row for each claim: its verdict, and the sentence with the numbers that say most."""
    return table(
        document["claims"],
        (
            ("", lambda claim: SIGNS[_CLAIM_SIGNS[claim["verdict"]]]),
            ("", lambda claim: f"{claim['id']}{'*' if claim['must_hold'] else ''}"),
            ("claim", lambda claim: claim["title"]),
            ("finding", lambda claim: claim["finding"][0]),
            ("took", lambda claim: seconds_text(claim["seconds"])),
        ),
        left=4,
        kind=lambda claim: "peak" if claim["verdict"] == "fails" else "plain",
    )


_CLAIM_SIGNS: Mapping[Verdict, Sign] = {
    "holds": "fits",
    "holds_partly": "tight",
    "fails": "does_not_fit",
}


def _verdict(document: Mapping[str, Any]) -> VerdictLine:
    """'6 of 7 claims hold on SmolLM2-135M; 1 holds in part.'"""
    claims, model = document["claims"], document["model"]["id"].rpartition("/")[2]
    counts = Counter(claim["verdict"] for claim in claims)
    holding, every = counts["holds"], len(claims)
    noun = "claim" if every == 1 else "claims"
    words = f"{holding} of {every} {noun} {'holds' if every == 1 else 'hold'} on {model};"
    partly, failed = counts["holds_partly"], counts["fails"]
    others = [f"{partly} {'hold' if partly > 1 else 'holds'} in part"] if partly else []
    others += [f"{failed} fail{'s' * (failed == 1)}"] if failed else []
    sign: Sign = "fits" if holding == every else "does_not_fit" if failed else "tight"
    exact = [claim for claim in claims if claim["must_hold"]]
    broken = sum(claim["verdict"] != "holds" for claim in exact)
    must = f"{len(exact) - broken} of {len(exact)} exact ones hold" if exact else "none is exact"
    return VerdictLine(sign=sign, words=words, rest=f" {', '.join((*others, must))}.")


def claim_blocks(claim: Mapping[str, Any]) -> list[Paragraph | Table]:
    """One claim of the document: its verdict, what it says, tables and sentences."""
    return [
        heading(f"{claim['id']}. {claim['title']}: {CLAIM_VERDICT_LABELS[claim['verdict']]}"),
        paragraph(claim["statement"]),
        *evidence_of(claim).tables(),
        paragraph(*(f"- {sentence}" for sentence in claim["finding"])),
    ]


def subject_lines(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What was looked at, how much was done, and with what."""
    model = document["model"]
    environment = Environment(
        **{**document["environment"], "device": Device(**document["environment"]["device"])}
    )
    effort = "a quick run" if document["quick"] else "a full run"
    size = f"{model['num_layers']} layers, {short_count_text(model['num_parameters'])} parameters"
    return (
        f"{model['model_type']}, {size}; weights: {model['weights']}; text: {model['text']}",
        f"{effort}, {seconds_text(document['seconds'])}, seed {document['seed']}",
        environment_line(environment),
    )
