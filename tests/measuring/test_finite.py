"""Numbers that are none, or that no float holds: refused wherever they come in, and never
printed."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commands import Run
from lora_profiler.cli.click_support import print_json
from lora_profiler.dashboard.question import Question, from_params
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.measuring.harness import make_case
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.planning.placement import Network, find_cluster, find_network
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.runs.campaign.suites import read_case, write_cases
from lora_profiler.units import parse_bytes

NONE = [math.nan, math.inf, -math.inf, 10**400, 10**5000, True]
DIGITS = "9" * 400
MORE_DIGITS = "9" * 5000
"""More than Python makes an int of."""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["gpt2", "--alpha", text] for text in ("inf", "-inf", "nan", "1e400", "Infinity")),
        *(["gpt2", "--dropout", text] for text in ("nan", "inf", "-inf")),
        *(["gpt2", "--gpu", f"custom:{digits}GiB"] for digits in (DIGITS, MORE_DIGITS)),
        *(
            ["gpt2", "--world-size", "2", "--sharding", "ddp", "--interconnect", f"{text}GB/s"]
            for text in (DIGITS, "inf", "nan")
        ),
        *(
            ["gpt2", "--targets", "c_attn", "--layers-to-transform", text]
            for text in (MORE_DIGITS, f"0-{MORE_DIGITS}")
        ),
        *(["plan", "gpt2", "--cluster", f"{digits}xt4"] for digits in (DIGITS, MORE_DIGITS)),
        ["gpt2", "--rank", MORE_DIGITS],
        *(["bench", "gpt2", "--budget", f"{digits}GiB"] for digits in (DIGITS, MORE_DIGITS)),
        *(
            ["bench", "gpt2", option, text]
            for option in ("--deadline", "--timeout", "--padding")
            for text in ("1e400", "nan")
        ),
        *(
            ["compare", "nothing.jsonl", "--fail-above", f"{text}%"]
            for text in (DIGITS, "1e400", "inf", ".")
        ),
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_the_command_line_refuses_it(run: Run, arguments: list[str]) -> None:
    done = run(*arguments, *([] if "compare" in arguments else ["--offline"]))
    assert (done.exit_code, done.stdout) == (2, ""), done.stderr


@pytest.mark.parametrize("number", NONE, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize(
    "made",
    [
        lambda n: LoraConfig(lora_alpha=n),
        lambda n: LoraConfig(lora_dropout=-n if n is True else n),
        lambda n: LoraConfig(r=n),
        lambda n: TrainSetup(batch_size=n),
        lambda n: TrainSetup(packed=n),
        lambda n: Conditions(budget_bytes=n),
        lambda n: Conditions(max_timing_seconds=n),
        lambda n: Conditions(padding=n),
        lambda n: TrainSetup(padding=-n if n is True else n),
        lambda n: Network(key="mine", bytes_per_second=n),
        lambda n: replace(find_gpu("t4"), bandwidth_gb_s=n),
        lambda n: replace(find_gpu("t4"), memory_bytes_usable=n),
    ],
)
def test_the_api_refuses_it(number: Any, made: Any) -> None:
    with pytest.raises(UsageError):
        made(number)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e400", DIGITS])
@pytest.mark.parametrize("name", ["alpha", "dropout", "rank", "batch-size"])
def test_a_link_that_says_it_keeps_the_default(name: str, text: str) -> None:
    question, complaints = from_params({name: [text]})
    assert question == Question() and len(complaints) == 1


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, "1" + "0" * 5000]
)
@pytest.mark.parametrize("field", ['"alpha": 32', '"padding": 0.0', '"max_timing_seconds": 60.0'])
def test_a_case_file_that_says_it_is_refused(field: str, text: str, tmp_path: Path) -> None:
    case = make_case(Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig())))
    write_cases([case], tmp_path)
    written = (tmp_path / "1.json").read_text()
    assert read_case(tmp_path / "1.json").key == case.key and field in written
    (tmp_path / "1.json").write_text(written.replace(field, field.partition(":")[0] + f": {text}"))
    with pytest.raises(UsageError, match="holds no case"):
        read_case(tmp_path / "1.json")


@pytest.mark.parametrize("text", [f"{DIGITS}GiB", f"{MORE_DIGITS}", "9000000000GiB"])
def test_no_size_is_beyond_64_bits(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bytes(text)


def test_large_but_finite_is_taken() -> None:
    assert LoraConfig(lora_alpha=1e300).alpha == 1e300
    assert parse_bytes("4096TiB") == 2**52
    assert find_network("900GB/s").bytes_per_second == 900 * 10**9
    assert find_cluster("16x8xh100_sxm_80gb").cards == 128


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_printed_is_json(number: float, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that is none would be a mistake of this program; it must not pass for an answer."""
    with pytest.raises(ValueError):
        print_json({"number": number}, None)
    assert capsys.readouterr().out == ""
    print_json({"number": 1.5}, None)
    assert json.loads(capsys.readouterr().out) == {"number": 1.5}
