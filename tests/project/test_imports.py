"""The command line loads nothing heavy, and the package's public names are the right ones, loaded
when used."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import grimp
import pytest

from loading import HEAVY, modules_after

COMMITTED = str(Path(__file__).parents[2] / "benchmarks" / "records")


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize(
    "arguments",
    [
        ["meta-llama/Llama-3.1-8B", "--rank", "16"],
        ["gpt2", "--gpu", "rtx_4090", "--seq-len", "512", "--per-layer", "--explain"],
        ["gpt2", "--method", "qlora", "--seq-len", "512", "--format", "json"],
        ["models", "llama"],
        ["gpus"],
        ["--help"],
        ["bench", "--help"],
        ["calibrate", "--help"],
        ["report", "--help"],
        ["app", "--help"],
        ["compare", "--help"],
        ["compare", COMMITTED, "--by", "family"],
        ["compare", COMMITTED, "--format", "json"],
        ["compare", COMMITTED, "--against", COMMITTED],
    ],
)
def test_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"from lora_profiler.cli.main import root; root.main({arguments!r}, 'lora-profile',"
        " standalone_mode=False)"
    )
    loaded = modules_after(code)
    assert "lora_profiler.cli.main" in loaded
    assert loaded.isdisjoint(HEAVY)
    reads_records = arguments[:1] == ["compare"] and "--help" not in arguments
    assert ("msgspec" in loaded) == reads_records


ALL_OF_IT = """
from lora_profiler.question.adapters import adapters
from lora_profiler.facts.catalog import bundled_models, find_gpu, find_model
from lora_profiler.question.workload import LoraConfig
attended = LoraConfig(target_modules=("q_proj",))  # PEFT refuses out_proj of Mamba models
for spec in [find_model(each.id) for each in bundled_models()]:
    adapters(spec, attended if spec.model_type in ("falcon_h1", "nemotron_h") else LoraConfig())
find_gpu("rtx 4090")
"""
COUNTED = """
from lora_profiler import TrainSetup, Workload, find_model
from lora_profiler.memory.analytic.kernels import counted_kernels
counted_kernels(Workload(model=find_model("gpt2"), setup=TrainSetup()))
"""
DIAGNOSED = """
from lora_profiler.measuring.harness import doctor
from lora_profiler.measuring.harness.capabilities import Abilities
doctor.abilities = lambda environ: Abilities()
[*doctor.diagnosed({})]
"""
DESCRIBED = """
from lora_profiler.measuring.harness.environment import environment
found = environment("cuda", command="x", import_torch=False)
assert (found.threads, found.device.kind) == (None, "cuda")
"""
MEASURED = """
from lora_profiler import Conditions, Store
from lora_profiler.runs.comparison.errors import Comparison
from lora_profiler.measuring.records.record import Environment
from lora_profiler.measuring.records.record import Measurement, Record
from lora_profiler import compare, measure
from lora_profiler.runs.comparison.throughput import throughput
"""
TORCH = {"torch", "numpy", "transformers", "peft"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (ALL_OF_IT, TORCH | {"huggingface_hub", "pandas"}),
        (COUNTED, TORCH),
        (DIAGNOSED, TORCH | {"bitsandbytes", "rich", "huggingface_hub"}),
        (DESCRIBED, TORCH | {"rich"}),
        (MEASURED, TORCH | {"rich", "psutil", "pynvml"}),
        ("import lora_profiler.steptime.fit as l; l.local_cpu()", TORCH),
        (
            "import lora_profiler.measuring.records.store, lora_profiler.measuring.records.locks",
            set(HEAVY),
        ),
        (
            "import lora_profiler.trace.modeling",  # which loads them when it builds a model
            {"transformers", "peft", "bitsandbytes", "lora_profiler.features.kernels._fused_torch"},
        ),
    ],
    ids=[
        "catalogue",
        "kernels",
        "doctor",
        "environment",
        "measuring",
        "times",
        "store",
        "modeling",
    ],
)
def test_what_needs_no_torch_loads_none(code: str, heavy: set[str]) -> None:
    assert modules_after(code).isdisjoint(heavy)


def test_an_answer_loads_nothing_of_other_questions() -> None:
    loaded = modules_after(
        "from lora_profiler.cli.main import root; root.main(['gpt2', '-s', '512'], 'x',"
        " standalone_mode=False)"
    )
    others = [
        "cli.bench", "planning.advise", "planning.timing", "planning.placement",
        "measuring.records.record", "runs.comparison.throughput", "report.evidence",
        "report.answer.predictions", "report.measured.run_labels", "planning.unknowns",
        "memory.attribution", "memory.compiled.accumulation", "memory.compiled.held",
    ]  # fmt: skip
    assert all(find_spec(f"lora_profiler.{name}") for name in others)
    assert "lora_profiler.report.answer.short_answer" in loaded
    assert loaded.isdisjoint(
        {"msgspec", "socket", "statistics", *(f"lora_profiler.{name}" for name in others)}
    )


def test_commands_are_found_where_they_live() -> None:
    modules_after(
        "from lora_profiler.cli.main import root; import click; ctx = click.Context(root); "
        "assert all(root.get_command(ctx, name).name == name for name in root.list_commands(ctx))"
    )


def test_help_loads_no_predictor() -> None:
    loaded = modules_after(
        "from lora_profiler.cli.main import root; root.main(['-h'], 'lora-profile',"
        " standalone_mode=False)"
    )
    assert not {
        m
        for m in loaded
        if m.startswith(
            ("lora_profiler.memory.analytic", "lora_profiler.facts.catalog", "lora_profiler.report")
        )
    }


def test_importing_the_package_loads_nothing_of_it() -> None:
    told = {m for m in modules_after("import lora_profiler") if m.startswith("lora_profiler")}
    assert told == {"lora_profiler", "lora_profiler._common", "lora_profiler._common.packages"}


def test_a_refused_bench_loads_nothing_heavy_either() -> None:
    loaded = modules_after(
        "from lora_profiler.cli.main import main; main(['bench', 'gpt2', '--sharding', 'fsdp',"
        " '--device', 'cpu'])",
        exit_code=2,
    )
    assert "lora_profiler.cli.bench" in loaded
    assert loaded.isdisjoint(set(HEAVY) - {"importlib.metadata"})


def test_public_names_are_complete_and_lazy() -> None:
    import lora_profiler

    for name in lora_profiler.__all__:
        assert getattr(lora_profiler, name) is not None
    assert set(lora_profiler.__all__) <= set(dir(lora_profiler))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lora_profiler.nothing  # noqa: B018


def test_version_is_the_distribution_s() -> None:
    from importlib.metadata import PackageNotFoundError, version

    import lora_profiler

    try:
        assert version("lora-profiler") == lora_profiler.__version__
    except PackageNotFoundError:
        pytest.skip("runs from a checkout that is not installed")


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph("lora_profiler")
    TopologicalSorter(
        {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    ).prepare()


def test_no_two_public_classes_have_one_name() -> None:
    package = Path(__file__).parents[2] / "lora_profiler"
    names = Counter(
        node.name
        for path in package.rglob("*.py")
        if "inside" not in path.parts  # which runs without the package
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
