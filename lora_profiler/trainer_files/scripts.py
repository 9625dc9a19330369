"""The arguments of a notebook or script, Unsloth's or a plain one with PEFT, as far as its text
tells, as a document: nothing is run."""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from operator import add, mul, sub
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_profiler.trainer_files.document import Document, Entry, TrainerFileError, is_writable
from lora_profiler.trainer_files.meaning import TASK

LOADED, ADAPTED, PREPARED, TRAINED = "(loaded by)", "(adapted by)", "(prepared by)", "(trained by)"
QUANTIZED, STEPPED, CONFIGURED = "(quantised by)", "(stepped by)", "(configured by)"
FAST_ADAPTED = "(adapted by Unsloth)"
"""Keys of a script's document: the functions and classes that it calls."""
STANDBY = "UNSLOTH_VLLM_STANDBY"
"""Of the environment, which a notebook sets in its first cells."""
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
    r"(Seq2Seq)?TrainingArguments|(SFT|DPO|GRPO|KTO|ORPO|Reward)Config": CONFIGURED,
}
"""The keys of a script that say what is called; each with the name of it."""
_TASK_OF = {
    f"{name.upper()}Trainer": name for name in ("grpo", "dpo", "orpo", "kto", "cpo", "rloo")
}
"""Unsloth's trainers beside SFTTrainer, as TRL's command line names them."""
_CALLED_OF_UNSLOTH = {
    "SentenceTransformerTrainer": TRAINED,
    rf"{_FAST}\.get_peft_model": FAST_ADAPTED,
}
"""Of Unsloth's notebooks: other keys tell which of TRL's trainers it is."""
_LENGTHS = r"(?i)(max_)?(seq(uence)?_?)?len(gth)?|block_size"
"""Names that scripts give to the length of their sequences."""
_PARSED = r"(\w*_)?(args|arguments|opts?|options)"
"""What scripts call the arguments of their command line."""
_HAS_BF16 = r"is_bf(loat)?16_supported$"
_LONE_SURROGATE = r"[\ud800-\udfff]"
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
}
_UNKNOWN = object()
_MAGIC = r"(?m)^(\s*)[!%?]((?:.*\\\n)*.*)$"
"""A line of a notebook that is none of Python's, with those that it goes on in."""
_SHELL_CELL = r"\s*%%(bash|sh|script)\b.*"


def cells_of(text: str, name: str) -> list[str]:
    """The code cells of a notebook, or a script as one."""
    if not name.endswith(".ipynb"):
        return [text]
    try:
        cells = json.loads(text)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except json.JSONDecodeError as e:
        raise TrainerFileError(
            f"{name}:{e.lineno}: not a notebook, not valid JSON: {e.msg}."
        ) from None
    except (KeyError, TypeError, RecursionError):
        raise TrainerFileError(f"{name} is no notebook: it has no list of cells.") from None


def _passed(magic: re.Match[str]) -> str:
    return f"{magic[1]}pass" + magic[2].count("\n") * "\n"


def shell_commands(text: str, name: str) -> Iterator[tuple[str, int]]:
    """What the cells of a notebook hand to a shell, each with the lines of code before it."""
    start = 0
    for cell in cells_of(text, name):
        if head := re.match(_SHELL_CELL, cell):
            yield cell[head.end() :], start + head[0].count("\n")
        else:
            for magic in re.finditer(_MAGIC, cell):
                if cell[magic.end(1)] == "!":
                    yield magic[2], start + cell.count("\n", 0, magic.end(1))
        start += cell.count("\n") + 1


def parse_calls(
    text: str, name: str, folder: Path | None, arguments: Mapping[str, Any] = MappingProxyType({})
) -> Document:
    """The keyword arguments of the calls that load a model and train it, the first of each name,
    and of a plain script what it calls and the length that it names. Lines are counted over the
    code cells. `arguments` are those of the command line, which args.NAME stands for in the text.

    Values that are neither written there nor assigned plainly above are left out, as are cells that
    are no Python.
    """
    constants = {f".{key}": value for key, value in arguments.items()}
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
        source = "" if re.match(_SHELL_CELL, cell) else re.sub(_MAGIC, _passed, cell)
        try:
            _add_cell(ast.parse(source), start, calls, constants, entries, computed)
        except SyntaxError as e:
            wrong = wrong or f":{start + (e.lineno or 0)}: not valid Python: {e.msg}"
        except (ValueError, RecursionError, MemoryError):
            pass
        start += cell.count("\n") + 1
    if calls == _OF_A_SCRIPT:
        if TRAINED not in entries:
            script = f"{name.removesuffix('.ipynb')}.py" if name.endswith(".ipynb") else name
            made = f"`jupyter nbconvert --to script {name}` and " if script != name else ""
            raise TrainerFileError(
                f"{name}{wrong or ': no call of a Trainer is read there'}; rehearse any script:"
                f" {made}`lora-profile rehearse --gpu t4 -- python {script}`"
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
            if function.endswith(".add_argument"):
                _add_default(node, constants)
            if len(function) > LONGEST_NAME or not re.fullmatch(calls, function):
                continue
            is_script = calls == _OF_A_SCRIPT
            called = _CALLED if is_script else _CALLED_OF_UNSLOTH
            _add_called(called, function, start + node.lineno, entries)
            if not is_script and (task := _TASK_OF.get(function)) is not None:
                entries.setdefault(TASK, Entry(TASK, task, start + node.lineno))
            for key, value in _arguments(node, function, constants):
                line = start + node.lineno
                if isinstance(value, ast.expr):
                    line, value = start + value.lineno, _plain(value, constants)
                if not _is_known(value):
                    computed.setdefault(key, line)
                else:
                    entries.setdefault(key, Entry(key, value, line))


def _is_known(value: Any) -> bool:
    """Whether no part of a value would have to be worked out."""
    parts = value.values() if isinstance(value, dict) else ()
    return value is not _UNKNOWN and all(map(_is_known, parts))


def _add_default(call: ast.Call, constants: dict[str, Any]) -> None:
    """The value of an argument of argparse's that is not given."""
    named = {word.arg: _plain(word.value, constants) for word in call.keywords}
    value = False if named.get("action") == "store_true" else named.get("default", _UNKNOWN)
    for flag in (_plain(arg, constants) for arg in call.args):
        if value is not _UNKNOWN and isinstance(flag, str) and flag.startswith("--"):
            constants.setdefault(f".{flag[2:].replace('-', '_')}", value)


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


def _arguments(
    call: ast.Call, function: str, constants: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Names with expressions, or with the values of a mapping that is passed as keywords, or on to
    from_pretrained."""
    named: list[tuple[str, Any]] = []
    for word in call.keywords:
        is_passed_on = word.arg in (None, "model_init_kwargs")
        mapping = _plain(word.value, constants) if is_passed_on else None
        if isinstance(mapping, dict):
            named += [(key, value) for key, value in mapping.items() if isinstance(key, str)]
        elif word.arg:
            named.append((word.arg, word.value))
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
    if isinstance(node, ast.Attribute) and re.fullmatch(_PARSED, ast.unparse(node.value)):
        return constants.get(f".{node.attr}", _UNKNOWN)
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
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        return {word.arg: _plain(word.value, constants) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_plain(key, constants) for key in node.keys if key is not None]
        if all(isinstance(key, str) for key in keys):
            return {k: _plain(v, constants) for k, v in zip(keys, node.values, strict=True)}
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
