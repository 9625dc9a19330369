"""A profile: one traced step, compiled. Answers for every batch, sequence, rank and depth in its
range, without torch.

The JSON format is documented in `docs/profiles.md`; `FORMAT` changes with it, and an unknown one is
refused."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple

from lora_profiler._common.polynomial import ZERO, Exponents, Polynomial
from lora_profiler.errors import LoraProfilerError
from lora_profiler.memory.compiled.tape import (
    Affine,
    Layout,
    ModuleNumber,
    Tape,
    affine_from_json,
    affine_json,
    numbers_from_json,
    numbers_json,
    tape_from_json,
    tape_json,
)
from lora_profiler.memory.prediction import Category, MomentName
from lora_profiler.question.adapters.targets import default_targets
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.check import widened
from lora_profiler.question.workload import OPTIONS, TrainSetup, key_fields, setup_dict

# --- instants -------------------------------------------------------------------------------------

# The instants of a step at which a moment can peak, as a profile has them: what is live at each, by
# category and size, as the change since the one before.

Kind = tuple[Category, int]
"""Of a storage: its category, and the number of its size."""
InTurn = Mapping[int, Sequence[Polynomial]]
"""Of a size, by its number, those that its storages have one after another."""


class Instant(NamedTuple):
    """An instant of step 1 or of the steady state (step 2). `changes` since the instant before:
    the number of a kind, how many storages more of it are live, and how many more with every
    unit."""

    step: int
    moment: MomentName
    changes: tuple[tuple[int, int, int], ...]


class LivePeak(NamedTuple):
    """The live bytes of instant `number`; `turn`: which of the sizes that storages have in turn."""

    number: int
    turn: int
    total: Polynomial


class Instants:
    """Those of a profile at a depth of `units`, with the sizes of a model."""

    def __init__(
        self,
        instants: Sequence[Instant],
        kinds: Sequence[Kind],
        sizes: Sequence[Polynomial],
        units: int,
        in_turn: InTurn,
    ) -> None:
        self._instants, self._kinds, self._units = instants, kinds, units
        self._sizes, self._in_turn = sizes, in_turn

    def _counts(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Of each instant its number, and (kind, storages more) since the one before."""
        for number, instant in enumerate(self._instants):
            yield (
                number,
                [(kind, base + slope * self._units) for kind, base, slope in instant.changes],
            )

    def peaks(self) -> Iterator[LivePeak]:
        """One for each instant, and for each size that a storage has in turn there."""
        weights = [tuple(self._sizes[size].nonzero().items()) for _, size in self._kinds]
        turning = [kind for kind, (_, size) in enumerate(self._kinds) if size in self._in_turn]
        live: dict[Exponents, int] = {}
        alive = dict.fromkeys(turning, 0)
        for number, changes in self._counts():
            for kind, count in changes:
                if kind in alive:
                    alive[kind] += count
                    continue
                for exponents, size in weights[kind]:
                    live[exponents] = live.get(exponents, 0) + count * size
            here = Polynomial(live.copy())
            at = next((kind for kind, count in alive.items() if count), None)
            if at is None:
                yield LivePeak(number, 0, here)
                continue
            for turn, one in enumerate(self._in_turn[self._kinds[at][1]]):
                yield LivePeak(number, turn, here + one * alive[at])

    def live_at(self, few: Sequence[LivePeak]) -> list[dict[Category, Polynomial]]:
        """Bytes by category at each of a `few` of the peaks."""
        wanted = {peak.number for peak in few}
        live = [0] * len(self._kinds)
        at: dict[int, list[int]] = {}
        for number, changes in self._counts():
            for kind, count in changes:
                live[kind] += count
            if number in wanted:
                at[number] = live.copy()
        return [self._by_category(at[peak.number], peak.turn) for peak in few]

    def _by_category(self, live: Sequence[int], turn: int) -> dict[Category, Polynomial]:
        found: dict[Category, Polynomial] = {}
        for (category, number), count in zip(self._kinds, live, strict=True):
            if count:
                turns = self._in_turn.get(number)
                size = turns[turn] if turns else self._sizes[number]
                found[category] = found.get(category, ZERO) + size * count
        return found


# --- profiles -------------------------------------------------------------------------------------

FORMAT = 4
_KEYS = 3
"""The format whose keys are still used: what they are hashed of has not changed since."""
OPEN_FIELDS = frozenset(option.name for option in OPTIONS if option.declared.is_open)
"""Fields of a setup that a profile does not fix as they are. Whether a batch is padded the regime
says."""


class Monomial(NamedTuple):
    """A product of a law's factors, by their numbers, over `divisor`, times powers of batch,
    sequence and rank."""

    factors: tuple[int, ...]
    divisor: int
    exponents: Exponents


Measure = Mapping[Exponents, int]
"""A monomial at a model's sizes: powers of batch, sequence and rank, and how often; of a loss
several."""


class Law(NamedTuple):
    """What makes a profile that of a type, whose polynomials are over `monomials` of the model's
    own sizes: the first exponent is a monomial's number. `factors` are the names of each factor,
    which are equal in whatever the law answers; `constants` the widths that never differed, and
    `ratios` (factor, factor, p, q) the factors of which one was always p / q times the other, so
    that a size may be written with either: it must be so in whatever the law answers.
    `hidden_dtype`: where the loss is left open, of the hidden state that it is given.
    `compiled/law.py` puts numbers in."""

    factors: tuple[tuple[str, ...], ...]
    constants: Mapping[str, int]
    monomials: tuple[Monomial, ...]
    ratios: tuple[tuple[int, int, int, int], ...]
    hidden_dtype: str = ""

    def uses(self, factor: int) -> bool:
        """Whether any size is made of the factor, or of one that it was a multiple of."""
        in_ratio = any(factor in ratio[:2] for ratio in self.ratios)
        return in_ratio or any(factor in monomial.factors for monomial in self.monomials)


class ProfileError(LoraProfilerError):
    """What was read is no profile of this format."""


class Regime(NamedTuple):
    """What flips a rule instead of scaling it. A profile holds for one combination; the rank is
    open unless it is one.

    `kernels` are those that attention takes without a mask and with one, where the platform changes
    them: empty for cards from sm_80 to sm_89 with the usual torch.
    """

    one_sample: bool
    one_token: bool
    windows_filled: tuple[bool, ...]
    accumulates: bool
    rank: int | None
    kernels: tuple[str, ...] = ()
    padded: bool = False
    unaligned: bool = False
    length: int | None = None
    """Of a model whose layers walk over tokens; see `walks_over_tokens`."""


def _regime_dict(regime: Regime) -> dict[str, Any]:
    """Without a field that came later, where it says what was true of all before: the keys of older
    profiles stay."""
    later = ("kernels", "padded", "unaligned", "length")
    return {name: value for name, value in regime._asdict().items() if name not in later or value}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`instants` are those that can be the largest of their moment, and count storages of `kinds`;
    `sizes` and `tape` are the whole step. Storages of a size in `in_turn` have several sizes, one
    after another, as a loss has that takes a part of the tokens at once.

    `valid` are the smallest and the largest batch, sequence, rank and number of layers, None for no
    end. `saved` are the bytes that autograd keeps, `persistent` those that live between two steps,
    and all gradients. `flops` are by phase and module, none where they are not known, `trainable`
    the elements that train by module; `fallbacks` the functions that ran in plain torch for want of
    a package. `checked` are the points at which a fresh trace was equal, event by event: (layers,
    batch, sequence, rank).
    """

    key: str
    model: Mapping[str, Any]
    setup: Mapping[str, Any]
    regime: Regime
    valid: Mapping[str, tuple[int, int | None]]
    layout: Layout | None
    num_layers: int
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...] = ()
    versions: Mapping[str, str]
    checked: tuple[tuple[int, int, int, int], ...]
    saved: Affine
    persistent: Mapping[Category, Affine]
    instants: tuple[Instant, ...]
    kinds: tuple[Kind, ...]
    sizes: tuple[Polynomial, ...]
    flops: Mapping[str, tuple[ModuleNumber, ...]]
    trainable: tuple[ModuleNumber, ...]
    tape_source: Any
    law: Law | None = None
    in_turn: Mapping[int, tuple[Polynomial, ...]] = field(default_factory=dict)

    @cached_property
    def tape(self) -> Tape:
        return (
            self.tape_source
            if isinstance(self.tape_source, Tape)
            else tape_from_json(self.tape_source, self.layout)
        )

    def units(self, num_layers: int) -> int | None:
        """Units at a depth, None where the profile does not serve it. An unfolded profile serves
        its own depth, as 0 units."""
        if self.layout is None:
            return 0 if num_layers == self.num_layers else None
        return self.layout.units_of(num_layers)


def setup_key(setup: TrainSetup) -> dict[str, Any]:
    """The fields of a setup that a profile fixes."""
    return {name: value for name, value in setup_dict(setup).items() if name not in OPEN_FIELDS}


@lru_cache(maxsize=1)
def _usual_key() -> dict[str, Any]:
    return setup_key(TrainSetup())


@lru_cache(maxsize=8)
def _told(model: ModelSpec, setup: TrainSetup) -> dict[str, Any]:
    """The fixed fields that differ from the defaults: an option added later leaves the keys of
    older profiles as they are.

    Target modules that mean the same are written the same.
    """
    usual, kept = _usual_key(), key_fields(setup)
    differences = {
        name: value for name, value in kept.items() if name in usual and value != usual[name]
    }
    if wide := widened(model, setup):
        differences["wide"] = wide
    if setup.lora is not None:
        targets = setup.lora.target_modules
        if targets is None:
            targets = default_targets(setup.lora.peft_type).get(model.model_type)
        differences["targets"] = (
            targets if targets is None or isinstance(targets, str) else sorted(targets)
        )
    return differences


def identity_of(model: ModelSpec) -> dict[str, str]:
    return {"id": model.id, "model_type": model.model_type, "fingerprint": model.fingerprint}


def profile_key(
    model: ModelSpec, setup: TrainSetup, regime: Regime, facts: str | None = None
) -> str:
    """24 hex digits of everything that a profile holds for: the model, or of a law its facts, the
    setup without sizes, and the regime."""
    import hashlib

    parts = [
        _KEYS,
        model.architecture,
        facts or model.fingerprint,
        _told(model, setup),
        _regime_dict(regime),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def packed(profile: Profile) -> bytes:
    return zlib.compress(json.dumps(profile_json(profile), separators=(",", ":")).encode(), 9)


def unpacked(data: bytes) -> Profile:
    """Raises ProfileError."""
    try:
        return profile_from_json(json.loads(zlib.decompress(data)))
    except (zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise ProfileError(f"this is no profile: {type(e).__name__}: {e}") from e


def profile_json(profile: Profile) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "key": profile.key,
        "model": dict(profile.model),
        "setup": dict(profile.setup),
        "facts": _regime_dict(profile.regime),
        "valid": {name: list(ends) for name, ends in profile.valid.items()},
        "layout": list(profile.layout) if profile.layout else None,
        "num_layers": profile.num_layers,
        "kernels": list(profile.kernels),
        **({"fallbacks": list(profile.fallbacks)} if profile.fallbacks else {}),
        "versions": dict(profile.versions),
        "checked": [list(point) for point in profile.checked],
        "saved": affine_json(profile.saved),
        "persistent": {name: affine_json(a) for name, a in profile.persistent.items()},
        "kinds": [list(kind) for kind in profile.kinds],
        "instants": [[*instant[:2], *chain(*instant.changes)] for instant in profile.instants],
        "sizes": [affine_json(Affine.constant(size)) for size in profile.sizes],
        "flops": {phase: numbers_json(numbers) for phase, numbers in profile.flops.items()},
        "trainable": numbers_json(profile.trainable),
        "tape": tape_json(profile.tape),
        **({"law": list(profile.law)} if profile.law else {}),
    }


def profile_from_json(data: Mapping[str, Any]) -> Profile:
    """Raises ProfileError for another format; KeyError and the like for what is no profile at
    all."""
    if data["format"] != FORMAT:
        raise ProfileError(f"the profile has format {data['format']}; this version reads {FORMAT}.")
    regime = data["facts"]
    return Profile(
        key=data["key"],
        model=data["model"],
        setup=data["setup"],
        regime=Regime(
            **{
                **regime,
                "windows_filled": tuple(regime["windows_filled"]),
                "kernels": tuple(regime.get("kernels", ())),
            }
        ),
        valid={name: (ends[0], ends[1]) for name, ends in data["valid"].items()},
        layout=_layout_from_json(data["layout"]) if data["layout"] else None,
        num_layers=data["num_layers"],
        kernels=tuple(data["kernels"]),
        fallbacks=tuple(data.get("fallbacks", ())),
        versions=data["versions"],
        checked=tuple(tuple(point) for point in data["checked"]),
        saved=affine_from_json(data["saved"]),
        persistent={name: affine_from_json(a) for name, a in data["persistent"].items()},
        kinds=tuple((category, size) for category, size in data["kinds"]),
        instants=tuple(
            Instant(step, moment, tuple(zip(*[iter(changes)] * 3, strict=True)))
            for step, moment, *changes in data["instants"]
        ),
        sizes=tuple(affine_from_json(p).base for p in data["sizes"]),
        flops={phase: numbers_from_json(numbers) for phase, numbers in data["flops"].items()},
        trainable=numbers_from_json(data["trainable"]),
        tape_source=data["tape"],
        law=_law_from_json(*data["law"]) if "law" in data else None,
    )


def _layout_from_json(data: Any) -> Layout:
    """A profile of an earlier version names its one stack."""
    if isinstance(data, dict):
        data = [[data["stack"]], data["prefix"], data["period"], data["tail"]]
    stacks, prefix, period, tail = data
    return Layout(tuple(stacks), prefix, period, tail)


def _law_from_json(
    factors: Any, constants: Mapping[str, int], monomials: Any, ratios: Any, hidden_dtype: str
) -> Law:
    return Law(
        tuple(map(tuple, factors)),
        constants,
        tuple(Monomial(tuple(few), divisor, tuple(powers)) for few, divisor, powers in monomials),
        tuple(map(tuple, ratios)),
        hidden_dtype,
    )
