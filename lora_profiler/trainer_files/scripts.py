"""The arguments of a notebook or script, Unsloth's or a plain one with PEFT, as far as its text
tells, and of a command line of TRL's scripts, as documents: nothing is run."""

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from math import isfinite
from operator import add, mul, sub
from pathlib import Path
from typing import Any, NamedTuple

from lora_profiler.trainer_files.document import Document, Entry, TrainerFileError, is_writable
from lora_profiler.trainer_files.frameworks.accelerate import COUNTED_BY_TORCHRUN
from lora_profiler.trainer_files.frameworks.peft import (
    ADAPTED,
    LOADED,
    PREPARED,
    QUANTIZED,
    STEPPED,
    TRAINED,
)
from lora_profiler.trainer_files.frameworks.trl import TASK
from lora_profiler.trainer_files.frameworks.unsloth import STANDBY
from lora_profiler.trainer_files.meaning import size

MAX_BYTES = 16_000_000
"""Notebooks hold pictures."""
MAX_CODE = 400_000
"""Characters of code in a script or notebook, of which Python's parser makes 600 times as much."""
LONGEST_NAME = 200
"""Of a function whose name is looked at: patterns of names try its parts again and again."""
_CONFIGURED = r"\w*(Config|Arguments|Trainer)"
_FAST = r"Fast\w*(Model|Transformer)"
_OF_UNSLOTH = rf"{_FAST}\.(from_pretrained|get_peft_model)|{_CONFIGURED}"
_OF_A_SCRIPT = (
    r"(?!Peft)\w*(Auto\w*Model|For[A-Z]|LMHead)\w*\.from_pretrained|get_peft_model"
    rf"|prepare_model_for_kbit_training|(optimizers\.)?create_lorafa_optimizer|{_CONFIGURED}"
)
_ADAPTERS = (
    r"(AdaLora|Adamss|AdaptionPrompt|BOFT|Beft|Bone|C3A|CPT|Cartridge|Deft|Delora|FourierFT|Frod"
    r"|Glora|Gralora|HRA|Hira|IA3|LNTuning|Lily|LoHa|LoKr|Lora|Miss|MultitaskPromptTuning|OFT|OSF"
    r"|Peanut|Poly|PrefixTuning|PromptEncoder|PromptTuning|Psoft|Pvera|RandLora|Road|Shadow|Shira"
    r"|Supertuning|TinyLora|TrainableTokens|UniLora|VBLoRA|Vera|WaveFT|XLora)Config"
)
"""PEFT's classes of adapters, as of 0.21."""
_CALLED: Mapping[str, str] = {
    r".*\.from_pretrained": LOADED,
    _ADAPTERS: ADAPTED,
    "prepare_model_for_kbit_training": PREPARED,
    "(GPTQ|Awq|FineGrainedFP8)Config": QUANTIZED,
    r"(optimizers\.)?create_lorafa_optimizer": STEPPED,
    r"\w*Trainer": TRAINED,
}
"""The keys of a script that say what is called; each with the name of it."""
_TASK_OF = {
    f"{name.upper()}Trainer": name for name in ("grpo", "dpo", "orpo", "kto", "cpo", "rloo")
}
"""Unsloth's trainers beside SFTTrainer, as TRL's command line names them."""
_OTHER_UNSLOTH_TRAINERS = {"SentenceTransformerTrainer": TRAINED}
"""Of Unsloth's notebooks: other keys tell which of TRL's trainers it is."""
_LENGTHS = r"(?i)(max_)?(seq(uence)?_?)?len(gth)?|block_size"
"""Names that scripts give to the length of their sequences."""
_HAS_BF16 = r"is_bf(loat)?16_supported$"
_LONE_SURROGATE = r"[\ud800-\udfff]"
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
}
_UNKNOWN = object()
_MAGIC = r"(?m)^(\s*)[!%?].*$"


def cells_of(text: str, name: str) -> list[str]:
    """The code cells of a notebook, or a script as one."""
    if not name.endswith(".ipynb"):
        return [text]
    try:
        cells = json.loads(text)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except json.JSONDecodeError as e:
        raise TrainerFileError(
            f"{name}, line {e.lineno}, is no notebook: not valid JSON: {e.msg}."
        ) from None
    except (KeyError, TypeError, RecursionError):
        raise TrainerFileError(f"{name} is no notebook: it has no list of cells.") from None


def parse_calls(text: str, name: str, folder: Path | None) -> Document:
    """The keyword arguments of the calls that load a model and train it, the first of each name,
    and of a plain script what it calls and the length that it names. Lines are counted over the
    code cells.

    Values that are neither written there nor assigned plainly above are left out, as are cells that
    are no Python.
    """
    constants: dict[str, Any] = {}
    entries: dict[str, Entry] = {}
    computed: dict[str, int] = {}
    wrong = ""
    cells = cells_of(text, name)
    if sum(map(len, cells)) > MAX_CODE:
        raise TrainerFileError(
            f"{name} has more than {MAX_CODE:,} characters of code; a training script has some"
            " thousand."
        )
    start, calls = 0, _OF_UNSLOTH if re.search(rf"\b{_FAST}\b", text) else _OF_A_SCRIPT
    for cell in cells:
        source = re.sub(_MAGIC, r"\1pass", cell)
        try:
            _add_cell(ast.parse(source), start, calls, constants, entries, computed)
        except SyntaxError as e:
            wrong = wrong or f", line {start + (e.lineno or 0)}, is not valid Python: {e.msg}"
        except (ValueError, RecursionError, MemoryError):
            pass
        start += cell.count("\n") + 1
    if calls == _OF_A_SCRIPT:
        if TRAINED not in entries:
            raise TrainerFileError(
                f"{name}{wrong or ': no call of a Trainer is read there'};"
                " `lora-profile rehearse` runs any script."
            )
    elif "model_name" not in entries:
        raise TrainerFileError(f"{name}: no call of from_pretrained with a model is read there.")
    unread = {key: line for key, line in computed.items() if key not in entries}
    return Document(name, entries, folder, unread)


def _add_cell(
    tree: ast.AST,
    start: int,
    calls: str,
    constants: dict[str, Any],
    entries: dict[str, Entry],
    computed: dict[str, int],
) -> None:
    for node in _in_order(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], _plain(node.value, constants)
            if ast.unparse(target) == f"os.environ['{STANDBY}']":
                entries.setdefault(STANDBY, Entry(STANDBY, value, start + node.lineno))
            if isinstance(target, ast.Name) and value is not _UNKNOWN:
                constants.setdefault(target.id, value)
                if calls == _OF_A_SCRIPT and re.fullmatch(_LENGTHS, target.id):
                    line = start + node.lineno
                    entries.setdefault("max_length", Entry("max_length", value, line))
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func).removeprefix("transformers.").removeprefix("peft.")
            if len(function) > LONGEST_NAME or not re.fullmatch(calls, function):
                continue
            is_script = calls == _OF_A_SCRIPT
            called = _CALLED if is_script else _OTHER_UNSLOTH_TRAINERS
            _add_called(called, function, start + node.lineno, entries)
            if not is_script and (task := _TASK_OF.get(function)) is not None:
                entries.setdefault(TASK, Entry(TASK, task, start + node.lineno))
            for key, value in _arguments(node, function):
                line, plain = start + value.lineno, _plain(value, constants)
                if plain is _UNKNOWN:
                    computed.setdefault(key, line)
                else:
                    entries.setdefault(key, Entry(key, plain, line))


def _in_order(tree: ast.AST) -> Iterator[ast.Assign | ast.Call]:
    """Assignments before the calls of the same line, both as they stand in the file, but for what
    stands behind `if False`."""
    dead = {
        id(n)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Constant)
        for statement in (branch.orelse if branch.test.value else branch.body)
        for n in ast.walk(statement)
    }
    nodes = [
        n for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.Call) and id(n) not in dead
    ]
    yield from sorted(nodes, key=lambda n: (n.lineno, isinstance(n, ast.Call), n.col_offset))


def _add_called(
    called: Mapping[str, str], function: str, line: int, entries: dict[str, Entry]
) -> None:
    for pattern, key in called.items():
        if re.fullmatch(pattern, function):
            name = function.removesuffix(".from_pretrained")
            entries.setdefault(key, Entry(key, name, line))


def _arguments(call: ast.Call, function: str) -> Iterator[tuple[str, ast.expr]]:
    named = [(word.arg, word.value) for word in call.keywords if word.arg]
    if call.args and function.endswith("from_pretrained"):
        is_unsloth = function.startswith("Fast")
        key = "model_name" if is_unsloth else "pretrained_model_name_or_path"
        named.insert(0, (key, call.args[0]))
    yield from named


def _plain(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of an expression that is written out, `_UNKNOWN` for one that would have to be
    run."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
        return node.attr
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        value = _plain(node.operand, constants)
        return _UNKNOWN if value is _UNKNOWN else not value
    if isinstance(node, ast.Call) and re.search(_HAS_BF16, ast.unparse(node.func)):
        return True
    if isinstance(node, ast.IfExp):
        test = _plain(node.test, constants)
        kept = node.body if test else node.orelse
        return _UNKNOWN if test is _UNKNOWN else _plain(kept, constants)
    if isinstance(node, ast.BinOp):
        left, right = _plain(node.left, constants), _plain(node.right, constants)
        if isinstance(left, int) and isinstance(right, int):
            operator = _OPERATORS.get(type(node.op))
            return _UNKNOWN if operator is None else _meant(operator(left, right))
        return _UNKNOWN
    try:
        return _meant(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return _UNKNOWN


def _meant(value: Any) -> Any:
    """`_UNKNOWN` for numbers that no argument means, and for text that no file can hold."""
    if isinstance(value, int) and not is_writable(value):
        return _UNKNOWN
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, str) and not value.isascii() and re.search(_LONE_SURROGATE, value):
        return _UNKNOWN
    return value


# --- a command line of TRL's scripts --------------------------------------------------------------


_TASKS = ("sft", "dpo", "grpo", "kto", "orpo", "cpo", "reward", "rloo", "gkd", "online_dpo", "ppo")
_LAUNCHERS = ("accelerate", "torchrun", "deepspeed", "python", "python3", "uv", "trl")
_SCRIPT = r".*?(?P<name>[\w\-]+)\.py"
_LAUNCH_KEYS = {
    **dict.fromkeys(
        ("num_processes", "nproc_per_node", "nproc-per-node", "num_gpus"), "num_processes"
    ),
    "mixed_precision": "mixed_precision",
    "zero_stage": "deepspeed_config.zero_stage",
    "offload_optimizer_device": "deepspeed_config.offload_optimizer_device",
    "offload_param_device": "deepspeed_config.offload_param_device",
    "fsdp_sharding_strategy": "fsdp_config.fsdp_sharding_strategy",
    "fsdp_offload_params": "fsdp_config.fsdp_offload_params",
}


class Word(NamedTuple):
    text: str
    line: int


class Command(NamedTuple):
    """The script's arguments, what the launcher was told, and the accelerate file that it names."""

    script: Document
    launcher: Document
    accelerate_file: str | None


def words_of(text: str, name: str) -> list[Word]:
    """The words of a command, with the line that each stands in."""
    stream = StringIO(text.replace("\\\n", " \n"))
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    words: list[Word] = []
    line, counted = 1, 0
    try:
        while (token := lexer.get_token()) is not None:
            read = stream.tell()
            end = read - text.endswith("\n", 0, read)  # the line that a word ends is its own
            line += text.count("\n", counted, end)
            counted = max(counted, end)
            words.append(Word(token, line))
    except ValueError as e:
        raise TrainerFileError(f"{name} is no command line: {str(e).lower()}.") from None
    return words


def is_command(words: Sequence[Word]) -> bool:
    """Whether the words begin as a training command does."""
    rest = list(_without_assignments(words))
    return bool(rest) and (rest[0].text in _LAUNCHERS or bool(re.fullmatch(_SCRIPT, rest[0].text)))


def parse_command(words: Sequence[Word], name: str, folder: Path) -> Command:
    """Raises TrainerFileError for a command that starts none of TRL's scripts."""
    rest = list(_without_assignments(words))
    start = next((n for n, word in enumerate(rest) if _task_of(rest, n) is not None), None)
    if start is None:
        raise TrainerFileError(
            f"{name}: no script of TRL is started there, as in `trl sft ...` or `python sft.py"
            " ...`."
        )
    task = _task_of(rest, start)
    entries = {TASK: Entry(TASK, task, rest[start].line)}
    for entry in _options(rest[start + 1 :], name):
        entries[entry.key] = entry
    launched = {entry.key: entry for entry in _options(rest[:start], name)}
    named = launched.get("config_file") or entries.pop("accelerate_config", None)
    launcher = dict(launched)
    for key in ("num_processes", "mixed_precision"):
        if key in entries:
            launcher[key] = entries.pop(key)
    known = {
        to: Entry(to, launcher[key].value, launcher[key].line)
        for key, to in _LAUNCH_KEYS.items()
        if key in launcher
    }
    if "num_processes" in known and known["num_processes"].value not in COUNTED_BY_TORCHRUN:
        of_each = known["num_processes"]
        try:
            ranks = size(of_each.value) * _nodes(rest[:start], launcher)
        except ValueError as e:
            raise TrainerFileError(f"{name}: the launcher's number of processes: {e}") from None
        known["num_processes"] = of_each._replace(value=ranks)
    if "multi_gpu" in launcher:
        known["distributed_type"] = Entry(
            "distributed_type", "MULTI_GPU", launcher["multi_gpu"].line
        )
    return Command(
        script=Document(name, entries, folder),
        launcher=Document(name, known, folder),
        accelerate_file=None if named is None else str(named.value),
    )


def _nodes(launcher: Sequence[Word], entries: Mapping[str, Entry]) -> int:
    """Machines whose processes are counted apart: torchrun and deepspeed count those of each, as
    accelerate does not. A range (1:4) is of an elastic launch, whose least is taken."""
    if any(word.text == "accelerate" for word in launcher):
        return 1
    named = next((entries[key].value for key in ("nnodes", "num_nodes") if key in entries), 1)
    return size(str(named).partition(":")[0])


def _task_of(words: Sequence[Word], n: int) -> str | None:
    word = words[n].text
    if n and words[n - 1].text == "trl" and word in _TASKS:
        return word
    script = re.fullmatch(_SCRIPT, word)
    if script is None:
        return None
    stem = script["name"].replace("run_", "")
    return next((task for task in sorted(_TASKS, key=len)[::-1] if task in stem), "sft")


def _without_assignments(words: Sequence[Word]) -> Iterator[Word]:
    """The command behind prompts and variables: $ HF_HUB_OFFLINE=1 trl sft."""
    rest = list(words)
    while rest and (rest[0].text in ("$", ">", "!", "time") or re.match(r"!?\w+=", rest[0].text)):
        rest.pop(0)
    yield from rest


def _options(words: Sequence[Word], name: str) -> Iterator[Entry]:
    """--key value, --key=value, --key a b c, and --key alone, which is on."""
    n = 0
    while n < len(words):
        word = words[n]
        n += 1
        if not word.text.startswith("--") or len(word.text) == 2:
            continue
        key, equals, value = word.text[2:].partition("=")
        if equals:
            yield Entry(key, plain(value), word.line)
            continue
        values = []
        while n < len(words) and not words[n].text.startswith("--"):
            values.append(plain(words[n].text))
            n += 1
        on: Any = True if not values else values[0] if len(values) == 1 else values
        yield Entry(key.replace("-", "_"), on, word.line)


def plain(text: str) -> Any:
    """A word as YAML would read it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("none", "null"):
        return None
    for kind in (int, float):
        try:
            value = _meant(kind(text))
        except ValueError:
            continue
        return text if value is _UNKNOWN else value
    return text
