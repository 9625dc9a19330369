"""What users read is plain: no banned word, no sentence that is too long (`tests/language.py`)."""

import language
from language import Text, faults, limit_of, sentences, sums, texts


def test_every_sentence_keeps_the_rules() -> None:
    found = [fault for text in texts() for fault in faults(text, limit_of(text.room))]
    assert not found, "\n".join(found)


def test_the_command_line_is_read() -> None:
    """Help, refusals, warnings and docstrings of commands are among the texts."""
    shown = {text.text for text in texts()}
    assert "recompute activations in backward" in shown
    assert any(text.startswith("x takes one value. Given: ") for text in shown)
    assert any("Predict memory and step time of fine-tuning MODEL." in text for text in shown)
    assert any("does not support bfloat16" in text for text in shown)


def test_a_fault_is_seen() -> None:
    plain = Text("cli", "here:1", "The GPU has 23.5 GiB; QLoRA fits.")
    assert not list(faults(plain, 15))
    assert [len(words) for words in sentences(plain.text)] == [4, 2]
    old = Text("cli", "here:2", f"A card whose memory is told. {'word ' * 16}")
    assert len(list(faults(old, 15))) == 4
    assert sums([plain], 15).reading_ease > 60 > sums([old], 15).sentences


def test_a_word_is_banned_as_a_whole_word_in_any_case() -> None:
    pattern = language.banned_pattern()
    assert pattern.search("Whose GPU") and pattern.search("two cards")
    assert not pattern.search("a discarded --card-size option")
