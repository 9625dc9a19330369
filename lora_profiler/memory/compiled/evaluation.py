"""A profile at one depth, ready to take batch, sequence and rank: every later answer only puts
numbers in."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

from lora_profiler._common.polynomial import (
    TOKENS,
    ZERO,
    B,
    Polynomial,
    PolynomialTable,
    Values,
    constant,
)
from lora_profiler._common.polynomial import total as sum_of
from lora_profiler.errors import NoProfileError, TargetModulesError
from lora_profiler.memory.compiled.law import (
    NotOfLawError,
    law_key,
    law_unsupported_reason,
    of_model,
)
from lora_profiler.memory.compiled.library import find_profile
from lora_profiler.memory.compiled.profile import Instants, LivePeak, Profile, Regime, profile_key
from lora_profiler.memory.compiled.regime import kernel_choice, regime_of, under_flash
from lora_profiler.memory.compiled.tape import FlatEvent, total
from lora_profiler.memory.prediction import Category, MomentName
from lora_profiler.question.adapters import adapters
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.model_spec import ModelSpec, Sound
from lora_profiler.question.support.library_memory import (
    code_book_bytes,
    extra_loop_columns,
    extra_row_bytes,
    has_reference,
    loop_scalar_bytes,
    pass_scalar_bytes,
    scaler_holds,
)
from lora_profiler.question.support.losses import LossBytes, head_of, loss_regime
from lora_profiler.question.workload import TrainSetup, Workload

_OF_REFERENCE: tuple[Category, ...] = ("parameters", "buffers")
"""What a second model is made of."""
_BESIDE_PASSES: tuple[MomentName, ...] = ("setup", "optimizer_step")


class Evaluation:
    """Everything of a profile that depends on the depth alone, and on what `setup` fixes. `beside`:
    what a library holds and a trainer's loop keeps through a step, which no trace shows. `sound`:
    `ModelSpec.sound`."""

    def __init__(
        self, profile: Profile, units: int, setup: TrainSetup, sound: Sound | None = None
    ) -> None:
        self.profile, self.units, self.sound = profile, units, sound
        self.saved = profile.saved.at(units)
        self.persistent = {
            category: affine.at(units) for category, affine in profile.persistent.items()
        }
        scaler = scaler_holds(setup)
        beside: dict[Category, Polynomial] = {
            "buffers": constant(code_book_bytes(setup) + scaler.lasting),
            "inputs": (
                TOKENS * (8 * extra_loop_columns(setup, sound))
                + B * extra_row_bytes(setup, sound)
                + loop_scalar_bytes(setup)
            ),
        }
        if has_reference(setup):
            for name in _OF_REFERENCE:
                beside[name] = beside.get(name, ZERO) + self.persistent.get(name, ZERO)
                self.persistent[name] = self.persistent.get(name, ZERO) * 2
        self.beside: Mapping[Category, Polynomial] = beside
        self._of_pass = constant(pass_scalar_bytes(setup) + scaler.backward)

    @cached_property
    def trainable(self) -> Polynomial:
        return total(self.profile.trainable).at(self.units)

    @cached_property
    def flops(self) -> Mapping[str, Polynomial]:
        numbers = self.profile.flops.items()
        return {phase: total(of_modules).at(self.units) for phase, of_modules in numbers}

    @staticmethod
    def values(setup: TrainSetup) -> Values:
        return Values(setup.batch_size, setup.seq_len, setup.lora.r if setup.lora else 1)

    @cached_property
    def _instants(self) -> Instants:
        profile = self.profile
        return Instants(profile.instants, profile.kinds, profile.sizes, self.units, profile.in_turn)

    @cached_property
    def _peaks(self) -> Mapping[int, Sequence[LivePeak]]:
        """Of step 1 and of step 2."""
        found: dict[int, list[LivePeak]] = {1: [], 2: []}
        for peak in self._instants.peaks():
            found[self.profile.instants[peak.number].step].append(peak)
        return found

    def largest(self, step: int, at: Values) -> list[LivePeak]:
        """The largest of each moment of step 1 or 2."""
        totals = (self._first if step == 1 else self._steady).evaluate(at)
        best: dict[MomentName, tuple[int, LivePeak]] = {}
        for peak, size in zip(self._peaks[step], totals, strict=True):
            moment = self.profile.instants[peak.number].moment
            if moment not in best or size > best[moment][0]:
                best[moment] = (size, peak)
        return [peak for _, peak in best.values()]

    def peak(self, setup: TrainSetup) -> int:
        return max(self._steady.evaluate(self.values(setup)))

    @cached_property
    def _first(self) -> PolynomialTable:
        return self._table(1)

    @cached_property
    def _steady(self) -> PolynomialTable:
        return self._table(2)

    def _table(self, step: int) -> PolynomialTable:
        beside = sum_of(self.beside.values())
        return PolynomialTable.of(
            [peak.total + (beside + self._kept_at(peak)) for peak in self._peaks[step]]
        )

    def live_at(self, few: Sequence[LivePeak]) -> list[dict[Category, Polynomial]]:
        """Bytes by category at each of a few peaks."""
        found = self._instants.live_at(few)
        for peak, live in zip(few, found, strict=True):
            live["inputs"] = live.get("inputs", ZERO) + self._kept_at(peak)
            for category, size in self.beside.items():
                live[category] = live.get(category, ZERO) + size
        return found

    def _kept_at(self, peak: LivePeak) -> Polynomial:
        """What a trainer's loop keeps while a forward or backward pass runs."""
        moment = self.profile.instants[peak.number].moment
        return ZERO if moment in _BESIDE_PASSES else self._of_pass

    def gradients(self, values: Sequence[int]) -> dict[str, int]:
        """Bytes of gradients by module when the optimizer of step 2 begins; `values` are the sizes
        with numbers put in."""
        alive: dict[int, tuple[str, int]] = {}
        born = 0
        for event in events_of(self):
            if event.birth is not None:
                if event.birth.category == "gradients":
                    alive[born] = (event.birth.module, values[event.birth.size])
                born += 1
            elif event.mark is not None:
                if event.mark.phase == "optimizer" and event.mark.step == 2:
                    break
            else:
                alive.pop(event.dies, None)
        sizes: dict[str, int] = {}
        for module, size in alive.values():
            sizes[module] = sizes.get(module, 0) + size
        return sizes

    @property
    def steady_polynomials(self) -> tuple[Polynomial, ...]:
        """Whose maximum is the steady-state peak."""
        return self._steady.polynomials


def evaluation_of(workload: Workload) -> Evaluation:
    """The profile of a workload at its depth, from this process's memory, the package or the cache.
    Raises NoProfileError."""
    regime = regime_of(workload)
    evaluation = _of(workload, regime) or stand_in(workload, regime) or of_several(workload, regime)
    if evaluation is None:
        raise NoProfileError(
            f"no compiled profile answers {workload.model.id} with this setup; make one with the"
            f" same options: lora-profile compile {workload.model.id}"
        )
    return evaluation


def _of(workload: Workload, regime: Regime) -> Evaluation | None:
    """Of the profile that answers `workload` where another `regime` is taken to hold."""
    return _evaluation(workload.model, _fixed(workload.setup), regime, _loss_regime(workload))


def _loss_regime(workload: Workload) -> int | None:
    """What flips the bytes of a loss that a law leaves open; None where the profile has it."""
    head = head_of(workload.model)
    setup = workload.setup
    if not loss_facts(setup.loss).leaves_stack or head is None:
        return None
    return int(loss_regime(workload, head, setup.batch_size, setup.seq_len))


def tape_of(workload: Workload) -> Evaluation | None:
    """Whose tape shows what `workload` asks an allocator for: its own profile, that of another
    kernel that stands in for it, of a loop that drops its outputs with them held, or for one sample
    that of several, which copies its labels where one sample is a view of them. None where there is
    none, as of a loss that a law leaves open."""
    setup = workload.setup
    if loss_facts(setup.loss).leaves_stack:
        return None
    for asked in (
        workload,
        replace(workload, setup=replace(setup, batch_size=setup.batch_size + 1)),
    ):
        found = _own_tape(asked)
        if found is None and setup.hold_outputs and not _has_encoder(asked.model):
            dropped = _own_tape(replace(asked, setup=replace(asked.setup, hold_outputs=False)))
            found = None if dropped is None else _holding_outputs(dropped, _fixed(asked.setup))
        if found is not None or setup.batch_size > 1:
            return found
    return None


def _own_tape(workload: Workload) -> Evaluation | None:
    regime = regime_of(workload)
    return _of(workload, regime) or stand_in(workload, regime)


def _has_encoder(model: ModelSpec) -> bool:
    """Whether it is an encoder and a decoder, whose output holds what the encoder made."""
    names = {part for name, _ in model.modules() for part in name.split(".")}
    return {"encoder", "decoder"} <= names


@lru_cache(maxsize=6)
def _holding_outputs(dropped: Evaluation, setup: TrainSetup) -> Evaluation | None:
    """Of its tape alone: what is live at an instant is left out."""
    from lora_profiler.memory.compiled.held import held_tape

    tape = held_tape(dropped.profile.tape)
    if tape is None:
        return None
    profile = replace(dropped.profile, tape_source=tape, instants=())
    return Evaluation(profile, dropped.units, setup, dropped.sound)


def has_stand_in(workload: Workload) -> bool:
    """Whether the profile of the usual platform speaks for the one asked about: see `stand_in`."""
    return stand_in(workload, regime_of(workload)) is not None


def stand_in(workload: Workload, regime: Regime) -> Evaluation | None:
    """The profile of the usual platform, where it keeps what the one asked about keeps, or almost.

    Attention written out in Python runs everywhere, and what no fused kernel takes none takes on
    another card. cuDNN's call keeps what flash keeps, with grouped heads and output laid out alike,
    but for 8 bytes; and what the efficient kernel keeps, but for the padding of the log-sum-exp
    (torch `native_functions.yaml`, the forward operators). From torch 2.14 on the efficient kernel
    keeps 16 bytes more.
    """
    platform, usual = workload.platform, Platform()
    if not regime.kernels:
        return None
    evaluation = _of(workload, regime._replace(kernels=()))
    if evaluation is None:
        return None
    kernels = set(evaluation.profile.kernels)
    same = kernels <= {"eager"} or (kernels <= {"eager", "math"} and platform.torch == usual.torch)
    chosen, own = kernel_choice(workload, platform), kernel_choice(workload, usual)
    same_but_for_seeds = chosen[:2] == own[:2]
    for_cudnn = (
        set(chosen.plain) == {"cudnn"}
        and kernels in ({"flash"}, {"efficient"})
        and platform.torch == usual.torch
    )
    return evaluation if same or same_but_for_seeds or for_cudnn else None


def of_several(workload: Workload, regime: Regime) -> Evaluation | None:
    """For one sample the profile of several, which keeps the same but where attention written out
    copies what it could view: `benchmarks/results/laws.md` compares them."""
    if not regime.one_sample:
        return None
    several = regime._replace(one_sample=False)
    return _of(workload, several) or stand_in(workload, several)


def has_profile(workload: Workload) -> bool:
    return _of(workload, regime_of(workload)) is not None


def has_nearly(workload: Workload) -> bool:
    """Whether another profile speaks for the workload: see `stand_in` and `of_several`."""
    regime = regime_of(workload)
    return (stand_in(workload, regime) or of_several(workload, regime)) is not None


def _fixed(setup: TrainSetup) -> TrainSetup:
    """The setup with one size in place of all that a profile leaves open."""
    lora = replace(setup.lora, r=1, lora_alpha=None, use_rslora=False) if setup.lora else None
    fixed = replace(setup, batch_size=1, seq_len=1, accumulation=1, padding=0.0, lora=lora)
    if setup.loop_state == "none":
        return fixed
    return replace(fixed, accumulation=setup.accumulation, padding=0.5 * setup.is_padded)


@lru_cache(maxsize=6)
def events_of(evaluation: Evaluation) -> Sequence[FlatEvent]:
    """The whole tape, the same for every size. Of as many as a question with several methods asks
    for, on its card and the smallest that would do: each has tens of thousands."""
    return evaluation.profile.tape.expand(evaluation.units)


@lru_cache(maxsize=512)
def _evaluation(
    model: ModelSpec, setup: TrainSetup, regime: Regime, loss: int | None
) -> Evaluation | None:
    profile = _profile(model, setup, regime, loss)
    if profile is None and regime.unaligned:
        profile = _profile(model, setup, regime._replace(unaligned=False), loss)
        if profile is not None and "efficient" in profile.kernels:
            return None
    if profile is None:
        return None
    units = profile.units(model.num_layers)
    return None if units is None else Evaluation(profile, units, setup, model.sound)


def _profile(
    model: ModelSpec, setup: TrainSetup, regime: Regime, loss: int | None
) -> Profile | None:
    """The model's own, else the one that a law of its type makes, else that of the same layers by
    another name, or one made of that of another kernel of attention, or of one micro-batch."""
    own = find_profile(profile_key(model, setup, regime))
    if own is not None:
        return own
    found = find_profile(law_key(model, setup, regime))
    if found is None:
        return _made_of_another(model, setup, regime, loss)
    rows = 1 if regime.one_sample else 2
    lora = setup.lora and replace(setup.lora, r=regime.rank or setup.lora.r)
    workload = Workload(model=model, setup=replace(setup, batch_size=rows, lora=lora))
    if law_unsupported_reason(workload):
        return None
    try:
        return of_model(found, model, None if loss is None else _bytes_of(workload, found, loss))
    except NotOfLawError:
        return None


def _made_of_another(
    model: ModelSpec, setup: TrainSetup, regime: Regime, loss: int | None
) -> Profile | None:
    if all_linear := _with_all_linear(model, setup):
        alike = _evaluation(model, all_linear, regime, loss)
        if alike is not None:
            return alike.profile
    if usual := under_flash(regime):
        under = _evaluation(model, setup, usual, loss)
        if under is None:
            return None
        from lora_profiler.memory.compiled.cudnn import under_cudnn

        return under_cudnn(under.profile)
    if regime.accumulates:
        once = _evaluation(model, setup, regime._replace(accumulates=False), loss)
        if once is not None:
            from lora_profiler.memory.compiled.accumulation import accumulated

            return accumulated(once.profile)
    return None


@lru_cache(maxsize=64)
def _with_all_linear(model: ModelSpec, setup: TrainSetup) -> TrainSetup | None:
    """`setup` with PEFT's "all-linear" in place of a list of names that adapts the same layers;
    None where it does not."""
    lora = setup.lora
    if lora is None or not isinstance(lora.target_modules, tuple):
        return None
    every = replace(lora, target_modules="all-linear")
    with suppress(TargetModulesError):
        if adapters(model, lora) == adapters(model, every):
            return replace(setup, lora=every)
    return None


def bytes_of(workload: Workload, law: Profile) -> LossBytes:
    """What the loss of `workload` holds beside a stack whose law leaves it open. Raises
    NotOfLawError for one that holds something of the stack."""
    regime = _loss_regime(workload)
    assert regime is not None
    return _bytes_of(workload, law, regime)


def _bytes_of(workload: Workload, law: Profile, regime: int) -> LossBytes:
    """By rules, which know no profiles, of the head and the loss alone."""
    assert law.law is not None
    rules: Any = import_module("lora_profiler.memory.analytic.loss_alone")
    made: LossBytes | None = rules.loss_bytes(workload, law.law.hidden_dtype, regime)
    if made is None:
        raise NotOfLawError("the loss keeps the hidden state")
    return made


def forget() -> None:
    """After a profile was added: what was not found may be there now."""
    _evaluation.cache_clear()
