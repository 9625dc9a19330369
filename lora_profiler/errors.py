"""Every error that a user can cause or meet, with the exit code that `lora-profile` answers it
with."""

from collections.abc import Iterable, Mapping


class LoraProfilerError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line ends with."""

    exit_code = 4


class UsageError(LoraProfilerError, ValueError):
    """The question itself is wrong: an unknown option value, card or target module, a size out of
    range."""

    exit_code = 2


class AmbiguousNameError(LoraProfilerError):
    """A name that several things have: `choices` are their own names, each with what tells it from
    the others, or ''; `more` says how many there are beyond them."""

    def __init__(self, kind: str, name: str, choices: Mapping[str, str], more: str = "") -> None:
        self.kind, self.name, self.choices, self.more = kind, name, choices, more
        named = (f"{choice} ({what})" if what else choice for choice, what in choices.items())
        super().__init__(self.saying(f"{', '.join(named)}{more and f' and {more}'}"))

    def saying(self, choices: str) -> str:
        """The message with `choices` as the words that list them."""
        return f"{self.kind} {self.name} is ambiguous; name one: {choices}"


def refuse(reasons: Mapping[str, object]) -> None:
    """Raises UsageError with the first of `reasons`, each a sentence and whether it applies, that
    does."""
    for sentence, applies in reasons.items():
        if applies:
            raise UsageError(sentence)


class AmbiguousGpuError(AmbiguousNameError, UsageError):
    """Several GPUs of the catalogue are called so."""


class TargetModulesError(UsageError):
    """PEFT would refuse these target modules; the message gives its reason and what to use
    instead."""


class NoProfileError(UsageError):
    """No compiled profile answers this workload, and the engine asked for has nothing else."""


class ModelNotFoundError(LoraProfilerError):
    """The model could not be obtained: unknown, gated, offline, or a config.json that is no such
    thing."""

    exit_code = 3


class AmbiguousModelError(AmbiguousNameError, ModelNotFoundError):
    """Several bundled models are called so."""


class UnsupportedModelError(ModelNotFoundError):
    """The config.json is fine, but nothing installed here can say what weights such a model has."""


class UnbuildableError(LoraProfilerError):
    """The real model could not be built: a library or the device is missing, or what was built is
    not what was asked for."""

    exit_code = 4


class CompileError(UnbuildableError):
    """The step can be traced, but no profile that could be trusted came out; the message says at
    which point it was wrong."""


class UncountedError(LoraProfilerError):
    """No rule says which kernels a step of this workload launches; a trace of the real model
    does."""

    exit_code = 4


_AS_CLOSE = 0.02


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known words closest to `word`, best first, compared without case; at most `count`, and
    none that is much less close than the first."""
    from difflib import SequenceMatcher, get_close_matches  # only a mistake loads it

    by_lower = {k.lower(): k for k in known}
    matcher = SequenceMatcher(b=word.lower())

    def likeness(other: str) -> float:
        matcher.set_seq1(other)
        return matcher.ratio()

    close = get_close_matches(word.lower(), by_lower, n=count, cutoff=0.6)
    return [by_lower[k] for k in close if likeness(k) > likeness(close[0]) - _AS_CLOSE]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean a, b?' for an error message, or '' when nothing known is close to `word`."""
    close = nearest(word, known)
    return f" Did you mean {', '.join(close)}?" if close else ""


class RehearsalError(LoraProfilerError):
    """Nothing was rehearsed: no compiler, no CUDA build of torch, another platform, or a script
    that ended before its steps."""

    exit_code = 4
