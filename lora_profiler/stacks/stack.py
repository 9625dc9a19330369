"""What is known of one version of one trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, get_args

from lora_profiler.workload import Method

METHODS: Final[tuple[Method, ...]] = get_args(Method)
CHECKPOINT_DTYPE: Final = "auto"
"""A default of `dtype`: as the checkpoint is stored, in transformers' own spelling."""

Options = Mapping[str, Any]
"""Values of options by their names, as people write them."""


class Packing(NamedTuple):
    """How packed rows reach the model. `one_row`: the rows of a micro-batch are laid end to end, so
    that batch 4 x 1,024 is one row of 4,096. `attention` is taken for them where none is given."""

    one_row: bool
    attention: str | None = None


class Refusal(NamedTuple):
    """Values of an option that the trainer cannot do, all but the default where none are named, and
    why: the end of 'LitGPT 0.5.13 cannot do --packed: ...'."""

    option: str
    why: str
    values: tuple[Any, ...] = ()


class Gap(NamedTuple):
    """What the trainer holds and no option prices, so that an answer for it is an estimate."""

    text: str
    methods: tuple[Method, ...] = METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One version of a trainer, as far as it says what a question leaves open.

    name: what `--trainer` takes. version: of `library`, whose `call` trains: "TRL 1.16's
    SFTTrainer". about: what the defaults stand for, in sentences. defaults: the options that the
    trainer sets, by method, each with what it reads alone. aliases: by option, the trainer's own
    spelling of values, and the options they mean. rows: of the model for each of a batch, 2 where
    pairs are compared. holds: what is alive and when, with its source, priced. gaps: what is not.
    """

    name: str
    library: str
    version: str
    call: str
    about: tuple[str, ...]
    defaults: Mapping[Method, Options]
    packing: Packing | None
    aliases: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    rows: int = 1
    holds: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def title(self) -> str:
        """'TRL 1.16's SFTTrainer'."""
        versioned = " ".join(filter(None, (self.library, self.version)))
        return f"{versioned}'s {self.call}" if versioned else self.call

    @property
    def options(self) -> frozenset[str]:
        """Names of the options that it sets, for some method."""
        return frozenset(name for own in self.defaults.values() for name in own)

    @property
    def key(self) -> str:
        """'trl-sft@1.16': what names this version on the command line."""
        return f"{self.name}@{self.version}" if self.version else self.name


def by_method(
    common: Options,
    *,
    full: Options | None = None,
    adapter: Options | None = None,
    lora: Options | None = None,
    base: Options | None = None,
) -> dict[Method, Options]:
    """The defaults of each method: `common` to all, those of `adapter` and `base` where there is
    one, `full` and `lora` for that method alone.

    Examples:
        >>> by_method({"batch_size": 8}, adapter={"rank": 8}, base={"recipe": "trl"})["qlora"]
        {'batch_size': 8, 'rank': 8, 'recipe': 'trl'}
    """
    adapted = {**common, **(adapter or {})}
    return {
        "full": {**common, **(full or {})},
        "lora": {**adapted, **(lora or {})},
        "qlora": {**adapted, **(base or {})},
    }
