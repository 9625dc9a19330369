"""Patterns that a user or a link brings: matched as Python does, and never for ever."""

import re
import subprocess
import sys

import pytest

from commands import Run, refused
from lora_profiler.facts.catalog import find_model
from lora_profiler.question.adapters.targets import all_names, verdict

WITHOUT_END = (
    "(.*)*(.*)*(.*)*x",
    "(([a-z_.0-9])*)*!",
    "(.|..)*Z",
    r"^(\w+\.?)+$!",
    r"(?:[a-z]|[a-z]\.?|[0-9_.])*!",
)
NO_PATTERNS = (
    "(" * 5000, "(?:" * 5000 + "a" + ")" * 5000, "a{99999999999999999999}", "(?P<a", "[", "*",
)  # fmt: skip


def refusal(run: Run, *arguments: str) -> str:
    said = refused(run(*arguments, "--offline", "--method", "lora"))
    assert said.startswith("[2] error: ") and len(said) < 1000
    return said.removeprefix("[2] error: ")


@pytest.mark.grid
@pytest.mark.parametrize("pattern", WITHOUT_END)
def test_a_pattern_without_end_is_refused(run: Run, pattern: str) -> None:
    said = refusal(run, "predict", "SmolLM2-135M", "--targets", f"re:{pattern}")
    assert said.startswith("target pattern ") and "takes more than 0.25 s to match" in said


@pytest.mark.parametrize("pattern", NO_PATTERNS, ids=range(len(NO_PATTERNS)))
def test_what_is_no_pattern_is_refused(run: Run, pattern: str) -> None:
    assert "is no regular expression: " in refusal(
        run, "predict", "SmolLM2-135M", "--targets", f"re:{pattern}"
    )


def test_a_name_to_save_is_a_pattern_too(run: Run) -> None:
    """PEFT puts it into one as it stands."""
    said = refusal(run, "predict", "SmolLM2-135M", "--modules-to-save", WITHOUT_END[0])
    assert said.startswith("modules_to_save ") and "takes more than" in said


@pytest.mark.parametrize(
    "command", [("compile",), ("predict", "--engine", "traced")], ids=lambda command: command[0]
)
def test_no_trace_begins_with_a_pattern_without_end(run: Run, command: tuple[str, ...]) -> None:
    """PEFT would match it in the tracing process."""
    pytest.importorskip("peft")
    assert "takes more than" in refusal(
        run, *command, "SmolLM2-135M", "--targets", f"re:{WITHOUT_END[2]}"
    )


ONE_PAGE = """
import sys, threading
from lora_profiler.facts.catalog import find_model
from lora_profiler.dashboard.answered import answered
from lora_profiler.dashboard.link import parsed
from lora_profiler.errors import UsageError

def page():
    link = parsed({"model": ["SmolLM2-135M"], "method": ["lora"], "targets": [sys.argv[1]]})
    assert not link.complaints
    try:
        answered(find_model(link.question.model), link.question)
    except UsageError as e:
        print(e)

thread = threading.Thread(target=page)
thread.start()
waits = 0
while thread.is_alive():
    thread.join(timeout=0.01)
    waits += 1
print(waits)
"""


def test_a_link_with_a_pattern_without_end_stops_no_other_thread() -> None:
    """The threads of a server share one interpreter, whose lock `re` holds while it matches."""
    pytest.importorskip("streamlit")
    command = [sys.executable, "-c", ONE_PAGE, f"re:{WITHOUT_END[0]}"]
    done = subprocess.run(command, capture_output=True, text=True)
    said, waits = done.stdout.splitlines()
    assert "takes more than 0.25 s to match" in said
    assert int(waits) > 5


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        r"model\.layers\.[0-7]\..*",
        ".*",
        "q_proj",
        "(?i).*PROJ",
        r"(?x) .* # all",
        "é.*",
        r".*\.1\d\..*",
    ],
)
def test_what_matches_is_what_re_matches(pattern: str) -> None:
    names = list(all_names(find_model("HuggingFaceTB/SmolLM2-135M")))
    assert verdict(pattern, names, whole=True).keys == {
        name for name in names if re.fullmatch(pattern, name)
    }
    assert verdict(pattern, names, whole=False).keys == {
        name for name in names if re.match(pattern, name)
    }
