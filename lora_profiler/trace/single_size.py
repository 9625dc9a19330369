"""A profile of one trace at one size, for what no profile holds: shards are rounded up, chunks to
powers of two, packed rows."""

from dataclasses import replace

from lora_profiler._common.packages import installed_versions
from lora_profiler._common.polynomial import Polynomial, constant
from lora_profiler.memory.compiled.peaks import peaks_of
from lora_profiler.memory.compiled.predict import predict_with
from lora_profiler.memory.compiled.profile import Profile, setup_key
from lora_profiler.memory.compiled.regime import key_of, regime_of
from lora_profiler.memory.compiled.tape import Affine, ModuleNumber
from lora_profiler.memory.prediction import Collective, Phase, Prediction, Traffic
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace.flat import FLOP_PHASES, PACKAGES, flat
from lora_profiler.trace.fold import unfolded
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import Traced, trace


def predict_once(workload: Workload) -> Prediction:
    """What a trace of exactly this workload says. Raises UnbuildableError as building and tracing
    do."""
    traced = trace(workload, lambda w: build_model(w, device="meta"))
    return replace(
        predict_with(profile_of(workload, traced), workload),
        engine="traced",
        traffic=_traffic(traced, workload.setup),
    )


def _traffic(traced: Traced, setup: TrainSetup) -> tuple[Traffic, ...]:
    """Of all micro-batches, of which two are traced; DDP sends after the last one alone."""
    whole, part = (
        (1, 1) if setup.sharding == "ddp" else (setup.accumulation, min(setup.accumulation, 2))
    )
    sizes: dict[tuple[Collective, Phase], list[int]] = {}
    for sent in traced.sent:
        sizes.setdefault((sent.collective, sent.phase), []).append(sent.size_bytes)
    return tuple(
        Traffic(
            collective=collective,
            phase=phase,
            count=len(byte_counts) * whole // part,
            size_bytes=sum(byte_counts) * whole // part,
        )
        for (collective, phase), byte_counts in sizes.items()
    )


def profile_of(workload: Workload, traced: Traced) -> Profile:
    """The profile that answers exactly the `workload` that was traced, and no other size."""
    flat_tape = flat(traced)
    numbers: dict[int, int] = {}
    events = [
        (
            e
            if e.birth is None
            else e._replace(
                birth=e.birth._replace(size=numbers.setdefault(e.birth.size, len(numbers)))
            )
        )
        for e in flat_tape.events
    ]
    sizes = [_constant(size) for size in numbers]
    tape = unfolded(events)
    setup = workload.setup
    lora = setup.lora.r if setup.lora else 1
    return Profile(
        key=key_of(workload),
        model={
            "id": workload.model.id,
            "model_type": workload.model.model_type,
            "fingerprint": workload.model.fingerprint,
        },
        setup=setup_key(setup),
        regime=regime_of(workload),
        valid={
            "batch_size": (setup.batch_size, setup.batch_size),
            "seq_len": (setup.seq_len, setup.seq_len),
            "rank": (lora, lora),
            "num_layers": (workload.model.num_layers, workload.model.num_layers),
        },
        layout=None,
        num_layers=workload.model.num_layers,
        kernels=flat_tape.kernels,
        fallbacks=flat_tape.fallbacks,
        versions=installed_versions(PACKAGES),
        checked=(),
        saved=Affine.constant(
            _constant(
                sum(e.birth.size for e in flat_tape.events if e.birth is not None and e.birth.saved)
            )
        ),
        **peaks_of(tape, sizes)._asdict(),
        sizes=tuple(sizes),
        flops={phase: _numbers(flat_tape.flops_of(phase)) for phase in FLOP_PHASES},
        trainable=_numbers(flat_tape.trainable),
        tape_source=tape,
    )


def _constant(number: int) -> Polynomial:
    return constant(number) if number else Polynomial({})


def _numbers(by_module: dict[str, int]) -> tuple[ModuleNumber, ...]:
    return tuple(
        ModuleNumber(name, p, p, p)
        for name, count in by_module.items()
        for p in (_constant(count),)
    )
