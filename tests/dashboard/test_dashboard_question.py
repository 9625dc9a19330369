"""The question of a page: its link, its command line, and its answer, which is that of the command
line and of the report."""

import json
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from click.testing import CliRunner
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lora_profiler._common.messages import WARNING, message_lines, messages_in
from lora_profiler.cli.bench import bench_command
from lora_profiler.cli.main import predict_command, root
from lora_profiler.cli.options import given as is_given
from lora_profiler.cli.options import workloads as command_line_workloads
from lora_profiler.dashboard.answered import answered, published_model, uploaded_model, workloads
from lora_profiler.dashboard.link import PAGES, parsed, written
from lora_profiler.dashboard.measuring import BenchConditions, bench_arguments
from lora_profiler.dashboard.question import (
    FIRST_MODEL,
    METHODS,
    SETUP_OPTIONS,
    Question,
    Shown,
    about_of,
    completed,
    from_params,
    predict_arguments,
    to_params,
)
from lora_profiler.errors import (
    LoraProfilerError,
    ModelNotFoundError,
    UnsupportedModelError,
    UsageError,
)
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.facts.stacks import trainers
from lora_profiler.planning.engine import ENGINES, rules_know
from lora_profiler.planning.setups import CPU_DEFAULTS
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.option import MAX_SIZE
from lora_profiler.report.first_screen import TrainingRun
from lora_profiler.report.page import embedded_data, report_content, write_page

MODELS = ("openai-community/gpt2", "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen3-0.6B")
TEXTS = st.text(
    st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=20
).filter(lambda text: text.isprintable() and bool(text.strip()))


def options(
    sizes: st.SearchStrategy[int], texts: st.SearchStrategy[str]
) -> st.SearchStrategy[dict[str, Any]]:
    methods = st.lists(st.sampled_from(METHODS), min_size=1, unique=True).map(tuple)
    drawn = {
        **{name: sizes for name in ("rank", "batch_size", "seq_len", "accumulation")},
        **{o.name: st.sampled_from(o.choices) for o in SETUP_OPTIONS.values() if o.choices},
        "alpha": st.none() | st.floats(0.001, 1e6),
        "dropout": st.floats(0, 0.99),
        "targets": (
            st.sampled_from(
                ["all-linear", "default", "attention", "q_proj,v_proj", "c_attn", "re:.*attn.*"]
            )
            | texts
        ),
        "layers_to_transform": st.none() | st.sampled_from(["0", "0-3,5"]) | texts,
        "modules_to_save": st.none() | st.just("lm_head") | texts,
        "double_quant": st.booleans(),
        "checkpointing": st.booleans(),
    }
    return st.fixed_dictionaries({"methods": methods}, optional=drawn)


def as_the_form_has_it(trainer: str | None, drawn: dict[str, Any], **own: Any) -> Question:
    return Question(
        trainer=trainer, options=completed(trainer, drawn, own.get("model", FIRST_MODEL)), **own
    )


def questions(
    model: st.SearchStrategy[str],
    sizes: st.SearchStrategy[int],
    texts: st.SearchStrategy[str],
    **more: Any,
) -> st.SearchStrategy[Question]:
    drawn = {
        "revision": TEXTS,
        "offline": st.booleans(),
        "gpu": st.none() | st.sampled_from(["rtx_4090", "custom:24GiB"]),
        "interconnect": st.none() | st.sampled_from(["nvlink4", "25GB/s"]),
        "engine": st.sampled_from(ENGINES),
    }
    trainer = st.none() | st.sampled_from((*trainers(), "transformers@4.57"))
    return st.builds(
        as_the_form_has_it, trainer, options(sizes, texts), model=model, **(drawn | more)
    )


ANY = questions(TEXTS, st.integers(1, MAX_SIZE), TEXTS)
ANSWERABLE = questions(
    st.sampled_from(MODELS),
    st.integers(1, 64),
    st.nothing(),
    revision=st.just("main"),
    offline=st.just(True),
    engine=st.sampled_from(("auto", "analytic")),
)
"""Questions of small models as the command line could ask them; some are refused, by both for the
same reason."""


# --- links ----------------------------------------------------------------------------------------


RUNS = st.builds(
    TrainingRun,
    rows=st.integers(1, 10**9),
    mean_length=st.integers(1, 10**7),
    epochs=st.floats(1e-3, 1e6),
    price=st.none() | st.floats(0, 1e6),
)


@given(ANY, st.none() | st.sampled_from(METHODS), RUNS)
def test_a_link_reproduces_what_is_shown_of_the_answer(
    question: Question, about: Any, run: TrainingRun
) -> None:
    """The method that the page is about, where it is not the usual one, and the training."""
    shown = Shown(about=about, run=run)
    address = urlencode(written("Predict", question, shown=shown), doseq=True)
    found = parsed(parse_qs(address, keep_blank_values=True, strict_parsing=True))
    assert (found.question, found.complaints) == (question, ())
    assert found.shown.run.tokens == run.tokens
    assert found.shown.run.epochs == pytest.approx(run.epochs, rel=1e-14)
    assert (found.shown.run.price is None) == (run.price is None)
    usual = about_of(question.options["methods"])
    assert (found.shown.about or usual) == (about or usual)


@given(ANY, st.sampled_from([page for page in PAGES if page not in ("Compare", "Learn")]))
def test_a_link_reproduces_the_question(question: Question, page: str) -> None:
    """By way of a real address."""
    address = "?" + urlencode(written(page, question), doseq=True)
    found = parsed(parse_qs(address[1:], keep_blank_values=True, strict_parsing=True))
    assert (found.question, found.page, found.complaints) == (question, page, ())


def test_what_is_not_said_is_the_default_and_what_is_the_default_is_not_said() -> None:
    assert from_params({}) == (Question(), ())
    assert to_params(Question()) == {"model": [Question().model]}
    asked = Question(
        model="gpt2",
        options=completed(
            None, {"seq_len": 512, "methods": ("qlora",), "double_quant": False}, "gpt2"
        ),
        gpu="rtx_4090",
    )
    assert to_params(asked) == {
        "model": ["gpt2"],
        "method": ["qlora"],
        "gpu": ["rtx_4090"],
        "seq-len": ["512"],
        "double-quant": ["no"],
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rank", "abc", "whole number"),
        ("rank", "0", "whole number"),
        ("batch-size", "-1", "whole number"),
        ("batch-size", "99999999999", "whole number"),
        ("seq-len", "1e3", "whole number"),
        ("rank", "٣", "whole number"),
        ("dropout", "1", "below 1"),
        ("dropout", "nan", "below 1"),
        ("alpha", "0", "above 0"),
        ("alpha", "inf", "above 0"),
        ("dtype", "bfloat61", "Did you mean bfloat16"),
        ("method", "lorra", "Did you mean lora"),
        ("device", "<b>", "accepted"),
        ("checkpointing", "maybe", "yes, no"),
        ("bacth-size", "2", "Did you mean batch-size"),
        ("model", "", "empty"),
        ("model", "x" * 3000, "longer"),
        ("model", "a\x1bb", "no plain text"),
        ("records", "/etc/passwd", "There is no option"),
        ("page", "admin", "There is no page"),
        ("about", "lorra", "Did you mean lora"),
        ("rows", "0", "from 1 to"),
        ("mean-length", "many", "from 1 to"),
        ("epochs", "nan", "above 0"),
        ("epochs", "0", "above 0"),
        ("price", "-1", "from 0 to"),
        ("price", "1e999", "from 0 to"),
        ("use-reentrant", "perhaps", "use-reentrant"),
    ],
)
def test_what_a_link_says_wrongly_is_told_and_keeps_its_default(
    name: str, value: str, said: str
) -> None:
    found = parsed({"seq-len": ["512"], name: [value]} if name != "seq-len" else {name: [value]})
    assert len(found.complaints) == 1 and said in found.complaints[0], found.complaints
    seq_len = 512 if name != "seq-len" else 2048
    assert found.question == Question(
        options=completed(None, {"methods": ("full", "lora"), "seq_len": seq_len}, FIRST_MODEL)
    )
    assert len(found.complaints[0]) < 600


def test_options_that_no_method_reads_are_told() -> None:
    question, complaints = from_params({"method": ["full"], "rank": ["8"], "recipe": ["kbit"]})
    assert question == Question(options=completed(None, {"methods": ("full",)}, FIRST_MODEL))
    assert [text.split()[0] for text in complaints] == ["--rank", "--recipe"]


def test_a_link_to_compare_names_a_record_and_no_file() -> None:
    found = parsed({"page": ["compare"], "record": ["an-id"]})
    assert (found.page, found.record, found.complaints) == ("Compare", "an-id", ())
    assert parsed(written("Compare", record="an-id")) == found
    refused = parsed({"page": ["compare"], "records": ["/etc/passwd"], "model": ["gpt2"]})
    assert refused.record is None and len(refused.complaints) == 1  # gpt2 is of other pages
    assert "lora-profile app --records" in refused.complaints[0]


@given(
    st.dictionaries(
        st.text(max_size=12), st.lists(st.text(max_size=30), min_size=1, max_size=3), max_size=6
    )
)
def test_any_address_has_a_meaning(params: dict[str, list[str]]) -> None:
    found = parsed(params)
    assert found.page in PAGES
    assert not parsed(written("Predict", found.question)).complaints


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../config.json",
        "~/x",
        "config.json\0",
        ".",
        "a b",
        "<script>",
        "file:///etc",
    ],
)
def test_no_name_is_a_path(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ModelNotFoundError, UsageError)):
        published_model(name, "main", True)


def test_an_upload_is_the_model_of_its_config() -> None:
    config = json.dumps(dict(find_model("gpt2").published)).encode()
    found = uploaded_model("my-gpt2.json", config)
    assert (found.id, found.fingerprint) == ("my-gpt2", find_model("gpt2").fingerprint)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", ModelNotFoundError, "not valid JSON"),
        (b"\xff\xfe", ModelNotFoundError, "UTF-8"),
        (b"[1]", ModelNotFoundError, "a list"),
        (b"{}", ModelNotFoundError, "model_type"),
        (b" " * 16_000_001, ModelNotFoundError, "larger than"),
        (b'{"model_type": "mamba"}', UnsupportedModelError, "command line"),
    ],
)
def test_what_is_no_config_is_refused_in_words(
    content: bytes, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        uploaded_model("x.json", content)


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=5))
    .map(json.dumps)
    .map(str.encode)
)
def test_any_upload_is_a_model_or_a_refusal(content: bytes) -> None:
    try:
        uploaded_model("x.json", content)
    except LoraProfilerError as e:
        assert str(e)


# --- the same question elsewhere ------------------------------------------------------------------


def outcome(ask: Any) -> Any:
    try:
        return ask()
    except LoraProfilerError as e:
        return type(e), str(e)


def platform_of(question: Question) -> Platform:
    return find_gpu(question.gpu).platform() if question.gpu else Platform()


@settings(deadline=None)
@given(ANSWERABLE)
def test_the_command_line_shown_asks_the_same_question(question: Question) -> None:
    model = find_model(question.model)
    arguments = predict_arguments(question)
    ctx = predict_command.make_context("predict", arguments[arguments[0] == "predict" :])
    assert ctx.params["models"] == (question.model,)
    told = [ctx.params[name] for name in ("gpu", "interconnect", "engine")]
    assert told == [question.gpu, question.interconnect, question.engine]
    mine = outcome(lambda: workloads(model, question))
    assert mine == outcome(lambda: command_line_workloads(model, ctx, platform_of(question)))


@pytest.mark.parametrize(
    ("trainer", "optimizer"), [("trl-sft", "adamw_8bit"), ("transformers", "sgd")]
)
def test_another_optimizer_than_the_trainer_s_leaves_its_implementation_behind(
    trainer: str, optimizer: str
) -> None:
    """As on the command line: TRL's fused belongs to its AdamW, and 8-bit AdamW has none."""
    own = as_the_form_has_it(
        trainer, {"methods": ("lora",)}, model="EleutherAI/pythia-160m", offline=True
    )
    asked = {"methods": ("lora",), "optimizer": optimizer}
    question = as_the_form_has_it(trainer, asked, model="EleutherAI/pythia-160m", offline=True)
    assert own.options["optimizer_impl"] == "fused"
    assert question.options["optimizer_impl"] == "foreach"
    assert question.explicit == {"methods", "optimizer"}
    (mine,) = workloads(find_model("gpt2"), question)
    ctx = predict_command.make_context("predict", predict_arguments(question))
    assert [mine] == command_line_workloads(find_model("gpt2"), ctx, Platform())
    assert from_params(to_params(question))[0] == question


STEPS = st.none() | st.integers(1, 99)
IN_HALF = {"methods": ("full",), "precision": "amp-float16"}
HALF = as_the_form_has_it(None, IN_HALF, model="gpt2", offline=True)


@settings(deadline=None)
@example(HALF, BenchConditions())
@given(ANSWERABLE, st.builds(BenchConditions, steps=STEPS, budget=st.sampled_from([None, "2GiB"])))
def test_a_benchmark_asks_the_same_question_of_its_own_device(
    question: Question, conditions: BenchConditions
) -> None:
    arguments = bench_arguments(question.model, question, conditions)[1:]
    ctx = bench_command.make_context("bench", arguments)
    model, device = find_model(question.model), question.options["device"]
    theirs = outcome(lambda: command_line_workloads(model, ctx, platform_of(question), device))
    assert outcome(lambda: workloads(model, question)) == theirs
    told = [ctx.params[name] for name in ("device", "steps", "budget")]
    assert told == [None, conditions.steps, conditions.budget]
    own = set(question.stack.options)
    if ctx.params["precision"] == "amp-float16" and "full" in ctx.params["methods"]:
        own.add("dtype")  # each method has its own
    assert all(is_given(ctx, name) or name in own for name in CPU_DEFAULTS), (
        "on a CPU bench would take another value"
    )


@pytest.mark.parametrize("model", ["--records=x", "-x"])
def test_no_model_is_an_option(model: str) -> None:
    question = Question(model=model)
    ctx = bench_command.make_context(
        "bench", bench_arguments(model, question, BenchConditions())[1:]
    )
    assert ctx.params["models"] == (model,) and ctx.params["records"] is None
    assert predict_command.make_context("predict", predict_arguments(question)[1:]).params[
        "models"
    ] == (model,)


@settings(max_examples=25, deadline=None)
@given(ANSWERABLE)
def test_page_command_line_and_report_say_the_same_numbers(question: Question) -> None:
    """Every number of every method, verdict, lever and layer; refusals word for word. Where rules do
    not know a model's layers the command traces them, which the page leaves to it."""
    asked = outcome(lambda: workloads(find_model(question.model), question))
    assume(isinstance(asked, tuple) or all(map(rules_know, asked)))
    done = CliRunner().invoke(
        root, [*predict_arguments(question), "--full", "--format", "json"], standalone_mode=False
    )
    found = outcome(lambda: answered(find_model(question.model), question))
    if isinstance(found, tuple):
        assert isinstance(done.exception, LoraProfilerError)
        assert found == (type(done.exception), str(done.exception))
        return
    assert json.loads(json.dumps(found.payload)) == json.loads(done.stdout)
    page = write_page(report_content([], found.answers))
    assert embedded_data(page)["predictions"] == json.loads(done.stdout)["predictions"]
    warned = messages_in(WARNING, done.stderr.splitlines())
    assert ["\n".join(message_lines(caution)) for caution in found.cautions] == list(warned)


def test_nothing_is_traced_here() -> None:
    with pytest.raises(UsageError, match="command line"):
        answered(find_model("gpt2"), Question(model="gpt2", engine="traced"))
