"""Tables on a terminal of 80 columns: no word, key or number is broken, whichever command printed
them; what does not fit is left out by name."""

import io
import shlex
from collections.abc import Iterator, Sequence

import pytest
from rich.console import Console

from commands import Run
from lora_profiler.report import terminal
from lora_profiler.report.blocks import Block, Row, Table, without_columns

COMMANDS = (
    "plan meta-llama/Llama-3.1-8B --gpus 'rtx_4090, 2xh100_sxm_80gb' --tokens 10M --ranks 16",
    "plan meta-llama/Llama-3.1-8B --gpus gh200_96gb --tokens 30M --ranks 16",
    "plan meta-llama/Llama-3.1-70B --cluster 8xh100-80gb",
    "meta-llama/Llama-3.1-8B --gpu rtx_4090",
    "meta-llama/Llama-3.1-8B --world-size 8 --sharding fsdp --gpu h100_sxm_80gb --detail",
    "meta-llama/Llama-3.1-8B gpt2 Qwen/Qwen2.5-7B --method lora,qlora",
    "gpt2 --lengths mean=600,max=1024,samples=50000 --gpu a100_sxm_80gb --detail",
    "meta-llama/Llama-3.1-8B --method lora --per-layer --explain",
    "crossover meta-llama/Llama-3.1-8B",
    "compare benchmarks/records",
    "models",
    "gpus",
)


def drawn(blocks: Sequence[Block], width: int) -> str:
    out = io.StringIO()
    terminal.show(
        blocks, Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    )
    return out.getvalue()


def words_of(table: Table) -> Iterator[str]:
    """Those of its headings but the first, which a row of its own does without, and of its
    cells."""
    for label in table.columns[1:]:
        yield from label.split()
    for row in table.rows:
        for cell in row.cells:
            yield from cell.split()


def assert_whole(table: Table, width: int) -> str:
    text = drawn([table], width)
    assert max(map(len, text.splitlines())) <= width, text
    left_out = text.partition("A wider terminal also shows: ")[2]
    names = " ".join(left_out.split()).removesuffix(".").split("; ") if left_out else []
    assert set(names) <= set(table.spare)
    shown = set(text.replace(";", " ").split())
    lost = [w for w in words_of(without_columns(table, names)) if w not in shown]
    assert not lost, (lost, text)
    return text


@pytest.mark.parametrize("words", COMMANDS)
def test_no_word_of_a_table_is_broken(
    words: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[Table] = []
    plain = terminal.plain

    def kept(blocks: Sequence[Block], width: int = 100) -> str:
        tables.extend(block for block in blocks if isinstance(block, Table))
        return plain(blocks, width)

    monkeypatch.setattr(terminal, "plain", kept)
    done = run(*shlex.split(words))
    assert tables, done
    for table in tables:
        assert_whole(table, 80)


WIDE = Table(
    columns=("", "sharding", "micro-batch", "tokens a second"),
    rows=(
        Row(cells=("LoRA r16", "fsdp-no-reshard", "1 x 16", "4,559 to 6,267")),
        Row(cells=("weights",), kind="section"),
        Row(cells=("full", "", "2 x 8", "12,345.67"), indent=1),
    ),
    left=2,
    spare=("micro-batch",),
)


def test_first_headings_wrap_then_columns_go_then_rows_are_paragraphs() -> None:
    assert "micro-batch  tokens a second" in assert_whole(WIDE, 80)
    wrapped = assert_whole(WIDE, 54)
    assert "also shows" not in wrapped and "tokens a second" not in wrapped
    assert "A wider terminal also shows: micro-batch." in assert_whole(WIDE, 48)
    paragraphs = assert_whole(WIDE, 30)
    assert "LoRA r16\n  sharding fsdp-no-reshard;\n" in paragraphs
