"""A profile under cuDNN's attention, made of the one under flash attention: the same events, of
which the random state is smaller."""

from dataclasses import replace

from lora_profiler._common.polynomial import constant
from lora_profiler.memory.compiled.peaks import peaks_of
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.compiled.regime import CUDNN
from lora_profiler.memory.compiled.tape import LEAST_UNITS, Affine, Birth, Event, Tape

FLASH = "_scaled_dot_product_flash_attention"
_FLASH_STATE, _CUDNN_STATE = 16, 8
"""Bytes of what reproduces the dropout in backward: seed and offset together under flash, each in a
tensor of its own under cuDNN (torch `native_functions.yaml`)."""


def under_cudnn(profile: Profile) -> Profile | None:
    """`profile` with cuDNN's attention in place of flash attention; None of one that has other
    kernels. Operators keep their names, by which the allocator's requests know them."""
    large = constant(_FLASH_STATE)
    if set(profile.kernels) != {"flash"} or large not in profile.sizes:
        return None
    sizes, number = list(profile.sizes), profile.sizes.index(large)
    if constant(_CUDNN_STATE) not in sizes:
        sizes.append(constant(_CUDNN_STATE))
    small = sizes.index(constant(_CUDNN_STATE))

    def is_state(event: Event) -> bool:
        return isinstance(event, Birth) and event.op == FLASH and event.size == number

    def other(event: Event) -> Event:
        return event._replace(size=small) if isinstance(event, Birth) and is_state(event) else event

    def saved(units: int) -> int:
        """States that autograd keeps."""
        return sum(
            isinstance(event, Birth) and event.saved and is_state(event)
            for *_, block in profile.tape.blocks(units)
            for event in block
        )

    runs = (
        run._replace(blocks=tuple(tuple(map(other, block)) for block in run.blocks))
        for run in profile.tape.runs
    )
    tape = Tape(tuple(runs), profile.layout)
    least = LEAST_UNITS if profile.layout else 0
    each = saved(least + 1) - saved(least) if profile.layout else 0
    less = _FLASH_STATE - _CUDNN_STATE
    base, slope = profile.saved
    return replace(
        profile,
        regime=profile.regime._replace(kernels=CUDNN),
        kernels=("cudnn",),
        saved=Affine(base - (saved(least) - least * each) * less, slope - each * less),
        sizes=tuple(sizes),
        tape_source=tape,
        **peaks_of(tape, sizes)._asdict(),
    )
