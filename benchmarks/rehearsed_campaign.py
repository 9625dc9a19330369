"""What the steps of a campaign request on a simulated GPU, against what was predicted: the same
cases, rehearsed before a GPU is at hand.

    python -m benchmarks.rehearsed_campaign SUITE --python PYTHON [--seconds N]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT and bitsandbytes. Writes
`predictions/SUITE_rehearsed.json`: by the key of each case the requested peak of two steps of the
harness' own loop on a pretended H100, less BLAS' workspaces, which a prediction leaves out, and the
hash of the predictions that it stands beside. What is there is not run again. Ten minutes on two
quiet cores.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.forked_rehearsals import PLENTY_BYTES, ForkedRehearsals
from benchmarks.pages import parser_of
from benchmarks.predictions import HOPPER, PREDICTIONS, digest, read
from lora_profiler.records.locks import write_durably
from lora_profiler.records.serialize import workload_from_dict
from lora_profiler.support.library_memory import WORKSPACES, workspace_bytes

CARD, STEPS = "h100_sxm_80gb", 2


def path_of(suite: str, folder: Path = PREDICTIONS) -> Path:
    return folder / f"{suite}_rehearsed.json"


def rehearsed(suite: str, python: Path, until: float) -> dict[str, Any]:
    """Raises FileNotFoundError for a suite without predictions."""
    found = read(suite)
    if found is None:
        raise FileNotFoundError(f"{suite} has no predictions.")
    path = path_of(suite)
    known: Mapping[str, Any] = json.loads(path.read_text("utf-8"))["cases"] if path.exists() else {}
    cases = dict(known)
    with ForkedRehearsals(python) as rehearsals:
        for case in found["cases"]:
            if case["key"] in cases:
                continue
            if time.monotonic() > until:
                break
            workload = workload_from_dict(case["workload"])
            cases[case["key"]] = _told(rehearsals.run(CARD, workload, PLENTY_BYTES, STEPS))
            write_durably(path, _text(suite, found["sha256"], rehearsals.torch, cases))
    # what was rehearsed before stands beside the predictions as they are now
    write_durably(path, _text(suite, found["sha256"], rehearsals.torch, cases))
    return cases


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    if answer["status"] != "done":
        return {"failed": answer.get("error", answer["status"])}
    workspaces = WORKSPACES * workspace_bytes(HOPPER)
    return {"peak_bytes": answer["requested_bytes"] - workspaces}


def _text(suite: str, beside: str, torch: str, cases: Mapping[str, Any]) -> str:
    body = {"suite": suite, "card": CARD, "torch": torch, "beside": beside, "cases": cases}
    return json.dumps({**body, "sha256": digest(body)}, indent=1) + "\n"


def main() -> int:
    parser = parser_of(__doc__, seconds=float("inf"))
    parser.add_argument("suite")
    parser.add_argument("--python", type=Path, required=True)
    options = parser.parse_args()
    cases = rehearsed(options.suite, options.python, time.monotonic() + options.seconds)
    foretold = {case["key"]: case["peak_bytes"] for case in (read(options.suite) or {})["cases"]}
    done = {key: case["peak_bytes"] for key, case in cases.items() if "peak_bytes" in case}
    equal = sum(foretold[key] == peak for key, peak in done.items())
    print(f"{len(done)} of {len(foretold)} rehearsed, {equal} equal to the byte.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
