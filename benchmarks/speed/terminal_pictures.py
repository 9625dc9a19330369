"""Pictures of answers in a terminal, for README and docs: what the command prints, in colour.

    python -m benchmarks.speed.terminal_pictures

Runs every command of `SHOWN` in a terminal of 80 columns, offline, and writes what it prints as
`docs/pictures/NAME.svg` and, on a dark background, `docs/pictures/NAME-dark.svg`. A rehearsal needs
LORA_PROFILER_CUDA_PYTHON, a Python with a CUDA build of torch; without it its picture stays as it
is. tests/project/test_readme.py compares the letters of the others with what the commands print.
"""

import html
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.color_triplet import ColorTriplet
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI, TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 80
SHOWN = {
    "answer": "lora-profile meta-llama/Llama-3.1-8B --gpu rtx_4090",
    "file": "lora-profile examples/qlora.yml --gpu rtx_4090",
    "rehearse": ("lora-profile rehearse --gpu rtx_4090 -- python examples/rehearse/plain_loop.py"),
}
"""Commands by the name of their picture."""
_REMOTE_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def themes() -> dict[str, TerminalTheme]:
    """By the ending of a picture's name."""
    light = TerminalTheme((246, 248, 250), (31, 35, 40), [(0, 0, 0)] * 8)
    light.ansi_colors = DEFAULT_TERMINAL_THEME.ansi_colors
    dark = DIMMED_MONOKAI
    dark.foreground_color = ColorTriplet(230, 230, 230)
    return {"": light, "-dark": dark}


def needs_cuda(command: str) -> bool:
    return command.startswith("lora-profile rehearse ")


def printed(command: str) -> str:
    """Standard output with its escape codes, as a terminal of true colour gets it."""
    program, *words = shlex.split(command)
    assert program == "lora-profile"
    cuda = os.environ.get("LORA_PROFILER_CUDA_PYTHON")
    ours, theirs = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "examples")
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        env |= {
            "PATH": f"{Path(cuda).parent if cuda else folder}{os.pathsep}{env['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LORA_PROFILER_CACHE": folder,
            "HF_HUB_OFFLINE": "1",
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "COLUMNS": str(COLUMNS),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "lora_profiler", *words],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=env,
            cwd=folder,
        )
        os.close(theirs)
        blocks = []
        try:
            while block := os.read(ours, 65536):
                blocks.append(block)
        except OSError:  # which is how Linux ends a terminal that nobody writes to
            pass
        os.close(ours)
        process.wait()
    return b"".join(blocks).decode("utf-8").replace("\r\n", "\n")


def picture(command: str, output: str, theme: TerminalTheme) -> str:
    """An SVG that sends no request for a font."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, color_system="truecolor")
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi(output.rstrip("\n")))
    svg = _REMOTE_FONT.sub("", console.export_svg(title="", theme=theme, unique_id="terminal"))
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def letters(text: str) -> str:
    """Without spaces, which an SVG leaves to the places of its words."""
    return "".join(text.split())


def letters_of(svg: str) -> str:
    """Of the lines of the terminal, in their order."""
    spans = re.findall(r"<text [^>]*\bclip-path=[^>]*>([^<]*)</text>", svg)
    return letters(html.unescape("".join(spans)))


def main() -> None:
    for name, command in SHOWN.items():
        if needs_cuda(command) and "LORA_PROFILER_CUDA_PYTHON" not in os.environ:
            print(f"{name}: left as it is, LORA_PROFILER_CUDA_PYTHON is not set")
            continue
        output = printed(command)
        for suffix, theme in themes().items():
            path = PICTURES / f"{name}{suffix}.svg"
            path.write_text(picture(command, output, theme), "utf-8")
            print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
