"""What comes with the package of this project's own rows: `lora_profiler/facts/evidence/data`, a
list a row, as `lora_profiler.facts.evidence.documents` reads it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_profiler.facts.evidence import OwnKind, OwnRow

DATA = Path(__file__).parents[1] / "lora_profiler" / "facts" / "evidence" / "data"


def own_document(rows: Iterable[OwnRow]) -> dict[str, Any]:
    return {"columns": list(OwnRow._fields), "rows": [list(row) for row in rows]}


def write_rows(kind: OwnKind, document: Mapping[str, Any]) -> None:
    """A row a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in document["rows"])
    rest = {name: value for name, value in document.items() if name != "rows"}
    head = json.dumps(rest, indent=1)[:-2]
    (DATA / f"{kind}.json").write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', "utf-8")
