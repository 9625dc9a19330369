"""Numbers to text and back: bytes, counts, FLOPs, percentages, errors, times. The only file that
knows how big a GiB is."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from lora_profiler.errors import UsageError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40

_BYTE_UNITS = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))
_COUNT_UNITS = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))
_FLOP_UNITS = (
    ("EFLOP", 10**18),
    ("PFLOP", 10**15),
    ("TFLOP", 10**12),
    ("GFLOP", 10**9),
    ("MFLOP", 10**6),
)
_TIME_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_MOST_BYTES = 2**63 - 1
"""What 64 bits count; no memory is that large."""
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")
_SIZE_UNITS = {
    "b": 1,
    "": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}


def bytes_text(count: int) -> str:
    """A byte count in the largest binary unit that leaves at least one whole: 1536 -> '1.50 KiB',
    512 -> '512 B'."""
    for name, size in _BYTE_UNITS:
        if abs(count) >= size:
            return f"{count / size:,.2f} {name}"
    return f"{count:,} B"


def bytes_texts(counts: Sequence[int | None]) -> list[str]:
    """Byte counts that stand together, in the unit of the largest: '1.87 GiB' and '0.25 GiB'."""
    unit, size = byte_unit(max((abs(count) for count in counts if count is not None), default=0))
    return ["not known" if count is None else f"{in_unit(count, size)} {unit}" for count in counts]


def short_in_unit(count: int, size: int) -> str:
    """`count` bytes in a unit of `size` bytes with three digits, for narrow cells: 36.402 GiB ->
    '36.4', 341.32 GiB -> '341'."""
    value = count / size
    decimals = 0 if size == 1 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    text = f"{value:,.{decimals}f}"
    return "<0.01" if count > 0 and text == "0.00" else text


def byte_unit(largest: int) -> tuple[str, int]:
    """(name, bytes) of the binary unit in which a column, whose largest value is `largest`, is best
    written."""
    for name, size in _BYTE_UNITS[1:]:
        if abs(largest) >= size:
            return name, size
    return "B", 1


def in_unit(count: int, size: int) -> str:
    """`count` bytes in a unit of `size` bytes, two decimals; what would round to nothing reads
    '<0.01', or '>-0.01'."""
    return f"{count:,}" if size == 1 else hundredths_text(hundredths(count, size), count)


def hundredths(count: int, size: int) -> int:
    """`count` in hundredths of `size`, rounded as `in_unit` shows it."""
    return round(100 * float(f"{count / size:.2f}"))


def hundredths_text(number: int, exact: int) -> str:
    """So many hundredths of a unit as a number; what is not nothing, as `exact` says, does not read
    as nothing."""
    if number == 0:
        return "0" if exact == 0 else "<0.01" if exact > 0 else ">-0.01"
    return f"{number / 100:,.2f}"


def count_text(count: int) -> str:
    """A plain number with thousands separators: 65536 -> '65,536'."""
    return f"{count:,}"


def shape_text(rows: int, columns: int) -> str:
    """The shape of a matrix, whose sizes have no separators: '4096 x 4096'."""
    return f"{rows} x {columns}"


def short_count_text(count: int) -> str:
    """A number as people say it: 8030261248 -> '8.03 B', 494032768 -> '494.0 M', 999 -> '999'."""
    for name, size in _COUNT_UNITS:
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 100 else 1}f} {name}"
    return str(count)


def flops_text(count: int) -> str:
    """Floating-point operations (2 x multiply-add): 32_900_000_000_000 -> '32.90 TFLOP'."""
    for name, size in _FLOP_UNITS:
        if count >= size:
            return f"{count / size:,.2f} {name}"
    return f"{count:,} FLOP"


def percent_text(fraction: float) -> str:
    """A fraction as a percentage with two decimals that never claims a whole it is not: 0.999999 ->
    '>99.99 %'."""
    if 0 < fraction < 0.00005:
        return "<0.01 %"
    if 0.99995 <= fraction < 1:
        return ">99.99 %"
    return f"{100 * fraction:.2f} %"


def error_text(relative_error: float) -> str:
    """A signed relative error as a percentage: 0.0047 -> '+0.47 %', '<0.01 %' in either direction.
    No error at all reads 'exact', and nothing else does."""
    if relative_error == 0:
        return "exact"
    if abs(relative_error) < 0.00005:
        return "<0.01 %"
    return f"{100 * relative_error:+,.2f} %"


def change_text(ratio: float) -> str:
    """A signed change as a percentage with one decimal: -0.5133 -> '-51.3 %', 0.0 -> 'the same',
    0.0001 -> '+<0.1 %'."""
    if ratio == 0:
        return "the same"
    sign = "+" if ratio > 0 else "-"
    return f"{sign}<0.1 %" if abs(ratio) < 0.0005 else f"{100 * ratio:+,.1f} %"


def seconds_text(seconds: float, largest: float | None = None) -> str:
    """A time that people can read: 0.0213 -> '21.30 ms', 1.5 -> '1.50 s', 125 -> '2 min 5 s', 7500
    -> '2 h 5 min'.

    Of times that stand together all are written in the unit of the `largest`: 0.7199 beside 1.06 ->
    '0.72 s'.
    """
    if (seconds if largest is None else largest) < 1:
        return f"{1000 * seconds:,.2f} ms"
    if seconds < 120:
        return "<0.01 s" if 0 < seconds < 0.005 else f"{seconds:,.2f} s"
    for (name, size), (lesser, part) in pairwise(_TIME_UNITS):
        if seconds >= 2 * size:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole:,} {name} {rest} {lesser}"
    raise AssertionError("two minutes are the least of these")


def short_seconds_text(seconds: float) -> str:
    """A time with two or three digits: 45 -> '45 s', 5040 -> '84 min', 26_900 -> '7.5 h', 300_000
    -> '3.5 days'."""
    for unit, size, least in (("days", 86_400, 2), ("h", 3_600, 2), ("min", 60, 1.5)):
        if (value := seconds / size) >= least:
            decimals = 1 if unit != "min" and value < 99.5 else 0
            return f"{value:,.{decimals}f} {unit}"
    return seconds_text(seconds) if seconds < 9.5 else f"{seconds:.0f} s"


def short_between_text(low: float, high: float) -> str:
    """Both ends of a rough span of time: '42 to 61 min', '80 min to 2.1 h'."""
    first, last = short_seconds_text(low), short_seconds_text(high)
    unit = last.partition(" ")[2]
    return f"{first.removesuffix(f' {unit}')} to {last}"


def between_text(low: float, high: float, largest: float | None = None) -> str:
    """Both ends of a span of time in one unit: '0.98 s to 1.45 s'."""
    longest = high if largest is None else largest
    return f"{seconds_text(low, longest)} to {seconds_text(high, longest)}"


def about_text(seconds: float) -> str:
    """A time that is only roughly known: 3 -> 'some seconds', 24 -> 'about 20 s', 75 -> 'about a
    minute'."""
    if seconds < 7.5:
        return "some seconds"
    if seconds < 55:
        return f"about {10 * max(round(seconds / 10), 1)} s"
    if seconds < 90:
        return "about a minute"
    if seconds < 3300:
        minutes = round(seconds / 60)
        return f"about {minutes if minutes < 10 else 5 * round(minutes / 5)} min"
    return "about an hour" if seconds < 5400 else f"about {round(seconds / 3600)} hours"


def clock_text(seconds: float) -> str:
    """A time as a clock shows it, for what changes while one looks: 7.9 -> '0:07', 3723 ->
    '1:02:03'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate_text(per_second: float, what: str = "") -> str:
    """Things per second with at least three digits: 3063.4 tokens -> '3,063 tokens/s', 12.34 ->
    '12.3/s', 0.512 -> '0.512/s'."""
    decimals = 0 if per_second >= 100 else 1 if per_second >= 10 else 2 if per_second >= 1 else 3
    return f"{per_second:,.{decimals}f}{f' {what}' if what else ''}/s"


def parse_bytes(text: str) -> int:
    """Bytes meant by '24GiB' (binary), '24GB' (decimal), '512 MiB' or plain '1024'.

    Raises UsageError for anything else, for nothing and for less.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise UsageError(
            f"{text!r} is not a memory size; write a number and GiB, MiB, GB or MB, as in 24GiB."
        )
    size = float(match[1]) * _SIZE_UNITS[match[2].lower()]
    if size > _MOST_BYTES:
        raise UsageError(f"{text[:60]!r} is more than any memory holds.")
    if round(size) < 1:
        raise UsageError(f"{text!r} is not a memory size above 0.")
    return round(size)


def parse_memory(text: str) -> int:
    """`parse_bytes` of a device's memory, of which a number without a unit is a mistake."""
    size = parse_bytes(text)
    if size < MIB:
        raise UsageError(
            f"{text!r} is {size:,} bytes, in which nothing trains; write it as in 24GiB."
        )
    return size


def is_finite(value: object) -> bool:
    """Whether it is a number, of those that a float can hold: not infinite, not nan, no bool."""
    try:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    except OverflowError:  # an int beyond the largest float
        return False


def shown(value: object) -> str:
    """As Python writes it, cut where it is long; an int of over 4,300 digits it does not write at
    all."""
    try:
        text = repr(value)
    except ValueError:
        return "an endless number"
    return text if len(text) <= 60 else f"{text[:60]}..."
