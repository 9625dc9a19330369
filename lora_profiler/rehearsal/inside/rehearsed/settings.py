"""What this run is asked, from the environment."""

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """`folder`: where results go. `models`: the catalogue's configs, as JSON. `snapshot`: a file
    for torch's memory_viz. `columns`: of data sets that are stood in for, () to read them off the
    script; `rows`: how many each has; `tokens`: how long their texts are, on average with
    `varied_lengths`. `with_work`: one more step is run, to see its kernels. `changes`: of
    `changes.py`."""

    folder: Path
    steps: int
    models: Path | None
    snapshot: Path | None
    pretends_data: bool
    columns: tuple[str, ...] = ()
    rows: int = 512
    tokens: int = 1024
    varied_lengths: bool = False
    with_work: bool = False
    changes: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        return int(os.environ.get("RANK", "0"))

    @property
    def world_size(self) -> int:
        return int(os.environ.get("WORLD_SIZE", "1"))


def read_settings() -> Settings:
    fields = json.loads(os.environ.get("LORA_PROFILER_RUN_SETTINGS", "{}"))
    return Settings(
        folder=Path(os.environ["LORA_PROFILER_RUN"]),
        steps=fields.get("steps", 3),
        models=_path(fields.get("models")),
        snapshot=_path(fields.get("snapshot")),
        pretends_data=fields.get("pretends_data", False),
        columns=tuple(fields.get("columns", ())),
        rows=fields.get("rows", 512),
        tokens=fields.get("tokens", 1024),
        varied_lengths=fields.get("varied_lengths", False),
        with_work=fields.get("with_work", False),
        changes=tuple(fields.get("changes", ())),
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
