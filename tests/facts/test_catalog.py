"""The bundled catalogue, cards, look-up order and the hub's refusals. No test here imports torch or
reaches the network."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from commands import in_python
from golden_files import Golden
from lora_profiler.errors import (
    LoraProfilerError,
    ModelNotFoundError,
    UnsupportedModelError,
    UsageError,
)
from lora_profiler.facts.catalog import (
    bundled_gpus,
    bundled_models,
    find_gpu,
    find_model,
    model_from_config,
)
from lora_profiler.facts.catalog import config as cfg
from lora_profiler.question.adapters import adapters
from lora_profiler.question.workload import LoraConfig

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("entry", bundled_models(), ids=lambda entry: entry.id)
def test_every_bundled_model_has_its_true_count(entry):
    spec = find_model(entry.id)
    assert spec.num_parameters == entry.num_parameters
    assert spec.num_parameters == sum(module.num_parameters for _, module in spec.modules())
    assert spec.source == "bundled" and spec.id == entry.id and spec.num_layers >= 1


def test_there_are_262_models_each_with_a_source():
    entries = bundled_models()
    assert len(entries) == 262
    assert all(entry.source and entry.architecture for entry in entries)
    exact = [entry for entry in entries if entry.verification == "exact"]
    assert (
        all(entry.num_parameters == entry.published_num_parameters for entry in exact)
        and len(exact) > 100
    )


def test_a_name_without_its_organisation_will_do_unless_a_folder_has_it(tmp_path, monkeypatch):
    assert find_model("smollm2-135M", offline=True) == find_model("HuggingFaceTB/SmolLM2-135M")
    with pytest.raises(ModelNotFoundError):
        find_model("SmolLM2-135M", revision="step-1000", offline=True)
    (tmp_path / "SmolLM2-135M").mkdir()
    (tmp_path / "SmolLM2-135M" / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    assert find_model("SmolLM2-135M", offline=True).num_layers == 2


def test_aliases_urls_and_case_lead_to_the_same_model():
    spec = find_model("meta-llama/Llama-3.1-8B")
    for name in (
        "META-llama/llama-3.1-8b",
        "unsloth/Meta-Llama-3.1-8B",
        "https://huggingface.co/meta-llama/Llama-3.1-8B",
        "https://huggingface.co/meta-llama/Llama-3.1-8B/tree/main",
        "huggingface.co/meta-llama/Llama-3.1-8B/",
        "https://hf.co/meta-llama/Llama-3.1-8B?library=transformers",
        " gpt2 ",
    ):
        found = find_model(name, offline=True)
        assert found == spec or (name == " gpt2 " and found.id == "openai-community/gpt2")
    assert spec.dtype == "bfloat16"
    assert hash(spec) == hash(find_model("unsloth/Meta-Llama-3.1-8B"))


SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("name", "model_type", "targets", "trained"),
    [
        ("unsloth/Phi-3.5-mini-instruct", "llama", SEVEN, 29_884_416),
        ("unsloth/Phi-3-medium-4k-instruct-bnb-4bit", "mistral", SEVEN, 65_536_000),
        ("unsloth/Phi-4", "llama", SEVEN, 65_536_000),
        ("unsloth/Phi-4", "llama", SEVEN[4:], 44_236_800),
    ],
)
def test_copies_that_are_laid_out_as_llama(name, model_type, targets, trained):
    """As Unsloth's notebooks print of them, at rank 16, and which class it patches (unslothai/
    notebooks, nb/Phi_3.5_Mini-Conversational, Phi_3_Medium-Conversational, Phi_4-Conversational,
    Phi_4_(14B)-GRPO); Microsoft's own have q, k and v in one layer."""
    found = find_model(name, offline=True)
    made = adapters(found, LoraConfig(r=16, target_modules=targets))
    assert found.model_type == model_type
    assert sum(16 * (each.in_features + each.out_features) for each in made) == trained


# --- config.json from the disk --------------------------------------------------------------------


def test_a_folder_and_a_file_are_read(tmp_path):
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    by_folder, by_file = find_model(str(folder)), find_model(str(folder / "config.json"))
    assert by_folder == by_file and by_folder.id == "my-llama" and by_folder.dtype == "bfloat16"
    assert by_folder.source == str(folder / "config.json")
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    assert by_folder.num_parameters == 2 * 1000 * 64 + 64 + 2 * layer


def test_a_bundled_id_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    assert find_model("gpt2").model_type == "gpt2"
    assert find_model("./gpt2").model_type == "llama"


def test_old_and_new_spellings_are_one_model():
    old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 8.0}}
    old |= {"head_dim": None, "mlp_bias": None}
    rope = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}
    new = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    new |= {"dtype": "bfloat16", "rope_parameters": rope, "head_dim": 16}
    a, b = (model_from_config(raw, id="x", source="test") for raw in (old, new))
    assert a == b and a.config == b.config and a.dtype == b.dtype == "bfloat16"
    assert a.config["rope_parameters"] == rope


def test_attribute_names_of_gpt2_are_translated():
    both = {"model_type": "gpt2", "vocab_size": 100, "attn_pdrop": 0.2}
    own = both | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    canonical = both | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    canonical |= {"max_position_embeddings": 64, "n_inner": None}
    a, b = (model_from_config(raw, id="x", source="test") for raw in (own, canonical))
    assert a == b and a.config["intermediate_size"] == 128 and a.config["hidden_act"] == "gelu_new"
    assert a.config["attention_dropout"] == 0.2
    more = {**own, "intermediate_size": 77, "hidden_act": "relu"}
    ignored = model_from_config(more, id="x", source="test")
    assert ignored == a, "GPT2Config has no such fields: transformers leaves them unread"


def test_nulls_that_say_something_are_kept():
    raw = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    silent = model_from_config(raw, id="x", source="t")
    assert silent.config["sliding_window"] == 4096  # the class default
    said = model_from_config({**raw, "sliding_window": None}, id="x", source="t")
    assert said.config["sliding_window"] is None


@pytest.mark.parametrize(
    ("model_type", "of", "kind"),
    [
        ("deberta-v2", "AutoModelForMaskedLM", "is_masked"),
        ("pegasus", "AutoModelForSeq2SeqLM", "is_encoder_decoder"),
    ],
)
def test_a_config_that_names_no_class_is_of_what_its_type_has(model_type, of, kind):
    """As microsoft/deberta-v3-base, whose type has no causal language model."""
    transformers = pytest.importorskip("transformers")
    raw = {"model_type": model_type, "hidden_size": 48, "d_model": 48, "vocab_size": 300}
    spec = model_from_config(raw, id="x", source="test")
    theirs = transformers.AutoConfig.for_model(**raw)
    with pytest.importorskip("torch").device("meta"):
        model = getattr(transformers, of).from_config(theirs)
    assert spec.architecture == type(model).__name__ and getattr(spec, kind)
    assert spec.num_parameters == model.num_parameters()


def test_a_config_with_a_bundled_models_fields_needs_no_torch():
    rows = json.loads(cfg.data_text("models.json"))["models"]
    row = next(row for row in rows if row["id"] == "google/gemma-3-4b-it")
    raw = {"model_type": "gemma3", "architectures": [row["architecture"]], **row["config"]}
    raw["transformers_version"] = "4.50"
    assert model_from_config(raw, id="mine", source="t").num_parameters == row["num_parameters"]
    raw["text_config"] = {**raw["text_config"], "num_hidden_layers": 33}
    code = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from lora_profiler.facts.catalog import model_from_config\n"
        f"model_from_config(json.loads({json.dumps(raw)!r}), id='mine', source='mine.json')"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UnsupportedModelError: mine.json" in failed.stderr
    assert "pip install 'lora-profiler[measure]'" in failed.stderr


def test_bad_fields_are_named_with_what_is_accepted(golden_file: Golden) -> None:
    def answer(change: str) -> str:
        with pytest.raises(ModelNotFoundError) as caught:
            model_from_config({**LLAMA, **json.loads(change)}, id="x", source="bad.json")
        assert caught.value.exit_code == 3
        return str(caught.value)

    golden_file.compare_answers("config-errors", answer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "llama", "hidden_size": 12', "cut off"),
        ("[1, 2]", "not a JSON object"),
        ("", "cut off"),
        ('{"hidden_size": NaN}', "NaN"),
        ("{}", "has no model_type"),
        ('{"model_type": "llama"', "cut off"),
        ("[" * 100_000, "bad.json"),
        ('{"a": ' + "9" * 5000 + "}", "bad.json"),
        ("\xff\xfe", "bad.json"),
    ],
)
def test_bad_files_are_refused_in_words(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelNotFoundError, match=words):
        find_model(str(path))


@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_an_empty_name_is_a_usage_error(name):
    with pytest.raises(UsageError):
        find_model(name)


def test_paths_that_lead_nowhere_say_so(tmp_path, monkeypatch):
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        find_model(str(tmp_path / "nothing"))
    with pytest.raises(ModelNotFoundError, match="folder without"):
        find_model(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="neither a file"):
        find_model("what is this?")
    with pytest.raises(ModelNotFoundError, match="Did you mean meta-llama/Llama-3"):
        find_model("llama3.1:8b")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="Here, mine is a folder without"):
        find_model("mine", offline=True)
    (tmp_path / "mine" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="mine holds an adapter alone"):
        find_model("./mine")


# --- the hub --------------------------------------------------------------------------------------


_WRONG = "Invalid username or password."


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as huggingface.co does, by the name of the repository."""

    answers: ClassVar = {
        "org/open": (200, {}, json.dumps(LLAMA)),
        "org/gated": (403, {"X-Error-Code": "GatedRepo"}, ""),
        "org/gated-anonymous": (401, {"X-Error-Code": "GatedRepo"}, ""),
        "org/private": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": _WRONG}, ""),
        "org/no-config": (404, {"X-Error-Code": "EntryNotFound"}, ""),
        "org/no-revision": (404, {"X-Error-Code": "RevisionNotFound"}, ""),
        "org/broken": (503, {}, ""),
        "org/html": (200, {}, "<html>"),
        "meta-llama/Llama-3.1-8B": (200, {}, json.dumps(LLAMA)),
    }
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        if name == "org/silent":
            threading.Event().wait(3)
        self.seen.append((rest, self.headers.get("authorization")))
        status, headers, body = self.answers.get(name, (404, {"X-Error-Code": "RepoNotFound"}, ""))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(name: str, endpoint: str, home: Path, call: str = "", before: str = "", **env: str) -> str:
    """What find_model says in a fresh process: 'id source parameters', or 'ErrorName: message'."""
    code = (
        "from lora_profiler.facts.catalog import find_model, hub; from lora_profiler.errors import"
        f" LoraProfilerError\n{before}\ntry: s = find_model({name!r}{call}); print(s.id, s.source,"
        " s.num_parameters)\nexcept LoraProfilerError as e: print(f'{type(e).__name__}: {e}')"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    clean |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **env}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, timeout=60
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def test_the_hubs_refusals_each_have_a_next_step(
    hub: str, golden_file: Golden, tmp_path: Path
) -> None:
    golden_file.compare_answers(
        "refusals-hub", lambda name: ask(name, hub, tmp_path).strip().replace(hub, "HUB")
    )


def test_the_hub_gives_a_config_with_the_token_and_the_revision(hub, tmp_path):
    Hub.seen.clear()
    said = ask("org/open", hub, tmp_path, ", revision='v1'", HF_TOKEN="hf_secret")
    assert said.startswith("org/open hub ")
    assert Hub.seen == [("v1/config.json", "Bearer hf_secret")]


def test_a_bundled_id_at_another_revision_is_not_the_bundled_one(hub, tmp_path):
    name = "meta-llama/Llama-3.1-8B"
    assert ask(name, hub, tmp_path) == f"{name} bundled 8030261248"
    assert ask(name, hub, tmp_path, ", revision='v1'").startswith(f"{name} hub 2")
    address = f"https://huggingface.co/{name}/tree/v1"
    assert ask(address, hub, tmp_path).startswith(f"{name} hub 2")


def test_without_a_network_the_answer_comes_soon_and_says_why(tmp_path):
    said = ask("org/anything", "http://127.0.0.1:9", tmp_path)
    assert "cannot be reached" in said and "config.json" in said
    for call, env, why in (
        (", offline=True", {}, "--offline"),
        ("", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ):
        said = ask("Qwen/Qwen2.5-7C", "http://127.0.0.1:9", tmp_path, call, **env)
        assert why in said and "Did you mean Qwen/Qwen2.5-7B" in said


def test_a_hub_that_does_not_answer_is_given_up(hub, tmp_path):
    said = ask("org/silent", hub, tmp_path, before="hub.TIMEOUT_SECONDS = 0.2")
    assert "cannot be reached" in said and "timed out" in said


def test_the_local_cache_answers_before_the_hub(tmp_path):
    repo = tmp_path / "hub" / "models--org--cached"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "snapshots" / "abc" / "config.json").write_text(json.dumps(LLAMA))
    said = ask("org/cached", "http://127.0.0.1:9", tmp_path, ", offline=True")
    assert said.startswith("org/cached hub ")


def test_unknown_types_are_named_and_remote_code_is_not_run():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedModelError, match=r"lama'.*Did you mean.*llama"):
        model_from_config({"model_type": "lama"}, id="x", source="t")
    with pytest.raises(UnsupportedModelError, match=r"auto_map.*never run"):
        remote = {"model_type": "zzz", "auto_map": {"AutoConfig": "x--y.Z"}}
        model_from_config(remote, id="x", source="t")


# --- cards ----------------------------------------------------------------------------------------


def test_every_card_is_found_by_key_and_full_name():
    cards = bundled_gpus()
    assert len(cards) == 84 and all(card.source for card in cards)
    for card in cards:
        assert find_gpu(card.key) is card
        assert find_gpu(card.name.upper()) is card


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("rtx4090", "rtx_4090"),
        ("RTX 4090", "rtx_4090"),
        ("4090", "rtx_4090"),
        ("rtx-4090", "rtx_4090"),
        ("T4", "t4"),
        ("rtx 3060", "rtx_3060_12gb"),
        ("A100-SXM4-80GB", "a100_sxm_80gb"),
        ("a100 sxm 80 GB", "a100_sxm_80gb"),
        ("h100 sxm", "h100_sxm_80gb"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm_80gb"),
        ("h200", "h200_sxm_141gb"),
        ("l40", "l40"),
        ("l40s", "l40s"),
        ("mi300x", "mi300x_192gb"),
        ("apple m1", "apple_m1"),
        ("4060ti 16gb", "rtx_4060_ti_16gb"),
    ],
)
def test_short_forms_of_one_card(name, key):
    assert find_gpu(name).key == key


SEVERAL = {"a100": ["a100_sxm_40gb", "a100_sxm_80gb"], "v100": ["v100_sxm2_16gb", "v100_sxm2_32gb"]}


@pytest.mark.parametrize(("name", "keys"), SEVERAL.items())
def test_short_forms_of_several_cards_list_them(name, keys):
    with pytest.raises(UsageError, match="ambiguous") as caught:
        find_gpu(name)
    assert all(key in str(caught.value) for key in keys) and caught.value.exit_code == 2


NEAREST = {"rtx4095": "rtx_4090", "A101": "a10", "24 g": "`--gpu 24GiB`", "80": "`--gpu 80GiB`"}


@pytest.mark.parametrize(("name", "nearest"), NEAREST.items())
def test_unknown_cards_get_the_nearest(name, nearest):
    with pytest.raises(UsageError, match=f"Did you mean {nearest}[,?]"):
        find_gpu(name)


@pytest.mark.parametrize("size", ["24GiB", "24 gib", "24576MiB", "custom:24GiB"])
def test_a_memory_size_is_any_card_of_it(size):
    assert find_gpu(size).usable_bytes == 24 * 2**30


def test_usable_memory_is_the_cards_own_or_marked_as_an_estimate():
    own, guessed = find_gpu("rtx_4090"), find_gpu("rtx_4070")
    assert own.usable_bytes == 25_232_932_864 and not own.usable_is_estimated
    assert guessed.usable_is_estimated and 0.9 * 12 * 2**30 < guessed.usable_bytes < 12 * 2**30
    assert find_gpu("apple_m1").usable_bytes is None
    for card in (card for card in bundled_gpus() if card.usable_bytes is not None):
        assert 0.85 < card.usable_bytes / 2**30 / card.memory_gib_marketed <= 1


SIZES = {"custom:24GiB": 24 * 2**30, "custom: 24576 mib": 24 * 2**30, "CUSTOM:1.5GiB": 3 * 2**29}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_custom_cards(name, size):
    assert find_gpu(name).usable_bytes == size and not find_gpu(name).usable_is_estimated


def test_models_with_the_words_of_a_name_come_before_those_spelled_like_it():
    with pytest.raises(ModelNotFoundError, match="name one: meta-llama/Llama-4-Scout"):
        find_model("llama4", offline=True)


def test_a_cpu_is_no_gpu():
    with pytest.raises(UsageError, match="`--device cpu`"):
        find_gpu("CPU")


@pytest.mark.parametrize(("sold", "like"), [("24GB", "rtx_4090"), ("custom:32 GB", "rtx_5090")])
def test_a_gpu_of_a_printed_size_loses_what_others_do(sold, like):
    """A program has less than what a GPU is sold with; some GPUs with ECC have less again."""
    gpu = find_gpu(sold)
    assert gpu.usable_is_estimated and gpu.name == f"{find_gpu(like).memory_gib_marketed:g} GB GPU"
    assert gpu.usable_bytes == pytest.approx(find_gpu(like).usable_bytes, rel=0.005)


BAD_SIZES = ("", "24", "0GiB", "-1GiB", "1e9TiB", "99999999999TiB")


@pytest.mark.parametrize("name", [*(f"custom:{size}" for size in BAD_SIZES), "custom", "", "auto"])
def test_bad_cards_are_usage_errors(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UsageError):
        find_gpu(name)


def test_every_error_is_one_of_ours():
    assert issubclass(UnsupportedModelError, ModelNotFoundError)
    assert issubclass(ModelNotFoundError, LoraProfilerError)


def test_without_the_disk_no_name_is_a_path(tmp_path, monkeypatch):
    """Names that come from links: what lies in the working folder, or anywhere, is not looked
    at."""
    folder = tmp_path / "organisation" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA), "utf-8")
    monkeypatch.chdir(tmp_path)
    assert find_model("organisation/name").model_type == "llama"
    own = ("organisation/name", "./organisation/name")
    for name in (*own, str(folder), str(folder / "config.json")):
        with pytest.raises(ModelNotFoundError):
            find_model(name, offline=True, on_disk=False)
    assert find_model("gpt2", on_disk=False) == find_model("gpt2")


def test_a_process_that_must_not_load_torch_is_told_what_to_do_instead():
    code = (
        "from lora_profiler.facts.catalog import model_from_config; from lora_profiler.facts.catalog.meta_build"
        " import builds_refused\nwith builds_refused('Ask elsewhere.'):\n    try:"
        " model_from_config({'model_type': 'mamba'}, id='x', source='x.json')\n    except Exception"
        " as e: print(type(e).__name__, e)\nimport sys; assert 'torch' not in sys.modules and"
        " 'transformers' not in sys.modules"
    )
    said = in_python(code)
    assert said.startswith("UnsupportedModelError")
    assert said.rstrip().endswith("mamba model are not known here. Ask elsewhere.")
