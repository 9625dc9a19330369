"""`lora-profile mcp`: the same answers for agents, over the Model Context Protocol on stdin and
stdout."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from lora_profiler._common.packages import __version__
from lora_profiler.cli.click_support import command
from lora_profiler.errors import UsageError

_PATIENCE_SECONDS = 300
_INSTRUCTIONS = """\
Predicts GPU memory and step time of full, LoRA and QLoRA fine-tuning, without a GPU.
Each answer has `text`, the command line's own words: verdict, interval of the peak, what it rests on.
Never state the peak without its interval. Files are read from the server's folder alone.
"""


@command(
    "mcp",
    "Answer agents over the Model Context Protocol.",
    """
It talks over stdin and stdout with the program that started it.
It listens on no port, writes nothing, and reads no file outside its folder.

Examples:
  lora-profile mcp        what the configuration of an MCP client starts

Exit: 0 ended by its client, 2 the SDK is missing.
""",
)
def mcp_command() -> None:
    """Serve predict, fit, plan, read and compare to an agent that starts this command."""
    if find_spec("mcp") is None:
        raise UsageError("mcp needs the MCP SDK: pip install 'lora-profiler[mcp]'.")
    server().run("stdio")


def server() -> Any:
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations

    class Strict(MCPServer):
        """Refuses what a tool does not take, which would be left out without a word."""

        async def call_tool(self, name: str, arguments: Any, *more: Any, **named: Any) -> Any:
            tool = _TOOLS.get(name)
            known = inspect.signature(tool).parameters if tool else arguments
            if other := [key for key in arguments if key not in known]:
                raise ToolError(f"{name} does not know {', '.join(other)}; put it into `options`.")
            return await super().call_tool(name, arguments, *more, **named)

    made = Strict(
        "lora-profiler", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING"
    )
    annotations = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for tool in _TOOLS.values():
        made.tool(annotations=annotations)(tool)
    return made


Options = dict[str, str | int | float | bool | list[str]]


async def predict(
    model: str,
    method: list[str] | None = None,
    gpu: str | None = None,
    trainer: str | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
    rank: int | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Peak memory and step time of fine-tuning a model, with the interval and what it rests on.

    model: a hub id (meta-llama/Llama-3.1-8B), or a trainer's file in the folder.
    method: full, lora, qlora. gpu: t4, rtx_4090, 8xh100, 24GiB. trainer: trl-sft, axolotl, unsloth,
    ... options: others of `lora-profile predict`, as {"checkpointing": true, "dtype": "bfloat16"}.
    """
    named = {"gpu": gpu, "trainer": trainer, "batch_size": batch_size, "seq_len": seq_len}
    asked = {"method": method, "rank": rank, **named, **(options or {})}
    return await _answer("predict", [model], asked)


async def fit(
    model: str,
    gpu: str,
    method: list[str] | None = None,
    trainer: str | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
    rank: int | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Whether fine-tuning fits a GPU, what to change where it does not, and the largest batch size
    and sequence length. Arguments as for predict."""
    sizes = {"batch_size": batch_size, "seq_len": seq_len, "rank": rank}
    return await predict(model, method, gpu, trainer, **sizes, options=options)


async def plan(
    model: str,
    gpus: str,
    tokens: str | None = None,
    method: list[str] | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """The cheapest way to train a model: method, rank, batch, sharding and GPUs, with time and cost.

    gpus: those that can be had, as "rtx_4090,8xh100". tokens: of one epoch, as "10M".
    """
    limits = {"max_hours": max_hours, "max_cost": max_cost}
    asked = {"gpus": gpus, "tokens": tokens, "methods": method, **limits, **(options or {})}
    found = await _answer("plan", [model], asked)
    return {**found, "data": {k: found["data"].get(k) for k in ("recommended", "reason")}}


async def read(file: str) -> dict[str, Any]:
    """How a trainer's file is understood: each setting, and the question that it is."""
    return await _answer("read", [file], {})


async def compare(before: str, after: str, fail_above: str | None = None) -> dict[str, Any]:
    """What changed between two files of `lora-profile ... --format json`, or of `bench`.

    fail_above: a limit, as "1%"; `exit_code` is 1 where something got worse by more.
    """
    names = [before, after] if before.endswith(".json") else [before, f"--against={after}"]
    return await _answer("compare", names, {"fail_above": fail_above})


_TOOLS = {tool.__name__: tool for tool in (predict, fit, plan, read, compare)}


async def _answer(verb: str, names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The text and the JSON of a command. Raises ToolError with its error message."""
    import anyio
    from mcp.server.mcpserver.exceptions import ToolError

    from lora_profiler.cli.options import words_of

    for name in names:
        if name.startswith("-") and not name.startswith("--against="):
            raise ToolError(f"{name} is no name of a model or file.")
    try:
        words = [word for key, value in options.items() for word in words_of(key, value)]
    except UsageError as e:
        raise ToolError(str(e)) from None
    asked = [[verb, *words, *form, *names] for form in ([], ["--format=json"])]
    try:
        text, data = await anyio.to_thread.run_sync(partial(_guarded, asked))
    except (RuntimeError, subprocess.TimeoutExpired) as e:
        raise ToolError(f"no answer: {e}") from None
    if not text["stdout"]:
        raise ToolError(text["stderr"].strip().removeprefix("error: "))
    found = json.loads(data["stdout"])
    return {
        "exit_code": text["code"],
        "text": text["stdout"],
        "notes": text["stderr"],
        "data": found,
    }


def _guarded(asked: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Each command's exit code and output, from a process that reads this folder alone."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lora_profiler.cli.guarded"],
        input=json.dumps(asked),
        capture_output=True,
        check=False,
        text=True,
        timeout=_PATIENCE_SECONDS,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:])
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers
