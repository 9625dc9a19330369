"""The questions that people type, made of public rows: each says what its row says."""

from benchmarks.public.as_typed import notebook_questions, public_questions


def test_every_public_row_says_whether_it_was_checkpointed() -> None:
    questions = list(public_questions())
    assert all(question.checkpointing is not None for question in questions)
    hub = [q for q in questions if q.id.startswith("litgpt-hub")]
    assert hub and not any(q.checkpointing for q in hub)  # 'no (single device)'
    offloaded = [q for q in questions if q.id.startswith("torchtune-flags:7")]
    assert offloaded and all(q.checkpointing for q in offloaded)  # 'yes+offload'


def test_a_length_with_an_underscore_is_read_whole() -> None:
    lengths = {q.id: q.seq_len for q in notebook_questions()}
    assert min(lengths.values()) >= 512
