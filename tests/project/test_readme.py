"""Everything that README and docs show is what happens."""

import doctest
import re
import shlex
import subprocess
from contextlib import chdir
from importlib import import_module
from pathlib import Path

import pytest
from click import Context
from rich.text import Text

import lora_profiler
from benchmarks.speed.terminal_pictures import (
    PICTURES,
    letters,
    letters_of,
    needs_cuda,
    printed,
    themes,
)
from benchmarks.speed.terminal_pictures import SHOWN as PICTURE_OF
from built_pages import broken_lines
from commands import OFFLINE, in_this_process
from lora_profiler._common.packages import MOVED
from lora_profiler.cli.main import root
from readme import (
    ACCURACY,
    DESIGN,
    FOLDERS,
    INDEX,
    PAGES,
    README,
    ROOT,
    Transcript,
    run,
    sessions,
    setup_commands,
    transcripts,
    with_accuracy,
    with_rooms,
)

TEXT = README.read_text("utf-8")
TEXTS = {page: page.read_text("utf-8") for page in PAGES}
GUIDES = {page: text for page, text in TEXTS.items() if page.parent.name == "guide"}
BANNED = re.compile(
    r"(?i)\b(?:told|tells?|asked|beside|whose|nobody|stands?|foretold|pretended|reserve"
    r"|trains otherwise|harness'?|cards?)\b"
)
CHANGES = (ROOT / "CHANGELOG.md").read_text("utf-8")
SHOWN = [transcript for text in TEXTS.values() for transcript in transcripts(text)]
SESSIONS = [session for text in TEXTS.values() for session in sessions(text)]


def marks(text: str) -> list[pytest.MarkDecorator]:
    """What measures or traces a model takes ten times as long as all else."""
    trains = re.search(r"lora-profile (bench|compile) [^-]| measure\(", text)
    return [pytest.mark.slow] if trains else []


PLAIN = re.compile(r"lora-profile ([^|;&$<>`\\\n]*?)( 2>/dev/null)?(?: \| (.*))?")
"""Words, whether stderr is dropped, and what the output goes through."""


def said(command: str, folder: Path) -> tuple[str, int]:
    """As `run` does, but that `lora-profile` runs in this process where its words are plain."""
    plain = PLAIN.fullmatch(re.sub(r" \\\n +", " ", command))
    if plain is None or re.search(r"[ep] (bench|compile) [^-]", command):
        return run(command)
    words, is_quiet, filters = plain.groups()
    for name in FOLDERS:
        (folder / name).symlink_to(ROOT / name)
    own = {"COLUMNS": "80", "LORA_PROFILER_CACHE": str(folder)}
    with chdir(folder):
        asked = {"environment": OFFLINE | own, "together": not is_quiet}
        done = in_this_process(*shlex.split(words), **asked)
    if filters is None:
        return done.stdout, done.exit_code
    through = subprocess.run(
        ["sh", "-c", filters], input=done.stdout, capture_output=True, text=True
    )
    return through.stdout, through.returncode


@pytest.mark.parametrize(
    "transcript",
    [pytest.param(t, marks=marks(t.command) if t.code == 0 else [], id=t.command) for t in SHOWN],
)
def test_transcript(transcript: Transcript, tmp_path: Path) -> None:
    output, code = said(transcript.command, tmp_path)
    assert output == transcript.output, "after a wanted change: python tests/readme.py --update"
    assert code == transcript.code


@pytest.mark.parametrize(
    "session", [pytest.param(s, marks=marks(s), id=str(n)) for n, s in enumerate(SESSIONS)]
)
def test_python_session(session: str) -> None:
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    test = parser.get_doctest(session, {}, "session", "session", 0)
    assert test.examples
    assert runner.run(test).failed == 0


OLDER = {
    name: getattr(import_module(f"lora_profiler.{home}"), name)
    for home, names in MOVED.items()
    for name in names.split()
}
PUBLIC = {name: getattr(lora_profiler, name) for name in lora_profiler.__all__} | OLDER
EXAMPLES = {name: doc for name, of in sorted(PUBLIC.items()) if ">>>" in (doc := of.__doc__ or "")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks(doc)) for name, doc in EXAMPLES.items()]
)
def test_example_in_a_docstring(name: str) -> None:
    examples = doctest.DocTestParser().get_doctest(EXAMPLES[name], {}, name, name, 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples).failed == 0


def test_every_public_name_has_an_example() -> None:
    names = {name for name in PUBLIC if not name.endswith("Error")}
    assert names - set(EXAMPLES) == {"__version__"}


def test_accuracy_is_that_of_the_committed_results() -> None:
    for page in (README, INDEX, ACCURACY):
        assert with_accuracy(page, TEXTS[page]) == TEXTS[page], (
            "after new results: python tests/readme.py --update"
        )


def test_there_are_exactly_two_setup_commands() -> None:
    first, second = setup_commands(TEXT)
    assert "lora-profile bench SmolLM2-135M --timing-seconds 10 --report" in first
    assert "pytest" in second


def test_the_first_screen_has_install_command_picture_and_proof() -> None:
    screen = "\n".join(TEXT.splitlines()[:36])
    places = [screen.index(word) for word in ("pip install .", PICTURE_OF["answer"], "answer.svg")]
    assert places == sorted(places)
    assert screen.index("not measured a run on a GPU ourselves") < screen.index("- **125 peaks")


def test_every_command_and_option_group_is_shown() -> None:
    commands = [t.command for t in SHOWN]
    shown = (
        "predict --help", "--help", "--per-layer", "--explain", "--gpu", "--checkpointing",
        "qlora", "models", "gpus", "bench EleutherAI", "bench --help",
        "compare benchmarks/records",
    )  # fmt: skip
    for needed in shown:
        assert any(needed in command for command in commands), needed


def test_the_rooms_are_those_of_the_code() -> None:
    page = TEXTS[DESIGN]
    assert with_rooms(DESIGN, page) == page, "python tests/readme.py --update writes them anew"
    for path in sorted((ROOT / "lora_profiler").iterdir()):
        if not path.name.startswith("_") and path.name != "py.typed":
            assert f"`{path.name}{'/' * path.is_dir()}`" in page


def test_the_readme_ends_before_one_scrolls_for_long() -> None:
    assert len(TEXT.splitlines()) < 120


def test_a_guide_is_short() -> None:
    """Words outside transcripts."""
    lengths = {page.name: len(_prose(text).split()) for page, text in GUIDES.items()}
    assert lengths and {name: n for name, n in lengths.items() if n >= 900} == {}


def test_readme_and_guides_are_in_plain_english() -> None:
    """Words that readers stop at, and "card" where a GPU is meant."""
    found = {
        page.name: hits
        for page, text in {README: TEXT, INDEX: TEXTS[INDEX], **GUIDES}.items()
        if (hits := BANNED.findall(_shown_prose(text)))
    }
    assert found == {}


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _shown_prose(text: str) -> str:
    """Without code, addresses and what is generated."""
    text = re.sub(r"<[^>]*>|\]\([^)]*\)", "", _prose(text), flags=re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


PICTURED = [name for name, command in PICTURE_OF.items() if not needs_cuda(command)]


@pytest.mark.parametrize("name", PICTURED)
def test_a_picture_of_a_terminal_has_what_the_command_prints(name: str) -> None:
    command = PICTURE_OF[name]
    shown = letters(f"$ {command}{Text.from_ansi(printed(command)).plain}")
    for suffix in themes():
        picture = (PICTURES / f"{name}{suffix}.svg").read_text("utf-8")
        assert letters_of(picture) == shown, "python -m benchmarks.speed.terminal_pictures"
        assert "@font-face" not in picture and "url(http" not in picture


MADE = ROOT / "docs" / "predict.html"
"""By `mkdocs build`, which refuses a link to what it does not have."""


def test_every_link_between_pages_leads_somewhere() -> None:
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith(("http:", "https:")):
                path = (page.parent / target).resolve()
                assert path == MADE or path.exists(), f"{page.name} links to {target}"


def test_every_fence_is_one_that_the_pages_show_as_code() -> None:
    """To Python-Markdown, which makes the pages, a word behind a fence's language is prose."""
    for page, text in TEXTS.items():
        fences = [line for line in text.splitlines() if line.startswith("```")]
        strange = [line for line in fences if not re.fullmatch(r"```(\w*|\{\.\w+ .+\})", line)]
        assert not strange and len(fences) % 2 == 0, (page.name, strange)


def test_no_list_runs_into_a_paragraph_of_the_pages() -> None:
    """As Python-Markdown makes them, which wants an empty line before a list."""
    markdown = pytest.importorskip("markdown").markdown
    found = {
        page.name: broken_lines(markdown(text, extensions=["attr_list", "tables", "fenced_code"]))
        for page, text in TEXTS.items()
        if page != README
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert broken_lines(markdown("Said:\n- one\n- two")) == ["- one", "- two"]
    assert broken_lines(markdown("Said:\n\n- one\n\n`- x`")) == []


def test_a_picture_is_there_in_full_size() -> None:
    pages = (page for page in TEXTS if page != README)
    shown = [line.strip() for page in pages for line in TEXTS[page].splitlines() if "![" in line]
    assert shown
    assert [line for line in shown if not re.fullmatch(r"\[!\[.+\]\((.+)\)\]\(\1\)", line)] == []


def test_a_command_goes_on_behind_a_backslash() -> None:
    text = "```{.console exit=1}\n$ test a \\\n    = b\nsaid\n```\n"
    (transcript,) = transcripts(text)
    assert (transcript.command, transcript.output) == ("test a \\\n    = b", "said\n")
    assert run(transcript.command) == ("", transcript.code)


def test_the_help_of_every_command_is_shown() -> None:
    shown = {t.command for t in SHOWN}
    assert {f"lora-profile {verb} --help" for verb in root.list_commands(Context(root))} <= shown


def test_every_page_is_named_in_the_index() -> None:
    index = TEXTS[ROOT / "docs" / "index.md"]
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "index.md" or f"]({name})" in index, name


def test_the_changelog_has_this_version() -> None:
    assert f"## {lora_profiler.__version__}" in CHANGES


def test_the_changelog_has_one_line_a_change() -> None:
    """A heading, an entry or nothing; details are in git and in the docs."""
    body = CHANGES.partition("\n## ")[2].splitlines()[1:]
    assert [line for line in body if line and not re.match(r"#{2,3} |- ", line)] == []
    assert [line for line in body if len(line) > 140] == []
    assert len(CHANGES.encode()) < 12_000
