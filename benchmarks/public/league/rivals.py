"""The estimators of the league, as `rivals.toml` has them: what is installed, and what each is told
of a run.

`mapping` is the most favourable reading of its options that is still what ran; `lacks` is what of
the runs no option of it says, so that such rows are answered without it.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ASK = Path(__file__).parent / "ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """`pins` are installed as pip resolves them; one that `is_bare` without what it depends on,
    where that is large and has nothing to do with the estimate."""

    name: str
    distribution: str
    version: str
    pins: tuple[str, ...] = ()
    is_bare: bool = False
    total: str
    mapping: str
    lacks: tuple[str, ...]
    losses: tuple[str, ...] = ("plain",)
    calibrated: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def url(self) -> str:
        return f"https://pypi.org/project/{self.distribution}/{self.version}/"

    @property
    def script(self) -> Path:
        """What answers questions under its Python."""
        return ASK / f"ask_{self.distribution.replace('-', '_')}.py"


def _read() -> tuple[tuple[Rival, ...], dict[str, str]]:
    document = tomllib.loads(Path(__file__).with_name("rivals.toml").read_text("utf-8"))
    rivals = (
        Rival(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        for fields in document["rivals"]
    )
    return tuple(rivals), document["looked_at"]


RIVALS, LOOKED_AT = _read()
"""Those that are asked; what else was looked at, and why it is not."""
