"""Patterns that a user or a link brings: matched as Python does, and never for ever."""

import re
import subprocess
import sys

import pytest

from lora_profiler.adapters.patterns import verdict
from lora_profiler.adapters.targets import all_names
from lora_profiler.catalog import find_model

WITHOUT_END = (
    "(.*)*(.*)*(.*)*x",
    "(([a-z_.0-9])*)*!",
    "(.|..)*Z",
    r"^(\w+\.?)+$!",
    r"(?:[a-z]|[a-z]\.?|[0-9_.])*!",
)
NO_PATTERNS = (
    "(" * 5000,
    "(?:" * 5000 + "a" + ")" * 5000,
    "a{99999999999999999999}",
    "(?P<a",
    "[",
    "*",
)
HANGS_AFTER_SECONDS = 60.0
"""Each is answered in under a second on an idle machine."""


def refused(*arguments: str) -> str:
    command = [sys.executable, "-m", "lora_profiler", *arguments, "--offline", "--method", "lora"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_SECONDS)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr) < 1000
    return done.stderr


@pytest.mark.parametrize("pattern", WITHOUT_END)
def test_a_pattern_without_end_is_refused(pattern: str) -> None:
    said = refused("predict", "SmolLM2-135M", "--targets", f"re:{pattern}")
    assert said.startswith("Error: target pattern ") and "takes more than 0.25 s to match" in said


@pytest.mark.parametrize("pattern", NO_PATTERNS, ids=range(len(NO_PATTERNS)))
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    assert "is no regular expression: " in refused(
        "predict", "SmolLM2-135M", "--targets", f"re:{pattern}"
    )


def test_a_name_to_save_is_a_pattern_too() -> None:
    """PEFT puts it into one as it stands."""
    said = refused("predict", "SmolLM2-135M", "--modules-to-save", WITHOUT_END[0])
    assert said.startswith("Error: modules_to_save ") and "takes more than" in said


@pytest.mark.parametrize(
    "command", [("compile",), ("predict", "--engine", "traced")], ids=lambda command: command[0]
)
def test_no_trace_begins_with_a_pattern_without_end(command: tuple[str, ...]) -> None:
    """PEFT would match it in the tracing process."""
    pytest.importorskip("peft")
    assert "takes more than" in refused(
        *command, "SmolLM2-135M", "--targets", f"re:{WITHOUT_END[2]}"
    )


ONE_PAGE = """
import sys, threading
from lora_profiler.catalog import find_model
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


@pytest.mark.parametrize("pattern", WITHOUT_END)
def test_a_link_with_a_pattern_without_end_stops_no_other_thread(pattern: str) -> None:
    """The threads of a server share one interpreter, whose lock `re` holds while it matches."""
    pytest.importorskip("streamlit")
    command = [sys.executable, "-c", ONE_PAGE, f"re:{pattern}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_SECONDS)
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
