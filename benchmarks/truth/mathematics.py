"""The seven claims of LoRA on SmolLM2-135M with its real weights, trained and measured on
Shakespeare's works.

    python -m benchmarks.truth.mathematics [--claims N,N | --render]

Half an hour of two cores; needs the test extra and the package gguf. --claims checks these anew and
leaves the others as they are; --render writes anew, from the numbers that are there, what is made
of them.

Fetches weights and text as `benchmarks.truth.fetch_inputs` does, runs what `lora-profile verify`
runs, and writes `results/mathematics.json`, and what is made of it: the text
`results/mathematics.md`, and what the dashboard's page Learn draws, which comes with the package.
`python -m benchmarks.truth.reports` makes the report from the JSON.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.pages import parser_of, read_document, write_document, write_page
from benchmarks.truth.fetch_inputs import INPUTS, TEXT, WEIGHTS, FetchError, fetch
from lora_profiler.cli.verify import chosen
from lora_profiler.mathematics.sources import VerifyRequest, open_subject
from lora_profiler.mathematics.subject import effort_for
from lora_profiler.mathematics.verify import verify
from lora_profiler.measuring.harness.environment import environment
from lora_profiler.report import learn
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.claim import Claim
from lora_profiler.report.claims.document import evidence_of, verify_blocks, verify_payload
from lora_profiler.report.progress import shown_checks
from lora_profiler.report.render import markdown

SHOWN = Path(learn.__file__).with_name(learn.FILE)
"""What the page Learn draws."""
_DIGITS = 7
"""Of a number in a chart: as many as it takes to say it to a hundredth of a percent."""
SEED = 0
COMMAND = "python -m benchmarks.truth.mathematics"
TOLERANCES = (
    "Another run from this seed gives equal counts, bytes, FLOPs and verdicts. Other kernels or"
    " threads change losses and shares by up to 0.02, norms and exponents by up to 2 %. Times are"
    " of this machine."
)


def measured(claims: Sequence[Claim]) -> dict[str, Any]:
    weights, text = fetch(WEIGHTS, INPUTS), fetch(TEXT, INPUTS)
    request = VerifyRequest(weights=str(weights), text=text, seed=SEED, offline=True)
    with TemporaryDirectory() as work, shown_checks(len(claims)) as watch:
        subject = open_subject(request, Path(work), watch.prepare())
        checked = verify(
            subject, claims, effort_for(subject.spec.num_parameters, quick=False), SEED, watch
        )
    document = verify_payload(
        subject.spec,
        environment("cpu", command=COMMAND),
        checked,
        weights=subject.weights,
        text=subject.text,
        note=subject.note,
        seed=SEED,
        quick=False,
    )
    return document | {"load_average": round(os.getloadavg()[2], 1), "tolerances": TOLERANCES}


def replaced(before: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """`fresh` with the claims of `before` that it lacks."""
    claims = {claim["id"]: claim for claim in (*before["claims"], *fresh["claims"])}
    in_order = [claims[number] for number in sorted(claims)]
    return fresh | {"claims": in_order, "seconds": sum(claim["seconds"] for claim in in_order)}


def rendered(document: dict[str, Any]) -> dict[str, Any]:
    """The document with all words made anew from its numbers."""
    known = {claim.id: claim for claim in CLAIMS}
    words = [
        claim
        | {"statement": known[claim["id"]].statement, "finding": list(evidence_of(claim).finding)}
        for claim in document["claims"]
    ]
    return document | {"claims": words, "tolerances": TOLERANCES}


def as_markdown(document: dict[str, Any]) -> str:
    head = [
        f"`{COMMAND}`, seed {document['seed']}: {round(document['seconds'])} s by the clock on"
        f" a machine that others used as well (load {document['load_average']}).",
        "",
        document["tolerances"],
        "",
        "",
    ]
    return "\n".join(head) + markdown(verify_blocks(document))


def shown(document: dict[str, Any]) -> str:
    """The text of the file, one claim a line."""
    head = json.dumps(_short(document | {"claims": []}))
    claims = ",\n".join(json.dumps(_short(claim)) for claim in document["claims"])
    return head.replace('"claims": []', f'"claims": [\n{claims}\n]') + "\n"


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def main() -> int:
    options = parser_of(__doc__, render=False, claims="").parse_args()
    if options.render:
        document = rendered(read_document("mathematics"))
    else:
        try:
            document = measured(chosen(options.claims or None))
            if options.claims:
                document = replaced(read_document("mathematics"), document)
        except FetchError as e:
            print(f"mathematics: {e}", file=sys.stderr)
            return 1
    write_document("mathematics", document)
    write_page("mathematics", as_markdown(document))
    SHOWN.write_text(shown(document), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
