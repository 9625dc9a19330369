"""Numbers to text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler import units
from lora_profiler.errors import UsageError

GIB, DAY, HOUR = units.GIB, 86_400, 3_600
TEXTS = {
    "bytes_text": [
        (0, "0 B"), (512, "512 B"), (1536, "1.50 KiB"), (2**30, "1.00 GiB"),
        (5 * 2**40, "5.00 TiB"), (-(2**30), "-1.00 GiB"),
    ],
    # three digits
    "short_in_unit": [
        (0, GIB, "0.00"), (1, GIB, "<0.01"), (1023, 1, "1,023"), (1536, 1024, "1.50"),
        (39_082_550_536, GIB, "36.4"), (10_732_000_000, GIB, "9.99"),
        (10_736_000_000, GIB, "10.0"), (107_370_000_000, GIB, "100"),
        (1_095_216_660_480, GIB, "1,020"),
    ],
    "short_count_text": [
        (999, "999"), (8_030_261_248, "8.03 B"), (494_032_768, "494.0 M"), (65_536, "65.54 K"),
    ],
    "count_text": [(65_536, "65,536")],
    "flops_text": [(32_900_000_000_000, "32.90 TFLOP"), (12, "12 FLOP")],
    # never claims a whole
    "percent_text": [
        (1 - 65_536 / 16_777_216, "99.61 %"), (0.999999, ">99.99 %"), (0.0000001, "<0.01 %"),
        (1.0, "100.00 %"), (0.0, "0.00 %"),
    ],
    # shows what would round away
    "in_unit": [
        (16, GIB, "<0.01"), (0, GIB, "0"), (3 * GIB, GIB, "3.00"), (17, 1, "17"),
        (-16, GIB, ">-0.01"), (-3 * GIB, GIB, "-3.00"), (-17, 1, "-17"),
    ],
    # signed, and only equality is exact
    "error_text": [
        (0.0, "exact"), (0.0047, "+0.47 %"), (-0.25, "-25.00 %"), (1e-6, "<0.01 %"),
        (-1e-6, "<0.01 %"), (12.0, "+1,200.00 %"),
    ],
    # signed, and only equality is the same
    "change_text": [
        (0, "the same"), (-0.51334, "-51.3 %"), (12.5, "+1,250.0 %"), (0.0004, "+<0.1 %"),
        (-0.0004, "-<0.1 %"), (0.0006, "+0.1 %"),
    ],
    # with the largest of those that stand together, in its unit
    "seconds_text": [
        (0.0213, "21.30 ms"), (0.9999, "999.90 ms"), (1.5, "1.50 s"), (119.0, "119.00 s"),
        (125.4, "2 min 5 s"), (179.6, "3 min 0 s"), (7199.4, "119 min 59 s"), (7500, "2 h 5 min"),
        (172_799, "48 h 0 min"), (3 * DAY + 4 * HOUR, "3 d 4 h"),
        (135_221_205 * 60 + 57, "93,903 d 15 h"),
        (0.7199, 1.06, "0.72 s"), (0.7199, 0.9, "719.90 ms"), (0.0013, 1.06, "<0.01 s"),
        (0.0, 1.06, "0.00 s"), (1.06, 300.0, "1.06 s"), (0.5, 300.0, "0.50 s"),
    ],
    "clock_text": [
        (0.0, "0:00"), (7.9, "0:07"), (59.99, "0:59"), (125, "2:05"), (3723.5, "1:02:03"),
    ],
    "rate_text": [
        (3063.4, "tokens", "3,063 tokens/s"), (12.34, "", "12.3/s"),
        (1.234, "steps", "1.23 steps/s"), (0.0512, "", "0.051/s"),
    ],
}  # fmt: skip
"""By function: what it is given, and what it says of that."""


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_numbers(name: str) -> None:
    said = [(*given, getattr(units, name)(*given)) for *given, _ in TEXTS[name]]
    assert said == TEXTS[name]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GiB", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("512 MiB", 512 * 2**20),
        ("1024", 1024),
        ("1.5gib", 3 * 2**29),
        (".5KiB", 512),
    ],
)
def test_parse_bytes(text: str, count: int) -> None:
    assert units.parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "24 GX", "-1GiB", "0GiB", "1e9", "24GiBs", "nan"])
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_bytes(text)


def test_a_devices_memory_has_a_unit() -> None:
    assert units.parse_memory("24GiB") == 24 * units.GIB
    with pytest.raises(UsageError, match="'24' is 24 bytes, in which nothing trains"):
        units.parse_memory("24")


def test_bytes_that_stand_together_are_in_one_unit() -> None:
    told = units.bytes_texts([2 * 2**30, 2**28, 1000, 0])
    assert told == ["2.00 GiB", "0.25 GiB", "<0.01 GiB", "0 GiB"]
    assert units.bytes_texts([2**28, None]) == ["256.00 MiB", "not known"]
    assert units.bytes_texts([None]) == ["not known"]


@given(st.integers(0, 2**50))
def test_texts_parse_back_within_their_rounding(count: int) -> None:
    text = units.bytes_text(count).replace(",", "")
    if count:
        assert units.parse_bytes(text) == pytest.approx(count, rel=0.006)


@given(st.integers(1, 2**50))
def test_byte_unit_leaves_a_whole(largest: int) -> None:
    _, size = units.byte_unit(largest)
    assert largest / size >= 1
