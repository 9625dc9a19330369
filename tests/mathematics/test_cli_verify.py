"""`lora-profile verify` from the command line: what it takes, prints, refuses and ends with; and
where models come from."""

import json
import shlex
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import jsonschema
import pytest

from golden_files import Golden

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from benchmarks.pages import RESULTS
from claim_subjects import EFFORT, LLAMA, break_peft, quietly, scaled_by_alpha
from commands import Run, in_python, refused
from loading import modules_after
from lora_profiler.errors import ModelNotFoundError, UsageError
from lora_profiler.facts.catalog import find_model
from lora_profiler.mathematics import sources, verify
from lora_profiler.mathematics.sources import VerifyRequest, hub_folder, open_subject
from lora_profiler.mathematics.subject import Subject
from lora_profiler.measuring.records.record import Device, Environment
from lora_profiler.report import claims
from lora_profiler.report.blocks import Table, table
from lora_profiler.report.claims import CLAIMS
from lora_profiler.report.claims.claim import Chart, Checked, Claim, Evidence, Series, Verdict
from lora_profiler.report.claims.document import (
    grouped_charts,
    verify_blocks,
    verify_payload,
    verify_schema,
)
from lora_profiler.report.claims.scaling import Scaled, Scaling, levels_of, rate_gains
from lora_profiler.report.claims.scaling import ScalingRun as TrainedRun
from lora_profiler.report.page import mathematics_content, write_page
from lora_profiler.report.progress import shown_checks
from lora_profiler.report.render import markdown
from lora_profiler.report.terminal import plain
from private_text import private_text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is run at the size of tests."""
    monkeypatch.setattr("lora_profiler.mathematics.subject.effort_for", lambda count, quick: EFFORT)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model is smaller still."""
    train = sources.train_small
    smaller = partial(train, config=LLAMA)
    monkeypatch.setattr(sources, "train_small", smaller)
    monkeypatch.setattr(sources, "SMALL_MODEL_STEPS", {True: 5, False: 9})


# --- the command ----------------------------------------------------------------------------------


def test_json_keeps_to_its_schema_and_gives_nothing_away(
    run: Run, tiny: None, llama: Subject
) -> None:
    options = ("--claims", "1,4", "--quick", "--seed", "3", "--format", "json")
    done = run("verify", str(llama.folder), *options)
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(verify_schema())
    jsonschema.validate(document, verify_schema())
    found = [(c["id"], c["verdict"], c["must_hold"]) for c in document["claims"]]
    assert found == [(1, "holds", False), (4, "holds", True)]
    assert (document["seed"], document["quick"]) == (3, True)
    assert document["model"]["text"] == "The Sonnets (bundled)"
    assert document["model"]["weights"] == llama.folder.name
    assert document["environment"]["packages"]["peft"]
    assert list(private_text(document)) == []
    assert '"phase": "Size of the update"' in done.stderr
    assert done.stderr.count('"verdict": "holds"') == 2


def test_text_has_a_row_for_each_claim_and_its_tables(
    run: Run, tiny: None, llama: Subject, tmp_path: Path
) -> None:
    file = tmp_path / "found.md"
    done = run("verify", str(llama.folder), "--claims", "3,1", "--format", "md", "-o", str(file))
    assert (done.exit_code, done.stdout) == (0, "")
    text = file.read_text()
    assert text.index("## 1. Size of the update: holds") < text.index("## 3. Forward path: holds")
    assert "| ✓ | 3* | Forward path |" in text
    assert "16,777,216" in text
    assert run("verify", str(llama.folder), "--claims", "1", "-o", str(file)).exit_code == 2


def test_what_must_hold_and_does_not_ends_with_1(
    run: Run, tiny: None, llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_peft(monkeypatch, scaled_by_alpha)
    done = run("verify", str(llama.folder), "--claims", "3")
    assert done.exit_code == 1
    assert "✗  3*  Forward path  " in done.stdout
    assert "NOT within rounding" in done.stdout
    monkeypatch.setitem(verify.CHECKS, 5, lambda *a: SCALING)  # type: ignore[index]
    assert SCALING.verdict == "fails"
    assert run("verify", str(llama.folder), "--claims", "5").exit_code == 0  # nobody is bound to it


SIZES = {"whole_update": 0.1, "first_logit_change": 0.1, "last_update": None}
RUNS = tuple(
    TrainedRun(
        rank=r, factor=16.0, learning_rate=1e-3, first_update=u, **SIZES, loss=None, gain=None
    )
    for r, u in ((1, 0.1), (8, 0.4))
)
WAY = Scaled(key="fixed", label="alpha / r, alpha fixed", runs=RUNS, levels=levels_of(RUNS))
SCALING = Scaling(
    **{"alpha": 16.0, "learning_rate": 1e-3, "steps": 1, "tokens_per_step": 1},
    **{"base_loss": 1.0, "trained_runs": 2, "scalings": (WAY,)},
    learning_rates=(rate_gains("fixed", 1, RUNS[:1]),),
)
"""Training that came to nothing finite."""


def payload(checked: Checked, note: str | None = None) -> dict[str, Any]:
    device = Device(kind="cpu", name="test")
    environment = Environment(python="3", platform="test", packages={}, device=device)
    said: dict[str, Any] = {"weights": "w", "text": "t", "note": note, "seed": 0, "quick": False}
    return verify_payload(find_model("gpt2"), environment, [checked], **said)


DIVERGING = Checked(claim=CLAIMS[4], evidence=SCALING, seconds=61.0)


def test_numbers_that_are_none_are_null_in_json_and_none_in_text() -> None:
    document = payload(DIVERGING, note="A note.")
    jsonschema.validate(json.loads(json.dumps(document, allow_nan=False)), verify_schema())
    blocks = verify_blocks(document)
    assert "! A note." in plain(blocks)
    assert "none" in plain(blocks)
    assert SCALING.finding[0] in markdown(blocks)
    keys = {chart.key for charts in grouped_charts(document).values() for chart in charts}
    assert keys >= {"scaling_gain", "scaling_learning_rates"}


def test_refusals_say_what_to_do(
    run: Run, golden_file: Golden, small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    golden_file.compare_answers(
        "refusals-verify", lambda words: refused(run("verify", *shlex.split(words)))
    )
    done = run("verify", "meta-llama/Llama-3.1-70B")  # the message has this machine's memory
    assert done.exit_code == 2
    assert "Take a smaller model, or --claims 1,2,3,4,5" in done.stderr


@pytest.mark.parametrize("library", ["torch", "transformers", "peft"])
def test_a_missing_library_is_named_with_what_to_install(
    library: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr(
        "lora_profiler._common.packages.find_spec",
        lambda name: None if name == library else find_spec(name),
    )
    done = run("verify", "small")
    assert done.exit_code == 4
    assert f"needs {library}\n  Install them: pip install 'lora-profiler[measure]'" in done.stderr


def test_help_loads_neither_torch_nor_claims(run: Run) -> None:
    help_ = ("verify", "--help")
    text = " ".join(run(*help_).stdout.split())
    assert all(f"{claim.id} {claim.title.lower()}" in text for claim in CLAIMS)
    assert "2, 3 and 4 must hold exactly" in text
    loaded = modules_after(f"from lora_profiler.cli.main import main; main({help_!r})")
    assert loaded.isdisjoint(
        {"torch", "numpy", "rich", "transformers", "msgspec", "lora_profiler.report.claims"}
    )


# --- where a model comes from ---------------------------------------------------------------------


def test_without_weights_a_small_model_is_trained_and_that_is_said(
    run: Run, tiny: None, small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = run("verify", "--offline", "--claims", "1")
    assert done.exit_code == 0
    text, model = " ".join(done.stdout.split()), "HuggingFaceTB/SmolLM2-135M"
    assert f"! The weights of {model} could not be had: {model} is not in the local" in text
    assert "trained on the bundled text of The Tempest: 9 steps" in text


def test_the_small_model_is_the_same_from_the_same_seed(small: None, tmp_path: Path) -> None:
    import torch

    def made(name: str, seed: int) -> Subject:
        (tmp_path / name).mkdir()
        return open_subject(
            VerifyRequest(model="small", quick=True, seed=seed), tmp_path / name, quietly
        )

    first, second, other = made("a", 0), made("b", 0), made("c", 1)
    state, again, another = (subject.model().state_dict() for subject in (first, second, other))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not all(torch.equal(state[name], another[name]) for name in state)
    assert (first.text, len(first.tokens)) == ("The Sonnets (bundled)", 95_650)
    assert first.note == second.note != None  # noqa: E711


def test_bytes_are_tokens_and_texts_are_read_whole(
    small: None, llama: Subject, tmp_path: Path
) -> None:
    text = tmp_path / "words.txt"
    text.write_text("Shall I compare thee? é\n" * 400)
    asked = VerifyRequest(model=str(llama.folder), text=text)
    subject = open_subject(asked, tmp_path, quietly)
    assert len(subject.tokens) == len(text.read_bytes())
    assert (subject.text, subject.weights, subject.note) == ("words.txt", llama.folder.name, None)
    assert subject.spec.num_parameters == llama.spec.num_parameters
    text.write_text("x" * 600_000)
    assert open_subject(asked, tmp_path, quietly).text == "words.txt, first 500,000 characters"
    text.write_text("too short")
    with pytest.raises(UsageError, match="has 9 tokens; at least 4096"):
        open_subject(asked, tmp_path, quietly)


def test_a_model_is_refused_before_weights_are_looked_for(tmp_path: Path) -> None:
    def refuse(spec: Any) -> None:
        raise UsageError(f"{spec.id} is too large")

    with pytest.raises(UsageError, match="Qwen/Qwen3-8B is too large"):
        open_subject(VerifyRequest(model="Qwen/Qwen3-8B"), tmp_path, quietly, refuse)


def test_weights_in_the_local_cache_are_found_without_asking(
    llama: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached = tmp_path / "models--someone--tiny"
    snapshot = cached / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    for file in llama.folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = replace(llama.spec, id="someone/tiny")
    assert hub_folder(spec, offline=True) == snapshot
    (snapshot / "model.safetensors").unlink()
    absent = "someone/tiny is not in the local Hugging Face cache"
    with pytest.raises(ModelNotFoundError, match=absent):
        hub_folder(spec, offline=True)


def test_a_hub_that_cannot_be_reached_is_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*arguments: Any, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            return real(*arguments, local_files_only=True, **options)
        raise OSError("no route\nto it")

    from huggingface_hub import snapshot_download as real

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(ModelNotFoundError, match=r"the hub did not give them \(no route\)"):
        hub_folder(find_model("gpt2"), offline=False)


# --- progress, charts -----------------------------------------------------------------------------


def test_a_log_gets_an_event_when_a_claim_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lora_profiler.report.progress.time.monotonic", lambda: now[0])
    with shown_checks(1) as watch:
        tell = watch.begin(CLAIMS[4])
        for second in range(31):
            now[0] = float(second)
            tell("rank 8", second, 61)
        watch.end(DIVERGING)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(e["done"], e["left_s"], e.get("doing"), e["verdict"]) for e in events] == [
        (0, None, None, None),
        (10, 51, "rank 8", None),
        (20, 41, "rank 8", None),
        (30, 31, "rank 8", None),
        (30, 31, "rank 8", "fails"),
    ]
    assert {(e["phase"], e["claim"]) for e in events} == {("Scaling", 5)}


def test_another_program_gets_events_more_often(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_checks(1, as_json=True) as watch:
        tell = watch.prepare()
        watch._shown._written = 0.0  # type: ignore[union-attr]
        tell("training it", 1, 150)
        tell("training it", 2, 150)  # too soon to be worth a line
        watch.begin(CLAIMS[4])
        watch.end(DIVERGING)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(e["claim"], e["phase"], e["done"], e["of"], e["verdict"]) for e in events] == [
        (0, "Getting the model", 1, 150, None),
        (5, "Scaling", 0, None, None),
        (5, "Scaling", 0, None, "fails"),
    ]


def test_committed_results_are_whole_and_turn_into_charts() -> None:
    results = RESULTS / "mathematics.json"
    if not results.exists():
        pytest.skip("there are no committed results here")
    document = json.loads(results.read_text("utf-8"))
    jsonschema.validate(document, verify_schema())
    assert list(private_text(document)) == []
    assert [claim["id"] for claim in document["claims"]] == list(range(1, 8))
    assert all(claim["verdict"] == "holds" for claim in document["claims"] if claim["must_hold"])
    charts = [chart for charts in grouped_charts(document).values() for chart in charts]
    assert len({chart.key for chart in charts}) == len(charts)
    for chart in charts:
        assert chart.series and all(len(each.x) == len(each.y) > 0 for each in chart.series)
        places = tuple(range(len(chart.categories)))
        assert not places or all(each.x == places for each in chart.series)
    share = next(chart for chart in charts if chart.key == "trained_share").series[0]
    ranks = document["claims"][0]["evidence"]["model"]["ranks"]
    assert dict(zip(share.x, share.y, strict=True)) == {
        row["rank"]: row["share_of_full"] for row in ranks
    }
    assert plain(verify_blocks(document))


DRAW = """
import json, sys
from pathlib import Path
from lora_profiler.report.claims.document import verify_blocks
from lora_profiler.report.page import mathematics_content, write_page
from lora_profiler.report.terminal import plain
document = json.loads(Path(sys.argv[1]).read_text("utf-8"))
assert plain(verify_blocks(document)) and write_page(mathematics_content(document))
print(*sys.modules)
"""


def without_numbers(evidence: Any) -> Any:
    """`evidence` with None wherever a number may be none."""
    if isinstance(evidence, tuple):
        return tuple(map(without_numbers, evidence))
    if not is_dataclass(evidence):
        return evidence
    hints = get_type_hints(type(evidence))
    return replace(
        evidence,
        **{
            name: None if hint in (float | None, int | None) else without_numbers(value)
            for name, hint in hints.items()
            for value in (getattr(evidence, name),)
        },
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.title)
def test_evidence_without_any_number_is_judged_and_drawn(claim: Claim) -> None:
    stored = json.loads((RESULTS / "mathematics.json").read_text("utf-8"))["claims"][claim.id - 1]
    evidence = claims.document.evidence_of(stored)
    assert (evidence.verdict, list(evidence.finding)) == (stored["verdict"], stored["finding"])
    nothing = without_numbers(evidence)
    assert nothing.finding and all(table.rows for table in nothing.tables())
    assert nothing.verdict == "fails" or not claim.must_hold
    assert all(chart.words for chart in nothing.charts())


def test_a_stored_document_is_drawn_without_torch() -> None:
    loaded = set(in_python(DRAW, str(RESULTS / "mathematics.json")).split())
    assert "lora_profiler.report.claims.scaling" in loaded
    assert loaded.isdisjoint({"torch", "numpy", "transformers", "peft"})


# --- an eighth claim ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Evidence):
    cents: tuple[int, ...]

    @property
    def verdict(self) -> Verdict:
        return "holds" if sum(self.cents) < 100 else "fails"

    @property
    def finding(self) -> tuple[str, ...]:
        return (f"It costs {sum(self.cents)} cents.",)

    def tables(self) -> tuple[Table, ...]:
        return (table(self.cents, (("cents each", lambda cents: f"{cents} c"),)),)

    def charts(self) -> tuple[Chart, ...]:
        line = Series(label="cents", x=(1.0, 2.0), y=tuple(map(float, self.cents)))
        words = {"title": "Price", "x_label": "number", "y_label": "cents"}
        return (Chart(key="price", heading="What it costs", series=(line,), **words),)


def test_a_claim_is_drawn_everywhere_from_its_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim(id=8, title="Price", statement="It is cheap.", evidence=Price)
    for module in (claims, claims.document):
        monkeypatch.setattr(module, "CLAIMS", (*CLAIMS, claim))
    document = payload(Checked(claim=claim, evidence=Price(cents=(30, 40)), seconds=1.0))
    assert document["claims"][0]["evidence"] == {"cents": [30, 40]}
    jsonschema.validate(document, verify_schema())
    with pytest.raises(jsonschema.ValidationError, match="'many' is not of type 'integer'"):
        evidence = {"cents": ["many"]}
        wrong = document | {"claims": [document["claims"][0] | {"evidence": evidence}]}
        jsonschema.validate(wrong, verify_schema())
    text = plain(verify_blocks(document))
    page = write_page(mathematics_content(document))
    for words in ("8. Price: holds", "It costs 70 cents.", "40 c"):
        assert words in text and words in page
    assert "What it costs" in page and "cents: 30 at 1 to 40 at 2." in page
