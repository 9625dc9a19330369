"""Real models as the harness trains them: the right ones, the same as transformers and PEFT make on
their own paths."""

import gc
import importlib.util
import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

import cases
import families
import oracle
import tracing
from lora_profiler.errors import UnbuildableError, UsageError
from lora_profiler.facts.catalog import bundled_models, find_model, model_from_config
from lora_profiler.measuring.harness.counters import recorded
from lora_profiler.memory.analytic import predict
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.modeling import (
    adapter_parameters,
    attention_context,
    build_model,
    count_parameters,
    forward,
    forward_loss,
    make_optimizer,
    output_head,
    quantization_tensors,
    text_tokens,
)
from lora_profiler.trace.modeling import build as building
from lora_profiler.trace.modeling.deferred import DeferredWeights

INPUTS = Path(__file__).parents[2] / "benchmarks" / "inputs"
LORA = LoraConfig(r=4, target_modules=("q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj"))


def case(config: Mapping[str, Any] | str = "llama", **fields: Any) -> Workload:
    config = families.TINY[config] if isinstance(config, str) else config
    setup = TrainSetup(**({"batch_size": 2, "seq_len": 8, "device": "cpu"} | fields))
    return Workload(model=model_from_config(dict(config), id="tiny", source="test"), setup=setup)


def batch_for(workload: Workload) -> dict[str, torch.Tensor]:
    shape = (workload.setup.batch_size, workload.setup.seq_len)
    words = workload.model.config["vocab_size"]
    ids = torch.randint(0, words, shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


# --- the same weights as transformers -------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", families.TINY)
def test_random_weights_are_those_of_transformers(config: str, dtype: str) -> None:
    fields = {name: value for name, value in families.TINY[config].items() if name != "model_type"}
    torch.manual_seed(0)
    published = AutoConfig.for_model(families.TINY[config]["model_type"], **fields)
    theirs = AutoModelForCausalLM.from_config(published, dtype=getattr(torch, dtype))
    ours = build_model(case(config, dtype=dtype))
    assert type(ours) is type(theirs)
    expected, found = theirs.state_dict(), ours.state_dict()
    assert list(found) == list(expected)
    assert all(
        found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in expected.items()
    )
    assert ours.training
    assert ours.config.use_cache is False


@pytest.mark.grid
@pytest.mark.parametrize("recipe", ["stock", "kbit", "trl"])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize(
    "config",
    ["llama", "llama_tied-varied", "gpt2", "gpt_neox", "opt", "phi3", "gemma2", "qwen3_moe"],
)
def test_quantised_in_place_is_what_transformers_loads(
    config: str, double_quant: bool, recipe: str
) -> None:
    """Bit by bit, against writing the 16-bit model and loading it with a `BitsAndBytesConfig`."""
    chosen = cases.CONFIGS[config]
    workload = case(
        chosen, lora=LORA, quantization=Quantization(double_quant=double_quant, recipe=recipe)
    )
    ours, theirs = build_model(workload), oracle.quantized_by_transformers(chosen, workload.setup)
    kinds, their_kinds = (
        [(n, type(m), m.training) for n, m in model.named_modules()] for model in (ours, theirs)
    )
    assert kinds == their_kinds
    found, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(found) == list(expected)
    packed = 0
    for name, parameter in expected.items():
        mine = found[name]
        told = (type(mine), mine.dtype, mine.shape, mine.requires_grad)
        assert told == (type(parameter), parameter.dtype, parameter.shape, parameter.requires_grad)
        beside, beside_theirs = quantization_tensors(mine), quantization_tensors(parameter)
        assert [(t.dtype, t.shape) for t in beside] == [(t.dtype, t.shape) for t in beside_theirs]
        if "lora_" not in name:  # their random numbers start elsewhere
            assert torch.equal(mine, parameter)
            assert all(torch.equal(a, b) for a, b in zip(beside, beside_theirs, strict=True))
        packed += bool(beside)
    layers = [m for m in theirs.modules() if "4bit" in type(m).__name__]
    assert packed == sum(hasattr(m, "compute_dtype") for m in layers) >= 12
    states = sum(oracle.quantization_state_bytes(ours).values())
    assert states == predict(workload).persistent_bytes["quantization_state"]
    adapters = {p.dtype for n, p in found.items() if "lora_" in n}
    assert adapters == {torch.bfloat16 if recipe == "trl" else torch.float32}
    assert forward_loss(ours, workload.setup, batch_for(workload)).isfinite()


def test_no_16_bit_weight_outlives_its_packed_form() -> None:
    config = families.TINY["llama"] | {"intermediate_size": 117}
    model = build_model(case(config, lora=LORA, quantization=Quantization()))
    gc.collect()
    tensors = (o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))
    assert [t.shape for t in tensors if t.dtype == torch.bfloat16 and 117 in t.shape] == []
    packed = [p.quant_state.shape for p in model.parameters() if hasattr(p, "quant_state")]
    assert sum(117 in shape for shape in packed) == 9


def test_a_4_bit_model_is_made_one_weight_at_a_time() -> None:
    """The peak of building is the model as it stays and a few weights, bitsandbytes' own
    temporaries on the CPU among them: far below the 16-bit model, which a device need not hold."""
    sizes = {"num_hidden_layers": 24, "hidden_size": 128, "intermediate_size": 256}
    sizes |= {"num_attention_heads": 4, "vocab_size": 300}
    lora = LoraConfig(r=1, target_modules=("q_proj",))
    workload = case(families.TINY["llama"] | sizes, lora=lora, quantization=Quantization())
    build_model(workload)  # bitsandbytes makes its code books once
    models: list[torch.nn.Module] = []
    live = recorded({}, lambda record: models.append(build_model(workload))).live_bytes()
    packed = (p.quant_state for p in models[0].parameters() if hasattr(p, "quant_state"))
    largest = max(2 * state.shape.numel() for state in packed)
    assert live[-1] < max(live) <= live[-1] + 8 * largest
    assert max(live) < workload.model.num_parameters * 2 / 2


@pytest.mark.parametrize("config", families.TINY)
def test_deferred_weights_are_the_same_to_the_bit(config: str) -> None:
    """And so is what is drawn at random afterwards."""
    workload = case(config)
    torch.manual_seed(0)
    plain = building.base_model(workload.model, workload.setup)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    deferred = DeferredWeights("cpu")
    found = building.base_model(workload.model, workload.setup, deferred=deferred)
    assert torch.equal(torch.rand(3), drawn)
    embeddings = [m.weight for m in found.modules() if isinstance(m, torch.nn.Embedding)]
    linear = [m.weight for m in found.modules() if type(m) in (torch.nn.Linear, Conv1D)]
    own = [weight for weight in linear if not any(weight is tied for tied in embeddings)]
    assert len(own) >= 8 and not any(weight.untyped_storage().nbytes() for weight in own)
    for parameter in reversed(list(found.parameters())):
        deferred.fill(parameter)
    expected, state = plain.state_dict(), found.state_dict()
    assert list(state) == list(expected)
    assert all(state[n].dtype == t.dtype and torch.equal(state[n], t) for n, t in expected.items())
    names = [[name for name, _ in model.named_parameters()] for model in (plain, found)]
    assert names[0] == names[1], "each tied weight once"


def _half_of_it(weight: torch.Tensor) -> None:
    torch.nn.init.zeros_(weight[:2])


def _from_another(weight: torch.Tensor) -> None:
    other = torch.rand_like(weight)
    weight.copy_(other)
    other.zero_()


OF_TORCH = (torch.nn.init.trunc_normal_, torch.nn.init.orthogonal_, torch.nn.init.eye_)


@pytest.mark.parametrize("initialise", [*OF_TORCH, _half_of_it, _from_another])
def test_deferred_weights_take_any_initialisation(
    initialise: Callable[[torch.Tensor], object],
) -> None:
    def layers(deferred: DeferredWeights | None) -> list[torch.nn.Linear]:
        torch.manual_seed(0)
        with deferred or nullcontext(), torch.no_grad():
            made = [torch.nn.Linear(4, 4) for _ in range(3)]
            for layer in made + made[:1]:  # the first one a second time, when it has been empty
                initialise(layer.weight)
        return made

    deferred = DeferredWeights("cpu")
    found, expected = layers(deferred), layers(None)
    for layer in found:
        deferred.fill(layer.weight)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


@pytest.mark.parametrize("quantization", [None, Quantization()], ids=["plain", "nf4"])
def test_weights_of_a_folder(quantization: Quantization | None, tmp_path: Path) -> None:
    source = build_model(case())
    with torch.no_grad():
        source.lm_head.weight.fill_(0.25)
    source.save_pretrained(tmp_path)
    workload = case(quantization=quantization, lora=LORA if quantization else None)
    model = build_model(workload, weights=str(tmp_path))
    head = output_head(model)
    assert head is not None
    assert (head.weight == 0.25).all()
    if quantization is None:
        pairs = zip(source.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    assert count_parameters(model)[0] == workload.model.num_parameters
    assert model.training
    with pytest.raises(UnbuildableError, match=r"lacks 9 weights of tiny.*model\.layers\.3\."):
        build_model(case(families.TINY["llama"] | {"num_hidden_layers": 4}), weights=str(tmp_path))
    with pytest.raises(UnbuildableError, match=r"another shape|76848"):
        build_model(case(families.TINY["llama"] | {"vocab_size": 77}), weights=str(tmp_path))


def test_every_bundled_model_has_a_class_that_takes_its_config() -> None:
    """One of each type and class, built on the meta device where weights cost nothing."""
    specs = [find_model(entry.id) for entry in bundled_models()]
    of_each = {(spec.model_type, spec.architecture): spec for spec in specs}
    assert len(of_each) > 40
    for spec in of_each.values():
        model = building.base_model(spec, TrainSetup(), device="meta")
        building._check(model, Workload(model=spec))


# --- stages, counts, contents ---------------------------------------------------------------------


def test_stages_in_their_order() -> None:
    for fields, expected in (
        ({}, ["load"]),
        ({"lora": LORA}, ["load", "adapter_inject"]),
        ({"lora": LORA, "quantization": Quantization()}, ["load", "quantise", "adapter_inject"]),
    ):
        seen: list[str] = []
        build_model(case(**fields), on_stage=seen.append)
        assert seen == expected


@pytest.mark.parametrize("config", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("quantization", [None, Quantization()], ids=["plain", "nf4"])
@pytest.mark.parametrize("saved", [(), ("lm_head",)], ids=["", "saved"])
def test_counts_are_the_catalogue_s_and_peft_s(
    config: str, quantization: Quantization | None, saved: tuple[str, ...]
) -> None:
    workload = case(config, lora=replace(LORA, modules_to_save=saved), quantization=quantization)
    model = build_model(workload)
    base, trainable = count_parameters(model)
    assert base == workload.model.num_parameters
    assert trainable == model.get_nb_trainable_parameters()[0]
    assert sum(p.numel() for p in adapter_parameters(model)) == trainable
    by_name = {id(p) for n, p in model.named_parameters() if "lora_" in n or "modules_to_save" in n}
    assert {id(p) for p in adapter_parameters(model)} == by_name
    assert any("modules_to_save" in n for n, _ in model.named_parameters()) == bool(saved)
    full = build_model(case(config))
    assert count_parameters(full) == (base, base)
    assert adapter_parameters(full) == []


def test_peft_gets_every_field_of_the_adapter() -> None:
    lora = LoraConfig(r=3, lora_alpha=5, lora_dropout=0.25, target_modules=("q_proj",))
    lora = replace(lora, layers_to_transform=(1,), use_rslora=True)
    lora = replace(lora, modules_to_save=("embed_tokens",))
    model = build_model(case(lora=lora))
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert adapted == ["base_model.model.model.layers.1.self_attn.q_proj"]
    layer = model.get_submodule(adapted[0])
    assert layer.lora_A["default"].weight.shape == (3, 48)
    assert layer.scaling["default"] == pytest.approx(5 / 3**0.5)
    assert layer.lora_dropout["default"].p == 0.25
    assert [n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n] == [
        "base_model.model.model.embed_tokens.modules_to_save.default.weight"
    ]
    plain = build_model(case(lora=replace(lora, use_rslora=False))).get_submodule(adapted[0])
    assert plain.scaling["default"] == pytest.approx(5 / 3)


@pytest.mark.parametrize("config", ["llama", "gpt2", "opt", "phi3"])
@pytest.mark.parametrize(
    "lora",
    [
        None,
        LORA,
        replace(LORA, modules_to_save=("lm_head",)),
        LoraConfig(r=2, target_modules=r".*lm_head"),
    ],
    ids=["full", "lora", "saved", "adapted"],
)
def test_output_head_makes_the_logits(config: str, lora: LoraConfig | None) -> None:
    workload = case(config, lora=lora)
    model = build_model(workload)
    head = output_head(model)
    assert head is not None
    outputs: list[torch.Tensor] = []
    head.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    logits = model(**batch_for(workload)).logits
    assert len(outputs) == 1
    assert outputs[0] is logits or torch.equal(outputs[0], logits)


def test_a_model_without_a_head_has_none() -> None:
    assert output_head(torch.nn.Linear(2, 2)) is None


# --- the step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["pure", "amp"])
def test_loss_is_cross_entropy_over_what_is_labelled(precision: str) -> None:
    workload = case(precision=precision, dtype="float32")
    model = build_model(workload)
    batch = batch_for(workload)
    mask = torch.ones_like(batch["input_ids"])
    mask[:, 5:] = 0
    labels = batch["labels"].masked_fill(mask == 0, -100)
    padded = {**batch, "labels": labels, "attention_mask": mask}
    for given in (batch, padded):
        loss = forward_loss(model, workload.setup, given)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "amp"):
            told = {name: given.get(name) for name in ("input_ids", "attention_mask")}
            logits = model(**told).logits
        assert logits.dtype == (torch.bfloat16 if precision == "amp" else torch.float32)
        ahead, after = logits[:, :-1].flatten(0, 1).float(), given["labels"][:, 1:].flatten()
        expected = torch.nn.functional.cross_entropy(ahead, after)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert loss.requires_grad


@pytest.mark.parametrize("config", ["llama", "gpt2", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_math_attention_is_forced_and_as_predicted(config: str, dtype: str) -> None:
    """The maths kernel keeps the scores, the CPU's flash kernel does not; each is what the
    predictor says of it."""
    real = {}
    for attention in ("math", "flash", "auto"):
        setup = case(attention=attention, dtype=dtype, seq_len=24).setup
        workload = Workload(model=cases.spec_of(config), setup=setup)
        real[attention] = oracle.saved_activation_bytes(build_model(workload), workload.setup)
        assert real[attention] == predict(workload).saved_activation_bytes
    assert real["math"] > real["flash"] == real["auto"]


def test_the_attention_kernel_holds_in_a_recomputed_layer() -> None:
    workload = case(attention="math", checkpointing=True)
    model = build_model(workload)
    with attention_context(workload.setup):
        forward_loss(model, workload.setup, batch_for(workload)).backward()
    with attention_context(workload.setup):
        loss = forward_loss(model, workload.setup, batch_for(workload))
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        loss.backward()


def test_a_kernel_that_cannot_run_is_no_silent_other_one() -> None:
    # with dropout, which the CPU's flash kernel has not
    workload = case(families.VARIED["gpt2"], attention="flash")
    with (
        attention_context(workload.setup),
        pytest.warns(UserWarning),
        pytest.raises(RuntimeError, match="No available kernel"),
    ):
        forward_loss(build_model(workload), workload.setup, batch_for(workload))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_is_non_reentrant_and_on_only_where_asked(checkpointing: bool) -> None:
    workload = case(checkpointing=checkpointing, lora=LORA, seq_len=24)
    model = build_model(workload)
    saved = oracle.saved_activation_bytes(model, workload.setup)
    assert saved == predict(workload).saved_activation_bytes
    loss = forward_loss(model, workload.setup, batch_for(workload))
    nodes, names = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in names:
            names.add(node)
            nodes += [following for following, _ in node.next_functions]
    # what reentrant checkpointing leaves
    assert not any("CheckpointFunction" in node.name() for node in names)


@pytest.mark.parametrize("implementation", ["foreach", "fused", "forloop"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_optimizer_implementation_is_pinned(optimizer: str, implementation: str) -> None:
    workload = case(lora=LORA, optimizer=optimizer, optimizer_impl=implementation)
    model = build_model(workload)
    made = make_optimizer(model, workload.setup)
    for name in ("foreach", "fused"):
        assert made.defaults[name] == (implementation == name)
    (group,) = made.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in adapter_parameters(model)}


# --- refusals -------------------------------------------------------------------------------------


def test_another_model_than_asked_is_refused() -> None:
    workload = case()
    other = replace(workload.model, published={**families.TINY["llama"], "intermediate_size": 64})
    with pytest.raises(UnbuildableError, match=r"built with 58416 parameters, .* means 79152"):
        build_model(replace(workload, model=other))


def test_another_dtype_than_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_options", lambda spec, setup: {"dtype": torch.float32})
    said = r"embed_tokens\.weight is torch\.float32, not torch\.bfloat16"
    with pytest.raises(UnbuildableError, match=said):
        build_model(case())


@pytest.mark.parametrize(
    ("module", "fields", "install"),
    [
        ("transformers", {}, r"lora-profiler\[measure\]"),
        ("peft", {"lora": LORA}, r"lora-profiler\[measure\]"),
        ("bitsandbytes", {"lora": LORA, "quantization": Quantization()}, r"lora-profiler\[qlora\]"),
    ],
)
def test_a_missing_library_is_named(
    module: str, fields: dict[str, Any], install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lora_profiler.trace.modeling.third_party.find_spec",
        lambda name: None if name == module else importlib.util.find_spec(name),
    )
    said = rf"{module}, which is not installed: pip install .*{install}"
    with pytest.raises(UnbuildableError, match=said):
        build_model(case(**fields))


def test_refused_attention_and_adapters_say_who_refuses() -> None:
    bloom = {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 101}
    said = "transformers cannot build tiny: BloomForCausalLM does not support"
    with pytest.raises(UnbuildableError, match=said):
        build_model(case(bloom, attention="math"))
    said = r"PEFT refuses these adapters on tiny: .*nothing_like_this"
    with pytest.raises(UnbuildableError, match=said):
        build_model(case(lora=LoraConfig(target_modules=("nothing_like_this",))))


def test_gemma_2_runs_eager_in_every_version_of_transformers() -> None:
    assert build_model(case("gemma2")).config._attn_implementation == "eager"
    said = "tiny caps its attention scores, so flash cannot run; use eager or auto"
    with pytest.raises(UnbuildableError, match=said):
        build_model(case("gemma2", attention="flash"))


def test_a_model_or_config_that_transformers_lacks() -> None:
    spec = case().model
    odd, another = {**spec.published, "num_attention_heads": 5}, "NoSuchForCausalLM"
    for changes, message in (
        ({"architecture": another}, f"has no {another} for model type 'llama'"),
        ({"model_type": "nosuch"}, "for model type 'nosuch'"),
        ({"published": {}}, "config.json of tiny is not known"),
        ({"published": odd}, "transformers (refuses|cannot build)"),
    ):
        with pytest.raises(UnbuildableError, match=message):
            build_model(replace(case(), model=replace(spec, **changes)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(UnbuildableError, match="no cuda device"):
        build_model(case(device="cuda"))


def test_weights_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"give random, hub, a folder .* or a \.gguf file"):
        build_model(case(), weights=str(tmp_path / "nothing"))
    with pytest.raises(UnbuildableError, match="weights of tiny could not be loaded"):
        build_model(case(), weights=str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(
        "lora_profiler.trace.modeling.third_party.find_spec", lambda name: name != "gguf" or None
    )
    with pytest.raises(UnbuildableError, match="needs gguf"):
        build_model(case(), weights=str(tmp_path / "a.gguf"))


def test_remote_code_is_never_run() -> None:
    auto_map = {"AutoModelForCausalLM": "someone/something--evil.Model"}
    config = {**families.TINY["llama"], "auto_map": auto_map}
    assert type(build_model(case(config))).__module__ == "transformers.models.llama.modeling_llama"


# --- quiet ----------------------------------------------------------------------------------------

NOISY = """
    import sys, warnings
    sys.path.insert(0, "tests")
    import families
    from pathlib import Path
    from transformers.utils import logging
    from lora_profiler.facts.catalog import model_from_config
    from lora_profiler.trace.modeling import build_model
    from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

    warnings.simplefilter("always")
    before = logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)
    setup = TrainSetup(lora=LoraConfig(r=4, modules_to_save=("lm_head",)), quantization=Quantization(recipe="kbit"),
                       checkpointing=True, device="cpu")
    spec = model_from_config(families.TINY["gpt2"], id="tiny", source="test")
    build_model(Workload(model=spec, setup=setup), weights=sys.argv[1])
    build_model(Workload(model=spec, setup=setup))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)) == before
"""


def test_third_parties_keep_quiet_and_get_their_voice_back(tmp_path: Path) -> None:
    build_model(case("gpt2")).save_pretrained(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(NOISY), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- text, and real inputs ------------------------------------------------------------------------


def test_text_goes_through_the_tokenizer_of_the_weights(tmp_path: Path) -> None:
    vocabulary = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    tokenizer = dict.fromkeys(("normalizer", "decoder", "post_processor")) | {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }  # fmt: skip
    (tmp_path / "plain.json").write_text(json.dumps(tokenizer))
    path = str(tmp_path / "plain.json")
    PreTrainedTokenizerFast(tokenizer_file=path, unk_token="[UNK]").save_pretrained(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("to be or not\nto die")
    tokens = text_tokens(str(text), str(tmp_path))
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [1, 2, 3, 4, 1, 0]
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        text_tokens(str(tmp_path / "none.txt"), str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnbuildableError, match=r"empty has no tokenizer. Save one there"):
        text_tokens(str(text), str(tmp_path / "empty"))


def test_real_weights_on_real_text() -> None:
    weights, text = INPUTS / "SmolLM2-135M-Instruct.Q4_1.gguf", INPUTS / "shakespeare.txt"
    if not (weights.is_file() and text.is_file()):
        pytest.skip(
            "the real inputs are not here; python -m benchmarks.truth.fetch_inputs fetches them"
        )
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed")
    tokens = text_tokens(str(text), str(weights))
    assert len(tokens) > 1_000_000
    assert tokens.min() >= 0
    assert tokens.max() < 49152
    setup = TrainSetup(batch_size=2, seq_len=256, dtype="float32", device="cpu")
    workload = Workload(model=find_model("HuggingFaceTB/SmolLM2-135M"), setup=setup)
    ids = tokens[500_000 : 500_000 + 512].reshape(2, 256)
    batch = {"input_ids": ids, "labels": ids}
    model = build_model(workload, weights=str(weights))
    assert count_parameters(model) == (134_515_008, 134_515_008)
    assert 3 < forward_loss(model, setup, batch).item() < 5
    assert forward_loss(build_model(workload), setup, batch).item() > 0.95 * math.log(49152)
    four_bit = replace(setup, dtype="bfloat16", lora=LoraConfig(r=4), quantization=Quantization())
    packed = build_model(replace(workload, setup=four_bit), weights=str(weights))
    assert count_parameters(packed)[0] == 134_515_008
    assert 3 < forward_loss(packed, four_bit, batch).item() < 5


@pytest.mark.parametrize(("name", "widens"), [("t5", True), ("llama", False)])
def test_what_a_model_returns_under_autocast_is_as_accelerate_hands_it_on(
    name: str, widens: bool
) -> None:
    """Of a causal language model its float32 logits were there before, in the loss."""
    operations = pytest.importorskip("accelerate.utils.operations")
    setup = replace(
        tracing.BASE, precision="amp", dtype="float32", loop_state="transformers", hold_outputs=True
    )
    workload = Workload(
        model=model_from_config(tracing.config_of(name), id="t", source="test"), setup=setup
    )
    model = build_model(workload)
    batch = oracle.make_batch(model, setup)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(**batch, use_cache=False)
    theirs = operations.convert_to_fp32(plain) if widens else plain
    held = forward(model, setup, batch).held
    assert type(held) is type(theirs) and held.keys() == theirs.keys()
    assert [v.dtype for v in held.values()] == [v.dtype for v in theirs.values()]
    assert torch.bfloat16 in {v.dtype for v in plain.values()}
