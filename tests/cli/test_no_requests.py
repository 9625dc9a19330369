"""A bundled model is answered without a request: no command looks up a host or opens a connection
for it."""

import json
import os
from pathlib import Path

from commands import in_python

WATCHED = """
import contextlib, io, json, sys

requests = []

def told(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        requests.append(event)

sys.addaudithook(told)
from lora_profiler.cli.main import main

found = []
for words in json.loads(sys.argv[1]):
    requests.clear()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(words)
        except SystemExit as ended:
            found.append((ended.code or 0, len(requests)))
print(json.dumps(found))
"""
"""`lora-profile` in a process whose interpreter tells of every look-up and every connection."""
BUNDLED = (
    ["meta-llama/Llama-3.1-8B"],
    ["SmolLM2-135M", "--format", "json", "--explain"],
    ["https://huggingface.co/Qwen/Qwen2.5-7B", "--method", "qlora", "--gpu", "h100_sxm_80gb"],
    ["openai/gpt-oss-20b", "--engine", "analytic", "--per-layer"],
    ["plan", "gpt2", "--cluster", "2xa100_sxm_80gb"],
    ["models", "llama"],
    ["gpus", "4090"],
    ["doctor"],
)


def requests_of(home: Path, *commands: list[str]) -> list[tuple[int, int]]:
    """(exit code, requests) of each `lora-profile COMMAND`, without a cache of the hub and with the
    hub where nobody answers."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    clean |= {
        "HF_HOME": str(home),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "LORA_PROFILER_CACHE": str(home),
        "NO_PROXY": "127.0.0.1",
    }
    answers = json.loads(in_python(WATCHED, json.dumps(commands), env=clean))
    return [(code, requests) for code, requests in answers]


def test_what_is_bundled_is_answered_without_a_request(tmp_path: Path) -> None:
    found = requests_of(tmp_path, *BUNDLED)
    assert dict(zip(map(" ".join, BUNDLED), found, strict=True)) == {
        " ".join(words): (0, 0) for words in BUNDLED
    }


def test_a_request_would_have_been_seen(tmp_path: Path) -> None:
    asked, offline = requests_of(tmp_path, ["org/not-bundled"], ["org/not-bundled", "--offline"])
    assert asked[0] == 3 and asked[1] > 0
    assert offline == (3, 0)
