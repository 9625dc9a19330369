"""What is published says what the package is: metadata, recipe, container, Space."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import lora_profiler

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]


def test_the_version_is_written_once() -> None:
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    path = ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{lora_profiler.__version__}"' in path.read_text("utf-8")


def test_metadata_is_complete() -> None:
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= PROJECT["urls"].keys()
    source = PROJECT["urls"]["Source"]
    assert all(url.startswith(source) for url in PROJECT["urls"].values())
    for url in PROJECT["urls"].values():
        _, found, path = url.partition("/blob/main/")
        assert not found or (ROOT / path).is_file(), url
    assert {"authors", "description", "keywords", "license", "readme"} <= PROJECT.keys()
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert versions == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == ">=3.11,<3.14"
    names = pytest.importorskip("trove_classifiers").classifiers
    assert set(PROJECT["classifiers"]) <= names


def test_pages_name_the_same_repository() -> None:
    name = PROJECT["urls"]["Source"].removeprefix("https://github.com/")
    for page in ("docs/guide/ci.md", "examples/quickstart.ipynb", "conda/meta.yaml"):
        assert name in (ROOT / page).read_text("utf-8"), page


def test_the_recipe_needs_what_the_package_needs() -> None:
    recipe = (ROOT / "conda" / "meta.yaml").read_text("utf-8")
    text = re.sub(r"\{\{.*?\}\}", "x", re.sub(r"\{%.*%\}", "", recipe))
    run = yaml.safe_load(text)["requirements"]["run"]
    python, *others = (line.replace(" ", "") for line in run)
    assert python == f"python{PROJECT['requires-python']}"
    assert others == [line.replace(" ", "") for line in PROJECT["dependencies"]]
    pattern = re.search(r"load_file_regex\(\"(.*?)\", '(.*?)'\)", recipe)
    assert pattern is not None
    found = re.search(pattern[2], (ROOT / pattern[1]).read_text("utf-8"))
    assert found is not None and found[1] == lora_profiler.__version__


def test_the_container_runs_as_nobody_and_has_all_that_is_built() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    assert lines.index("USER nobody") > max(
        number for number, line in enumerate(lines) if line.startswith(("COPY", "RUN"))
    )
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").split() if line[0] == "!"
    ]
    build = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*build["packages"], *build["force-include"], "pyproject.toml", "app.py"}
    assert needed | {PROJECT["readme"], *PROJECT["license-files"]} == set(kept)
    assert all((ROOT / name).exists() for name in kept)


def test_the_space_is_the_page_without_a_server() -> None:
    _, head, _ = (ROOT / "space" / "README.md").read_text("utf-8").split("---\n", 2)
    settings = yaml.safe_load(head)
    assert (settings["sdk"], settings["app_file"]) == ("static", "index.html")
    assert len(settings["short_description"]) <= 60  # as the hub refuses more


def test_the_release_script_is_one_that_bash_reads() -> None:
    assert os.access(ROOT / "release", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / "release")], check=True)


@pytest.mark.slow
def test_what_is_built_passes_twine(tmp_path: Path) -> None:
    for name in ("build", "hatchling", "twine"):
        pytest.importorskip(name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    files = sorted(tmp_path.iterdir())
    version = lora_profiler.__version__
    assert [file.name for file in files] == [
        f"lora_profiler-{version}-py3-none-any.whl",
        f"lora_profiler-{version}.tar.gz",
    ]
    assert all(file.stat().st_size < 60 << 20 for file in files)  # PyPI takes 100 MB
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_module_that_a_file_runs_is_there() -> None:
    """In the Dockerfile, the release script, docs and docstrings; where git is, its files."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split() or ["Dockerfile", "release", "README.md"]
    kinds = {".py", ".md", ".yml", ".yaml", ".toml", ".j2", ""}
    texts = {name: ROOT / name for name in names if Path(name).suffix in kinds}
    for name, path in texts.items():
        for module in re.findall(
            r"python3? -m ((?:lora_profiler|benchmarks|space)(?:\.\w+)*)", path.read_text("utf-8")
        ):
            file = ROOT / module.replace(".", "/")
            found = (file.with_suffix(".py"), file / "__main__.py", file / "__init__.py")
            assert any(each.is_file() for each in found), f"{name}: python -m {module}"
