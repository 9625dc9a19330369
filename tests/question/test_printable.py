"""Text from elsewhere: nothing of it reaches a terminal that does more than stand there."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler._common.messages import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("größer × 2", "größer × 2"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\nb\tc\rd", "a b c d"),
        ("\a\b\x7f\x9b", "\\x07\\x08\\x7f\\x9b"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("a\u00a0b", "a b"),
        ("[red]text[/red]", "[red]text[/red]"),
        ("", ""),
    ],
)
def test_what_does_not_print_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(st.text(st.characters(codec=None)))
def test_nothing_but_what_prints_is_left(text: str) -> None:
    found = printable(text)
    found.encode("utf-8")
    assert not {unicodedata.category(c) for c in found} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert printable(found) == found
