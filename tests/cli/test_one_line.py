"""A question in one line of Python has the answer, the words and the refusals of the command
line."""

import json
import re
import warnings
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import lora_profiler
from commands import Run
from loading import HEAVY, modules_after
from lora_profiler import UsageError, find_gpu, find_model, fit, one_line, predict
from lora_profiler._common.messages import ERROR, message_text
from lora_profiler._common.packages import MOVED
from lora_profiler.errors import LoraProfilerError

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "qlora.yml")
QUESTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["gpt2"], {}),
    (["gpt2", "--method", "qlora,lora", "--gpu", "t4"], {"method": ["qlora", "lora"], "gpu": "t4"}),
    (
        ["Qwen/Qwen2.5-0.5B", "--trainer", "trl-sft", "--no-checkpointing", "-b", "4", "-s", "512"],
        {"trainer": "trl-sft", "checkpointing": False, "batch_size": 4, "seq_len": 512},
    ),
    (["gpt2", "--gpu", "8xh100", "-s", "256"], {"gpu": "8xh100", "seq_len": 256}),
    (
        ["gpt2", "--lengths", "mean=100,max=300", "--gpu", "t4", "-s", "300"],
        {"lengths": "mean=100,max=300", "gpu": "t4", "seq_len": 300},
    ),
    ([EXAMPLE, "--gpu", "rtx_4090"], {"gpu": "rtx_4090"}),
]


@pytest.mark.parametrize(("words", "options"), QUESTIONS)
def test_the_answer_is_the_command_s(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], options: dict[str, Any]
) -> None:
    report = predict(words[0], **options)
    assert report.to_dict() == json.loads(run(*words, "--full", "--format", "json").stdout)
    printed = run(*words).stdout
    verdict, *others = repr(report).splitlines()
    assert len(others) == 2
    assert "".join(printed.split()).startswith("".join(verdict.split()))
    pytest.importorskip("jinja2")
    html = report._repr_html_()
    shown = unescape(re.sub(r"<style>.*</style>|<[^>]*>", "", html, flags=re.DOTALL))
    assert "".join(verdict.split()) in "".join(shown.split())
    monkeypatch.setattr(one_line, "find_spec", lambda name: None)
    assert report._repr_html_() is None


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["no-such-model-anywhere"], {}),
        (["gpt2", "--gpu", "t5"], {"gpu": "t5"}),
        (["gpt2", "--gpu", "t4,a100"], {"gpu": "t4,a100"}),
        (["gpt2", "--trainer", "trll"], {"trainer": "trll"}),
        (["gpt2", "--method", "lorra"], {"method": "lorra"}),
        (["gpt2", "--dtype", "float8"], {"dtype": "float8"}),
        (["gpt2", "--batch-size", "2.5"], {"batch_size": 2.5}),
        (["gpt2", "--bach-size", "2"], {"bach_size": 2}),
        (["gpt2", "--method", "full", "--rank", "4"], {"method": "full", "rank": 4}),
        (["gpt2", "--gpu", "t4", "--device", "cpu"], {"gpu": "t4", "device": "cpu"}),
        (["missing.yml"], {}),
    ],
)
def test_a_refusal_is_the_command_s(run: Run, words: list[str], options: dict[str, Any]) -> None:
    with pytest.raises(LoraProfilerError) as raised:
        predict(words[0], **options)
    ended = run(*words)
    assert ended.exit_code == raised.value.exit_code
    assert message_text(ERROR, str(raised.value)).rstrip() == ended.stderr.rstrip()


def test_what_only_prints_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^output is about what the command prints or ends with"):
        predict("gpt2", output="x.json")


def test_of_several_methods_one_is_named() -> None:
    report = predict("gpt2", seq_len=128)
    assert len(report) == 2
    assert [a.prediction.workload.setup.method for a in report] == ["full", "lora"]
    assert report["full"].prediction.peak.total_bytes > report["lora"].prediction.peak.total_bytes
    with pytest.raises(UsageError, match="the answer has 2 methods; take one"):
        report.peak_bytes  # noqa: B018
    with pytest.raises(UsageError, match="no answer for qlora; there is full, lora"):
        report["qlora"]


def test_a_model_and_a_gpu_may_be_objects() -> None:
    model, gpu = find_model("gpt2"), find_gpu("custom:3GiB")
    report = predict(model, method="lora", trainer="loop", gpu=gpu, seq_len=256)
    named = predict("gpt2", method="lora", trainer="loop", gpu="custom:3GiB", seq_len=256)
    assert report.to_dict() == named.to_dict()
    assert report.answer.gpu == gpu


def test_functions_take_a_gpu_by_name() -> None:
    workload = predict("gpt2", method="lora", trainer="loop", seq_len=256).prediction.workload
    assert fit(workload, "t4") == fit(workload, find_gpu("t4"))
    with pytest.raises(UsageError, match="unknown GPU t5"):
        fit(workload, "t5")


def test_a_frame_and_a_figure() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("plotly")
    report = predict("gpt2", seq_len=128)
    peaks = [answer.prediction.peak.total_bytes for answer in report]
    assert report.to_frame()["peak.total_bytes"].tolist() == peaks
    figure = report.figure()
    assert sum(sum(trace.x) for trace in figure.data if trace.type == "bar") > 0


def test_cautions_are_returned_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    report = predict("gpt2", method="qlora", trainer="trl-sft", gpu="t4")
    assert any("does not support bfloat16" in caution for caution in report.cautions)
    predict(EXAMPLE, gpu="rtx_4090")
    assert capfd.readouterr() == ("", "")


def test_it_loads_nothing_heavy() -> None:
    loaded = modules_after("from lora_profiler import predict; repr(predict('gpt2', gpu='t4'))")
    assert loaded.isdisjoint(HEAVY)


def test_old_names_work_and_warn() -> None:
    for home, names in MOVED.items():
        for name in names.split():
            module = f"lora_profiler.{home}"
            with pytest.warns(DeprecationWarning, match=f"from {module} import {name}$") as warned:
                found = getattr(lora_profiler, name)
            assert found is not None
            assert warned[0].filename == __file__
    assert len(lora_profiler.__all__) <= 33
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in lora_profiler.__all__:
            getattr(lora_profiler, name)


def test_the_whole_document_is_of_the_file_as_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "qlora.yml"
    file.write_text(Path("examples/qlora.yml").read_text("utf-8"))
    report = predict(str(file), gpu="rtx_4090")
    file.unlink()
    (found,) = report.to_dict()["predictions"]
    assert found["peak"]["total_bytes"] == report.peak_bytes


@pytest.mark.parametrize("gpu", ["2GiB", "8GiB", "10GiB", "24GiB"])
def test_the_verdict_without_a_trainer_is_the_sign_of_the_command(run: Run, gpu: str) -> None:
    words = ("meta-llama/Llama-3.2-3B", "--method", "lora", "--gpu", gpu)
    sign = run(*words).stdout[0]
    report = predict(words[0], method="lora", gpu=gpu)
    assert report.verdict == {"✓": "fits", "!": "tight", "✗": "does_not_fit"}[sign]
