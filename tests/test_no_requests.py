"""A bundled model is answered without a request: no command looks up a host or opens a connection
for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCHED = (
    "import sys\ndef told(event, arguments):\n    if event in ('socket.connect',"
    " 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'):\n        print('REQUEST',"
    " event, file=sys.stderr, flush=True)\nsys.addaudithook(told)\nfrom lora_profiler.cli.main"
    " import main\nmain(sys.argv[1:])\n"
)
"""`lora-profile` in a process whose interpreter tells of every look-up and every connection."""


def requests_of(arguments: list[str], home: Path) -> tuple[int, int]:
    """(exit code, requests) of `lora-profile ARGUMENTS`, without a cache of the hub and with the
    hub where nobody answers."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    clean |= {
        "HF_HOME": str(home),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "LORA_PROFILER_CACHE": str(home),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        capture_output=True,
        text=True,
        env=clean,
        timeout=120,
    )
    return done.returncode, done.stderr.count("REQUEST")


@pytest.mark.parametrize(
    "arguments",
    [
        ["meta-llama/Llama-3.1-8B"],
        ["SmolLM2-135M", "--format", "json", "--explain"],
        ["https://huggingface.co/Qwen/Qwen2.5-7B", "--method", "qlora", "--gpu", "h100_sxm_80gb"],
        ["openai/gpt-oss-20b", "--engine", "analytic", "--per-layer"],
        ["plan", "gpt2", "--cluster", "2xa100_sxm_80gb"],
        ["models", "llama"],
        ["gpus", "4090"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_what_is_bundled_is_answered_without_a_request(
    tmp_path: Path, arguments: list[str]
) -> None:
    assert requests_of(arguments, tmp_path) == (0, 0)


def test_a_request_would_have_been_seen(tmp_path: Path) -> None:
    code, requests = requests_of(["org/not-bundled"], tmp_path)
    assert code == 3 and requests > 0
    assert requests_of(["org/not-bundled", "--offline"], tmp_path) == (3, 0)
