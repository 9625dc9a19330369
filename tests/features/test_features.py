"""A feature is one folder: each can be deleted, the rest of the package names none of them, and a
plain command imports none that it does not use."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lora_profiler
from loading import modules_after
from lora_profiler.question.feature import Kind, has_file, names, of_kind, part
from lora_profiler.question.loss import CORE, all_losses
from lora_profiler.question.optimizer import all_optimizers

PACKAGE = Path(lora_profiler.__file__).parent
KINDS: tuple[Kind, ...] = (
    "adapters",
    "bases",
    "kernels",
    "loops",
    "lora_kernels",
    "losses",
    "optimizers",
    "trainers",
)
OPTION: dict[Kind, str] = {
    "adapters": "peft-type",
    "bases": "quant-type",
    "kernels": "kernels",
    "loops": "loop-state",
    "lora_kernels": "lora-kernels",
    "losses": "loss",
    "optimizers": "optimizer",
    "trainers": "trainer",
}
ALL = [(kind, name) for kind in KINDS for name in names(kind)]
HOOKS = {
    "__init__": {
        "FEATURE",
        "VERSIONS",
        "regime",
        "refusals",
        "doubts",
        "assumption",
        "is_unchecked",  # of losses
        "unsupported_reason",
        "as_made",
        "base",
        "rotary_tables",
        "positions",
        "buffer_elements",
        "pass_scalar_bytes",
    },
    "law": {"price", "REPLACED", "projections", "mlp", "program", "buffer_bytes", "decoding"},
    "stand_in": {"loss", "scaled_loss", "patched", "during"},
    "keys": {"FRAMEWORK"},
    "started": {"STARTED"},
    "written": {"keys", "script", "launch"},
}
OF_ONE_FILE = {"FEATURE", "state_bytes", "temporaries", "made"} | {
    "doubts",
    "stored",
    "leaves",
    "words",
    "nearest_estimated",
    "nearest_traced",
    "check_config",
    "tensors",
    "buffer_bytes",
    "refusals",
    "feedforward_names",
    "block_size",
    "put_together_bytes",
}
PLAIN = "from lora_profiler.cli.main import root; root.main({!r}, 'lora-profile', standalone_mode=False)"
LLAMA = ["meta-llama/Llama-3.2-1B", "--trainer", "bare"]


def place(kind: Kind, name: str) -> Path:
    """The folder of a feature, or its file."""
    folder = PACKAGE / "features" / kind / name.replace("-", "_")
    return folder if folder.is_dir() else folder.with_suffix(".py")


def files(kind: Kind, name: str) -> list[Path]:
    own = place(kind, name)
    return [*own.glob("*.py")] if own.is_dir() else [own]


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, from a copy of the package."""
    command = [sys.executable, "-m", "lora_profiler", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tree / "lora_profiler", ignore=ignored)
    return tree


@pytest.mark.parametrize(("kind", "name"), ALL)
@pytest.mark.grid(share=1 / 6)
def test_each_can_be_deleted(copy: Path, tmp_path: Path, kind: Kind, name: str) -> None:
    own = copy / place(kind, name).relative_to(PACKAGE.parent)
    before = run(copy, *LLAMA, "--format", "json")
    shutil.move(own, tmp_path / "gone")
    try:
        assert run(copy, *LLAMA, "--format", "json").stdout == before.stdout
        # which a trace would answer: PEFT has the method still
        refused = run(copy, *LLAMA, f"--{OPTION[kind]}", name, "--engine", "analytic")
        assert refused.returncode == 2, refused.stderr
        assert name in refused.stderr.lower()
        assert "Traceback" not in refused.stderr
        everything = "import importlib, pkgutil, lora_profiler as p\n" + (
            "for m in pkgutil.walk_packages(p.__path__, 'lora_profiler.'):\n"
            "    if '.trainer_files' in m.name or '.report' in m.name or '.analytic' in m.name:\n"
            "        importlib.import_module(m.name)"
        )
        subprocess.run([sys.executable, "-c", everything], cwd=copy, check=True, timeout=120)
    finally:
        shutil.move(tmp_path / "gone", own)


def test_nobody_imports_a_feature() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "features" in path.relative_to(PACKAGE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(m.startswith("lora_profiler.features") for m in imported), path


def test_features_import_no_other_feature() -> None:
    """What several share is in a file that begins with an underscore."""
    for kind, name in ALL:
        for path in files(kind, name):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.ImportFrom):
                    continue
                parts = str(node.module).split(".")
                if parts[:2] == ["lora_profiler", "features"]:
                    assert parts[3].startswith("_") or parts[3] == place(kind, name).name, path


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8")).body
    return {n.name for n in tree if isinstance(n, ast.FunctionDef) and n.name[0] != "_"}


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_files_and_hooks_are_known(kind: Kind, name: str) -> None:
    if place(kind, name).is_file():
        assert functions(place(kind, name)) <= OF_ONE_FILE
        return
    public = [path for path in files(kind, name) if path.stem == "__init__" or path.stem[0] != "_"]
    assert {path.stem for path in public} <= set(HOOKS)
    assert has_file(kind, name, "")
    for path in public:
        assert any(
            part(kind, name, "" if path.stem == "__init__" else path.stem, hook)
            for hook in HOOKS[path.stem]
        )
    assert functions(place(kind, name) / "__init__.py") - {"cut_of"} <= HOOKS["__init__"]


def test_each_says_what_it_is() -> None:
    for name, loss in all_losses().items():
        assert len(loss.title.split()) <= 12, name
        assert name in CORE or loss.assumption.endswith("."), name
    for name, kernels in of_kind("kernels").items():
        assert kernels.assumption.endswith("."), name
    for name, optimizer in all_optimizers().items():
        assert optimizer.label, name
        assert optimizer.keeps.startswith(optimizer.label), name


def test_a_plain_answer_imports_those_alone_that_it_uses() -> None:
    loaded = modules_after(PLAIN.format([*LLAMA, "--loss", "cce"]))
    used = {m for m in loaded if m.startswith("lora_profiler.features.losses.")}
    assert used == {"lora_profiler.features.losses.cce", "lora_profiler.features.losses.cce.law"}


def test_a_name_with_other_letters_is_none() -> None:
    assert part("losses", "no-such", "law", "price") is None
    assert not has_file("losses", "..", "law")


def test_options_says_what_each_value_is() -> None:
    shown = run(PACKAGE.parent, "options", "loss").stdout
    assert "cce: cut cross-entropy, as axolotl's plugin" in shown


AMBIGUOUS = {  # trainers, libraries and kernels of the same name
    "trl", "peft", "llamafactory", "unsloth", "litgpt", "torchtune", "triton", "axolotl",
    "axolotl-dpo", "llamafactory-dpo", "llamafactory-kto", "llamafactory-orpo", "torchtune-dpo",
    "trl-orpo",
}  # fmt: skip
STILL_NAMED: dict[str, set[str]] = {
    "question": {"liger"},  # what a plain question leaves open
    # what transformers' Trainer takes, and how checkpoints are stored
    "facts": {"liger", "adamw_8bit", "lion", "awq", "fp8", "gptq", "hqq"},
    "planning": {"adamw_8bit", "trl-dpo", "trl-kto", "trl-reward"},  # what plans and advice offer
    "report": {"adamw_8bit"},
    "memory": {"adamw_8bit"},
    "_common": {"hqq"},
    "measuring": {"rmsprop", "trl-dpo"},
    "trainer_files": {"liger", "muon"},
}  # fmt: skip
"""Names that rooms of the package have, of features that are no other thing. This may only
shrink."""


def test_the_rest_of_the_package_names_no_feature() -> None:
    values = {name for _, name in ALL} - AMBIGUOUS
    named: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("features", "shipped"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value in values:
                named.setdefault(room, set()).add(node.value)
    assert named == STILL_NAMED
