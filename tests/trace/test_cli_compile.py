"""`lora-profile compile`, and answers from profiles on the command line."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from commands import Run
from families import TINY_BLOOM
from lora_profiler.errors import CompileError, UnbuildableError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.compiled.evaluation import forget
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import engines_for, peak_bytes, predict
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.report.json.predict import predict_schema
from tracing import share_traces


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share_traces(monkeypatch)
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lora_profiler.trace._refused", set())
    forget()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bloom") / "config.json"
    path.write_text(json.dumps(TINY_BLOOM))
    return str(path)


def predictions(run: Run, *arguments: str) -> list[dict[str, Any]]:
    done = run(*arguments, "--full", "--format", "json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, predict_schema())
    found: list[dict[str, Any]] = document["predictions"]
    return found


def test_a_compiled_model_is_answered_exactly_for_every_size(run: Run, config: str) -> None:
    bare = ("--trainer", "bare")
    done = run("compile", config, "--method", "lora", *bare, "--format", "json")
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)["profiles"]
    assert [p["valid"]["batch_size"] for p in made] == [[1, 1], [2, None]]
    assert all(len(p["checked"]) == 3 and p["setup"]["method"] == "lora" for p in made)

    sizes = ("predict", config, "--method", "lora", *bare, "-b", "7", "-s", "40")
    (answer,) = predictions(run, *sizes, "-r", "5", "--engine", "compiled")
    assert (answer["engine"], answer["exactness"]) == ("compiled", "exact")
    memory, peak = answer["device_memory"], answer["peak"]["total_bytes"]
    assert peak <= memory["allocated_bytes"] <= memory["reserved_bytes"]
    assert memory["expandable_reserved_bytes"] >= memory["allocated_bytes"]

    words = run(*sizes, "--explain", "--gpu", "rtx_4090")
    assert words.exit_code == 0, words.stderr
    assert "byte for byte for the options above (compiled" in words.stdout
    assert "caching allocator" in words.stdout
    assert "the least with which all steps end" in words.stdout
    assert "largest batch" in words.stdout


@pytest.mark.usefixtures("no_estimates")
def test_auto_traces_what_the_rules_do_not_know_once(run: Run, config: str) -> None:
    for length, is_traced in (("64", True), ("99", False)):
        done = run(
            "predict", config, "--method", "full", "-s", length, "--full", "--format", "json"
        )
        assert ("tracing" in done.stderr) == is_traced
        assert json.loads(done.stdout)["predictions"][0]["engine"] == "compiled"


@pytest.mark.usefixtures("no_estimates")
def test_with_a_card_other_sizes_are_traced_too_since_they_are_searched(
    run: Run, config: str
) -> None:
    asked = ("predict", config, "--method", "full", "-s", "64", "--gpu", "rtx_4090")
    asked += ("--trainer", "bare")
    (answer,) = predictions(run, *asked, "-b", "1")
    assert answer["fit"]["largest_batch_size"] > 1
    one_more = run(*asked, "-b", str(answer["fit"]["largest_batch_size"] + 1))
    assert "tracing" not in one_more.stderr
    assert "may run out of memory" in one_more.stdout or "does not fit" in one_more.stdout


@pytest.mark.usefixtures("no_estimates")
def test_sizes_that_no_line_shows_are_not_traced(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.trace import compiler

    real, batches = compiler.compile_law, list[int]()

    def counted(workload: Workload) -> Profile:
        batches.append(workload.setup.batch_size)
        return real(workload)

    monkeypatch.setattr(compiler, "compile_law", counted)
    asked = ("predict", config, "--method", "full", "-s", "64", "-b", "1", "--gpu", "rtx_4090")
    by_trainer = run(*asked)
    assert by_trainer.exit_code == 0 and set(batches) == {1}
    alone = run(*asked, "--trainer", "bare")  # whose table has the largest batch
    assert alone.exit_code == 0 and "max batch" in alone.stdout and set(batches) > {1}


def without_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_profiler.trace import compiler

    def refuse(workload: Workload) -> Profile:
        raise CompileError("no law")

    monkeypatch.setattr(compiler, "compile_law", refuse)


def test_a_profile_that_cannot_be_trusted_leaves_the_others(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.trace import compiler

    real = compiler.compile_profile

    def refuse_one_sample(workload: Any) -> Any:
        if workload.setup.batch_size == 1:
            raise CompileError("its tape changes with the size.")
        return real(workload)

    without_laws(monkeypatch)
    monkeypatch.setattr(compiler, "compile_profile", refuse_one_sample)
    done = run("compile", config, "--method", "full", "--format", "json")
    assert done.exit_code == 0
    assert [p["valid"]["batch_size"] for p in json.loads(done.stdout)["profiles"]] == [[2, None]]
    assert "warning: its tape changes" in done.stderr


@pytest.mark.usefixtures("no_estimates")
def test_auto_traces_the_size_asked_where_no_profile_can_be_trusted(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.trace import compiler

    tried = []

    def refuse(workload: Any) -> Any:
        tried.append(workload)
        raise CompileError("its tape changes with the size.")

    question = ("predict", config, "--method", "full", "--checkpointing", "-b", "3", "-s", "50")
    (exact,) = predictions(run, *question, "--engine", "traced")
    kept = Path(os.environ["LORA_PROFILER_CACHE"]) / "profiles.sqlite"
    kept.unlink()
    forget()
    without_laws(monkeypatch)
    monkeypatch.setattr(compiler, "compile_profile", refuse)
    done = run(*question, "--full", "--format", "json")
    assert "warning: its tape changes" in done.stderr
    assert "tracing exactly this size instead" in done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    assert (answer["engine"], answer["exactness"]) == ("traced", exact["exactness"])
    assert answer["moments"] == exact["moments"]
    assert len(tried) == 1
    assert not kept.exists()


def test_auto_means_the_same_from_python_as_on_the_command_line(run: Run, config: str) -> None:
    words = ("predict", config, "--method", "full", "-s", "64", "--trainer", "bare")
    workload = Workload(model=find_model(config), setup=TrainSetup(seq_len=64))
    for exactness in ("estimate", "exact"):
        (said,), found = predictions(run, *words), predict(workload)
        assert found.saved_activation_bytes == said["saved_activation_bytes"]
        assert found.peak.total_bytes == said["peak"]["total_bytes"] == peak_bytes(workload)
        (again,) = answers([workload], may_trace=False)  # as the dashboard asks
        assert again.prediction == found and found.exactness == exactness
        assert run("compile", config, "--method", "full", "--trainer", "bare").exit_code == 0
        forget()


@pytest.mark.usefixtures("no_estimates")
def test_one_method_without_a_trusted_profile_leaves_the_other_s(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.trace import compiler

    real, tried = compiler.compile_profile, []

    def refuse_full(workload: Workload) -> Profile:
        tried.append(workload.setup.method)
        if workload.setup.method == "full":
            raise CompileError("its tape changes with the size.")
        return real(workload)

    without_laws(monkeypatch)
    monkeypatch.setattr(compiler, "compile_profile", refuse_full)
    model = find_model(config)
    setups = [TrainSetup(seq_len=48, lora=lora) for lora in (None, LoraConfig())]
    pair = [Workload(model=model, setup=setup) for setup in setups]
    with pytest.warns(UserWarning, match="its tape changes"):
        found = answers(pair)
    assert [answer.prediction.engine for answer in found] == ["traced", "compiled"]
    assert tried == ["full", "lora"]
    assert engines_for(pair) == ["traced", "auto"]
    assert tried == ["full", "lora"]  # what was refused once is not tried again


@pytest.mark.usefixtures("no_estimates")
def test_a_step_that_cannot_be_traced_is_said_from_python_too(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_profiler.trace import compiler

    def fail(workload: Workload) -> Profile:
        raise UnbuildableError("no such operator.")

    without_laws(monkeypatch)
    monkeypatch.setattr(compiler, "compile_profile", fail)
    workload = Workload(model=find_model(config), setup=TrainSetup(seq_len=72))
    with pytest.warns(UserWarning, match="could not be traced: no such operator"):
        found = predict(workload)
    assert (found.engine, found.saved_activation_bytes) == ("analytic", None)


@pytest.mark.parametrize("shards", [{}, {"world_size": 2, "sharding": "fsdp"}])
def test_a_trace_is_made_on_request_where_the_modules_give_an_estimate(
    monkeypatch: pytest.MonkeyPatch, shards: dict[str, Any]
) -> None:
    def fail(workload: Workload) -> Prediction:
        raise UnbuildableError("no such operator.")

    without_laws(monkeypatch)
    monkeypatch.setattr("lora_profiler.trace.predict", fail)
    monkeypatch.setattr("lora_profiler.trace.compiler.compile_profile", fail)
    setup = TrainSetup(seq_len=72, checkpointing=True, **shards)
    workload = Workload(model=find_model("google/gemma-4-E2B-it"), setup=setup)
    for found in (predict(workload), answers([workload], find_gpu("h100"))[0].prediction):
        assert (found.engine, found.exactness, found.is_whole) == ("analytic", "estimate", True)
    with pytest.raises(UnbuildableError, match="no such operator"):
        predict(workload, "traced")


def test_without_a_profile_the_engine_says_how_to_make_one(run: Run, config: str) -> None:
    done = run("predict", config, "--engine", "compiled")
    assert done.exit_code == 2
    assert "lora-profile compile" in done.stderr


def test_the_engine_traced_needs_no_profile(run: Run) -> None:
    asked = "predict EleutherAI/pythia-14m --method lora -b 2 -s 64 --engine"
    answer, rules = (
        found
        for engine in ("traced", "analytic")
        for found in predictions(run, *asked.split(), engine)
    )
    assert answer["engine"] == "traced"
    assert answer["peak"]["total_bytes"] == rules["peak"]["total_bytes"]
    assert answer["saved_activation_bytes"] == rules["saved_activation_bytes"]


def test_a_step_that_cannot_be_traced_ends_with_4_and_the_reason(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY_BLOOM, "hidden_size": 30}))
    done = run("compile", str(path))
    assert done.exit_code in (3, 4)
    assert "Traceback" not in done.stderr and len(done.stderr.strip()) > 20


def test_without_torch_it_says_what_to_install(
    run: Run, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lora_profiler._common.packages.find_spec", lambda name: None if name == "torch" else name
    )
    for question in (("compile", config), ("predict", "gpt2", "--engine", "traced")):
        done = run(*question)
        assert done.exit_code == 4
        missing = "tracing needs torch\n  Install them: pip install 'lora-profiler[measure]'"
        assert missing in done.stderr
