"""The commands and transcripts of README and docs: found, run, compared and written anew.

    python tests/readme.py --setup     prints the two set-up commands, a line each
    python tests/readme.py --update    runs every transcript again and writes its output into its
                                       page; the accuracy of the committed benchmark results into
                                       README.md, docs/index.md and docs/accuracy.md; what trainers
                                       do by default into docs/reference/trainers.md; the rooms of
                                       the code into docs/design.md

A transcript is a fenced block of kind `console`: `$ command`, then everything that it prints.
`{.console exit=1}`, which is how Python-Markdown has it, states an exit code other than 0. A
command goes on in the next line after a backslash. Blocks of kind `pycon` are Python sessions.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "index.md"
ACCURACY = ROOT / "docs" / "accuracy.md"
FOLDERS = ("benchmarks", "examples")
"""What transcripts name, by the paths that readers have."""
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
TRAINERS = ROOT / "docs" / "reference" / "trainers.md"
DESIGN = ROOT / "docs" / "design.md"
_ROOMS_BEGIN, _ROOMS_END = "<!-- rooms:begin -->", "<!-- rooms:end -->"
_TRAINERS_BEGIN = "<!-- trainers: made of lora_profiler/features/trainers, to the end -->"
_BEGIN, _END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
_FENCE = re.compile(
    r"^```(?:\{\.)?(?P<kind>\w+)(?: exit=(?P<code>\d+)\})?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TYPED = re.compile(r"\$ ((?:.*\\\n)*.*)\n")


@dataclass(frozen=True)
class Transcript:
    """One command and what it prints, stdout and stderr together; `start` and `end` are places of
    `output` in its page."""

    command: str
    output: str
    code: int
    start: int
    end: int


def setup_commands(text: str) -> list[str]:
    """The bodies of all blocks of kind `sh`: exactly the set-up commands, a line each."""
    return [
        line
        for match in _FENCE.finditer(text)
        if match["kind"] == "sh"
        for line in match["body"].splitlines()
    ]


def sessions(text: str) -> list[str]:
    return [match["body"] for match in _FENCE.finditer(text) if match["kind"] == "pycon"]


def transcripts(text: str) -> Iterator[Transcript]:
    for match in _FENCE.finditer(text):
        if match["kind"] != "console":
            continue
        body = match["body"]
        typed = _TYPED.match(body)
        assert typed, f"a console block begins with '$ ', not with {body[:80]!r}"
        command, output = typed[1], body[typed.end() :]
        start = match.start("body") + typed.end()
        yield Transcript(command, output, int(match["code"] or 0), start, start + len(output))


def run(command: str) -> tuple[str, int]:
    """(output, exit code) of a shell command in which `lora-profile` is this checkout's, 80 columns
    wide and offline."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "lora-profile"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lora_profiler "$@"\n')
        program.chmod(0o755)
        for name in FOLDERS:
            (Path(folder) / name).symlink_to(ROOT / name)
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {
            "PATH": f"{folder}{os.pathsep}{env['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "80",
            "HF_HUB_OFFLINE": "1",
        }
        env |= {"LORA_PROFILER_CACHE": folder, "XDG_CONFIG_HOME": folder}
        done = subprocess.run(
            ["sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=folder,
            timeout=600,
        )
    return done.stdout, done.returncode


def with_accuracy(page: Path, text: str) -> str:
    """The page with the accuracy of the committed results between its marks: some lines in the
    README and the docs' home, all in docs/accuracy.md."""
    if page not in (README, INDEX, ACCURACY):
        return text
    sys.path.insert(0, str(ROOT))
    from benchmarks.accuracy import headlines, proven

    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    found = proven() if page == ACCURACY else headlines()
    return f"{before}{_BEGIN}\n\n{found}\n\n{_END}{after}"


def with_trainers(page: Path, text: str) -> str:
    """The page with what the stacks say between its marks."""
    if page != TRAINERS:
        return text
    from trainers_page import table

    before, _, _ = text.partition(_TRAINERS_BEGIN)
    return f"{before}{_TRAINERS_BEGIN}\n\n{table()}"


def with_rooms(page: Path, text: str) -> str:
    """The page with the rooms of the package between its marks."""
    if page != DESIGN:
        return text
    from house import drawing

    before, _, rest = text.partition(_ROOMS_BEGIN)
    _, _, after = rest.partition(_ROOMS_END)
    return f"{before}{_ROOMS_BEGIN}\n\n{drawing()}\n{_ROOMS_END}{after}"


def updated(page: Path) -> str:
    text = with_rooms(page, with_trainers(page, with_accuracy(page, page.read_text("utf-8"))))
    for transcript in reversed(list(transcripts(text))):
        output, code = run(transcript.command)
        assert code == transcript.code, (
            f"{transcript.command}: exit code {code}, {page.name} says {transcript.code}"
        )
        text = text[: transcript.start] + output + text[transcript.end :]
    return text


if __name__ == "__main__":
    if sys.argv[1:] == ["--setup"]:
        print(*setup_commands(README.read_text("utf-8")), sep="\n")
    elif sys.argv[1:] == ["--update"]:
        for page in PAGES:
            page.write_text(updated(page), "utf-8")
    else:
        sys.exit(__doc__)
