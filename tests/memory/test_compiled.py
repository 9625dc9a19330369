"""Compiled profiles against fresh traces, which know nothing of polynomials, folding or depth."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import families
import oracle
from agreement import totals
from lora_profiler.errors import CompileError, NoProfileError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.memory.compiled import has_profile, library, peak_bytes, predict, predict_with
from lora_profiler.memory.compiled.evaluation import forget
from lora_profiler.memory.compiled.profile import (
    Profile,
    ProfileError,
    packed,
    profile_key,
    unpacked,
)
from lora_profiler.memory.compiled.regime import one_of_each_regime, regime_of
from lora_profiler.planning import engine
from lora_profiler.planning.fit import fit
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace import tracer
from lora_profiler.trace.compiler import compile_profile, tape_signature
from lora_profiler.trace.flat import Flat, flat
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import predict_once
from lora_profiler.trace.toys import at_depth, layout_of
from tracing import share_traces, traced_once

BASE = TrainSetup(device="cuda", batch_size=2, seq_len=64)
LORA = replace(BASE, lora=LoraConfig(r=4))
SMOLLM3: dict[str, Any] = {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"]}
"""A family without rules; each fourth layer has no rotary positions, which its config.json leaves
out."""


@pytest.fixture(autouse=True)
def cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of one's own."""
    share_traces(monkeypatch)
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "profiles.sqlite"
    forget()


def workload(family: str, setup: TrainSetup, layers: int = 7, **config: Any) -> Workload:
    raw = dict(families.TINY[family])
    raw |= {name: layers for name in ("num_hidden_layers", "n_layer") if name in raw}
    model = model_from_config(raw | config, id=f"tiny-{family}", source="test")
    return Workload(model=model, setup=setup)


@cache
def compiled(asked: Workload) -> Profile:
    """Made once for all tests that ask for it."""
    return compile_profile(asked)


def truth(asked: Workload) -> dict[tuple[int, str], int]:
    """Peak of each (step, phase) by adding up the events of a trace of that very size."""
    found: dict[tuple[int, str], int] = {}
    live, sizes, where = 0, [], (0, "before")
    for event in flat(traced_once(asked)).events:
        if event.birth is not None:
            sizes.append(event.birth.size)
            live += event.birth.size
        elif event.mark is None:
            live -= sizes[event.dies]
        elif not event.mark.note:
            where = (event.mark.step, {"loss": "forward"}.get(event.mark.phase, event.mark.phase))
        found[where] = max(live, found.get(where, 0))
    return found


def true_peak(asked: Workload) -> int:
    """Of the second step."""
    return max(size for (step, _), size in truth(asked).items() if step == 2)


GROUPS = {
    "forward": ("last_layer_forward", "end_of_forward"),
    "backward": ("loss_backward", "last_layer_backward", "first_layer_backward"),
    "optimizer": ("optimizer_step",),
}

SETUPS = {
    "full": BASE,
    "full checkpointed": replace(BASE, checkpointing=True, optimizer_impl="forloop"),
    "lora": LORA,
    "lora checkpointed, dropout": replace(
        LORA, checkpointing=True, lora=LoraConfig(r=4, lora_dropout=0.1)
    ),
    "eager": replace(BASE, attention="eager"),
}


CASES = [
    ("llama", "full"),
    ("llama", "lora checkpointed, dropout"),
    ("llama", "eager"),
    ("gpt2", "lora"),
    ("opt", "full checkpointed"),
]
"""`python -m benchmarks.truth.held_out` asks hundreds more."""


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_profile_says_what_a_fresh_trace_of_another_size_and_depth_says(
    family: str, name: str
) -> None:
    made = compiled(workload(family, SETUPS[name]))
    assert made.layout is not None
    for layers, batch, seq, rank in ((4, 2, 2, 1), (11, 5, 233, 21)):
        setup = SETUPS[name]
        lora = replace(setup.lora, r=rank) if setup.lora else None
        asked = workload(family, replace(setup, batch_size=batch, seq_len=seq, lora=lora), layers)
        said = predict_with(made, asked)
        real = truth(asked)
        for step, label in ((1, 1), (2, "steady")):
            at = totals(said, label)
            found = {of: max(at[m] for m in ms if m in at) for of, ms in GROUPS.items()}
            assert found == {phase: real[step, phase] for phase in GROUPS}, asked.setup
        assert said.peak.total_bytes == true_peak(asked)


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_moe"])
def test_unlike_layers_are_folded_by_their_period_or_traced_whole(family: str) -> None:
    """Gemma 3 turns between windows and full attention; a mixture keeps its router's tensors."""
    asked = workload(family, BASE, layers=11)
    made = compile_profile(asked)
    assert predict_with(made, asked).peak.total_bytes == true_peak(asked)


def key_of(asked: Workload) -> str:
    return profile_key(asked.model, asked.setup, regime_of(asked))


def test_a_filled_window_is_another_profile() -> None:
    window = {"sliding_window": 48, "layer_types": ["sliding_attention"] * 7}
    short = workload("mistral", replace(BASE, seq_len=47), **window)
    long = workload("mistral", replace(BASE, seq_len=48), **window)
    assert regime_of(short) != regime_of(long)
    assert key_of(short) != key_of(long)
    for asked in (short, long):
        assert predict_with(compile_profile(asked), asked).peak.total_bytes == true_peak(asked)


_TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 5, "num_attention_heads": 4,
    "vocab_size": 101, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_WINDOW = _TINY | {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 64}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
_SOME = {"use_sliding_window": True, "max_window_layers": 2}
_TURNS = {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]}
MASKED: dict[str, dict[str, Any]] = {
    "mistral": _WINDOW,
    "mixtral": _WINDOW | _EXPERTS,
    "qwen2": _WINDOW | _SOME,
    "qwen2_moe": _WINDOW | _SOME | _EXPERTS,
    "phi3": _WINDOW,
    "gemma2": _WINDOW,
    "gemma3_text": _WINDOW | _TURNS,
    "gemma4_text": _WINDOW | _TURNS,
    "gpt_oss": _WINDOW | _EXPERTS,
    "olmo3": _WINDOW,
    "starcoder2": _WINDOW,
    "cohere2": _WINDOW,
    "exaone4": _WINDOW | {"sliding_window_pattern": 4},
    "modernbert": _TINY
    | {"local_attention": 64, "architectures": ["ModernBertForMaskedLM"]}
    | {"cls_token_id": 1, "sep_token_id": 2},
    "falcon": _TINY | {"alibi": True, "multi_query": False, "parallel_attn": False},
    "llama": _WINDOW,
}
"""Windows of 64 tokens, ALiBi, and in Llama padding: attention gets a mask, whose rows the
efficient kernel pads to multiples of 8."""


@pytest.mark.grid
@pytest.mark.parametrize("model_type", MASKED)
def test_both_sides_of_a_window_are_compiled_with_rows_of_masks_padded_or_not(
    model_type: str,
) -> None:
    config = MASKED[model_type] | {"model_type": model_type}
    model = model_from_config(config, id=f"masked-{model_type}", source="test")
    padding = 0.25 if model_type == "llama" else 0.0
    setup = replace(BASE, optimizer="sgd", padding=padding)
    for seq in (33, 40, 200, 203):
        asked = Workload(model=model, setup=replace(setup, seq_len=seq))
        assert predict_with(compiled(at_first(asked)), asked).peak.total_bytes == true_peak(asked)


def at_first(asked: Workload) -> Workload:
    """Of the sizes that one profile answers, those that compiling takes."""
    regime = regime_of(asked)
    return next(one for one in one_of_each_regime(asked) if regime_of(one) == regime)


def test_columns_of_the_layers_sum_to_the_totals() -> None:
    asked = workload("llama", LORA)
    said = predict_with(compiled(asked), asked)
    assert said.flops is not None
    whole = {
        "num_trainable_parameters": said.parameters.trainable,
        "gradient_bytes": said.persistent_bytes["gradients"],
        "optimizer_state_bytes": said.persistent_bytes["optimizer_states"],
        "saved_activation_bytes": said.saved_activation_bytes,
        "flops": said.flops.total,
    }
    assert {name: sum(getattr(c, name) for c in said.layers) for name in whole} == whole
    assert {name for name, _ in asked.model.modules()} <= {layer.name for layer in said.layers}


@pytest.mark.parametrize("setup", [BASE, replace(LORA, checkpointing=True)])
def test_rules_and_profile_agree_where_the_rules_are_exact(setup: TrainSetup) -> None:
    """Two predictors that share nothing but the question. Heads of 12, as elsewhere here, CUDA's
    flash kernel pads to 16 first: the trace shows it, the rules do not know it."""
    asked = workload("llama", setup, vocab_size=32_000, head_dim=16)
    said = predict_with(compiled(asked), asked)
    rules = engine.predict(asked, "analytic")
    assert rules.exactness == "exact"
    assert said.peak.moment == rules.peak.moment
    held = [{c: n for c, n in answer.peak.bytes.items() if n} for answer in (said, rules)]
    assert held[0] == held[1]
    for name in ("saved_activation_bytes", "persistent_bytes", "parameters", "flops"):
        assert getattr(said, name) == getattr(rules, name)


def test_what_the_trace_cannot_see_on_a_cpu_is_an_estimate() -> None:
    """Copies that operators on two dtypes make inside their kernels."""
    mixed = replace(LORA, device="cpu", dtype="bfloat16")
    alike = replace(mixed, lora=LoraConfig(r=4, adapter_dtype="bfloat16"))
    amp = replace(alike, precision="amp")
    for setup, exactness in ((mixed, "estimate"), (alike, "exact"), (amp, "estimate")):
        said = predict_once(workload("llama", setup, layers=2))
        assert said.exactness == exactness
        assert (said.error_bound is not None) == (exactness == "estimate")


# --- kept and found -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> tuple[Workload, Profile]:
    asked = workload("llama", LORA)
    return asked, compiled(asked)


def test_a_profile_comes_back_from_json(made: tuple[Workload, Profile]) -> None:
    asked, profile = made
    back = unpacked(packed(profile))
    assert packed(back) == packed(profile)
    assert predict_with(back, asked) == predict_with(profile, asked)
    assert predict_with(back, asked).layers == predict_with(profile, asked).layers


def test_a_bundle_gives_back_what_was_packed(
    made: tuple[Workload, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, profile = made
    other = replace(profile, key="f" * 24, versions={**profile.versions, "torch": "1.0"})
    path = tmp_path / "profiles.sqlite"
    library.write_bundle(path, [[other], [other, profile]][1:])
    first = path.read_bytes()
    library.write_bundle(path, [[other, profile]])
    assert path.read_bytes() == first
    monkeypatch.setattr(library, "BUNDLED", path)
    found = library.bundled_profile(profile.key)
    assert found is not None and packed(found) == packed(profile)
    assert library.bundled_profile("0" * 24) is None
    forget()
    assert engine.predict(asked).engine == "compiled"
    assert engine.predict(asked) == predict_with(profile, asked)


def test_large_profiles_are_packed_apart(
    made: tuple[Workload, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(made[1], key="f" * 24)
    path = tmp_path / "apart.sqlite"
    monkeypatch.setattr(library, "BUNDLED", path)
    monkeypatch.setattr(library, "LARGEST_PACK", 1)
    library.write_bundle(path, [[other, made[1]]])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM packs").fetchone() == (2,)
    connection.close()
    assert [p.key for p in library.bundled_profiles()] == [other.key, made[1].key]
    found = library.bundled_profile(made[1].key)
    assert found is not None and packed(found) == packed(made[1])


@pytest.mark.parametrize("spoilt", [b"", b"no database", b"damaged"])
def test_a_bundle_that_cannot_be_read_counts_as_none(
    spoilt: bytes, made: tuple[Workload, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{spoilt.hex()}.sqlite"
    library.write_bundle(path, [[made[1]]])
    if spoilt == b"damaged":
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE packs SET data = ?", (b"nothing",))
        connection.close()
    else:
        path.write_bytes(spoilt)
    monkeypatch.setattr(library, "BUNDLED", path)
    assert library.bundled_profile(made[1].key) is None


def test_targets_that_mean_the_same_have_one_key() -> None:
    model = workload("llama", LORA).model

    def key(targets: Any) -> str:
        lora = LoraConfig(r=4, target_modules=targets)
        return key_of(Workload(model=model, setup=replace(LORA, lora=lora)))

    assert key(None) == key(("v_proj", "q_proj")) == key(("q_proj", "v_proj")) != key("all-linear")


def test_what_is_no_profile_is_refused(made: tuple[Workload, Profile]) -> None:
    data = packed(made[1])
    for spoilt in (b"", data[:-7], data[:50] + b"\0" + data[51:], b"x\x9c\x03\0\0\0\0\x01"):
        with pytest.raises(ProfileError):
            unpacked(spoilt)


def test_a_kept_profile_answers_every_size_and_nothing_else(
    made: tuple[Workload, Profile], cache_file: Path
) -> None:
    asked, profile = made
    with pytest.raises(NoProfileError, match="lora-profile compile"):
        predict(asked)
    assert library.keep(profile) == cache_file
    forget()
    sizes: Any = {"batch_size": 9, "seq_len": 777, "lora": LoraConfig(r=99)}
    larger = replace(asked, setup=replace(asked.setup, **sizes))
    assert predict(larger).engine == "compiled"
    assert peak_bytes(larger) == predict(larger).peak.total_bytes
    assert engine.predict(larger).engine == "compiled"
    others = (replace(asked.setup, batch_size=1), replace(asked.setup, checkpointing=True), BASE)
    assert not any(has_profile(replace(asked, setup=other)) for other in others)


def test_keys_that_are_in_no_cache_open_it_once(
    made: tuple[Workload, Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = made[1]
    path = library.keep(profile)
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *at, **how: opened.append(at) or connect(*at, **how)
    )
    assert [library.find_profile(f"{n:024}") for n in range(9)] == [None] * 9
    assert len(opened) == 1
    assert path is not None
    library.write(path, [replace(profile, key=f"{8:024}")])  # as another process does
    assert library.find_profile(f"{8:024}") is not None


def test_a_profile_of_other_versions_is_not_used(made: tuple[Workload, Profile]) -> None:
    asked, profile = made
    library.keep(replace(profile, versions={**profile.versions, "transformers": "1.0"}))
    forget()
    assert not has_profile(asked)


def test_an_unreadable_cache_is_put_aside(made: tuple[Workload, Profile], cache_file: Path) -> None:
    asked, profile = made
    cache_file.parent.mkdir(parents=True)
    cache_file.write_bytes(b"this is no database, and longer than a header of SQLite is" * 10)
    assert not has_profile(asked)
    assert library.keep(profile) == cache_file
    forget()
    assert has_profile(asked)
    assert cache_file.with_suffix(".unreadable").exists()


def test_a_spoilt_row_counts_as_none(made: tuple[Workload, Profile], cache_file: Path) -> None:
    asked, profile = made
    library.keep(profile)
    with sqlite3.connect(cache_file) as connection:
        connection.execute("UPDATE profiles SET data = ?", (b"nothing",))
    connection.close()
    forget()
    assert not has_profile(asked)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "said"), [(100, "tape changes"), (200, "events instead of")])
def test_a_tape_that_changes_with_the_size_is_refused(
    length: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a kernel took another path from some length on, which the config does not name; of a
    length that no point of the fit reaches it is found at the longest sequence."""
    from lora_profiler.trace import compiler

    def build(asked: Workload) -> Any:
        model = build_model(asked, device="meta")
        if asked.setup.seq_len > length:
            model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.clone())
        return model

    monkeypatch.setattr(compiler, "_on_meta", build)
    with pytest.raises(CompileError, match=said):
        compile_profile(workload("llama", BASE))


def test_a_folded_tape_that_loses_a_tensor_at_another_depth_is_not_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of GPT-BigCode's QLoRA under autocast: what a layer frees is not born in each."""
    from lora_profiler.memory.compiled.tape import Tape
    from lora_profiler.trace import compiler

    class Lost(Tape):
        def expand(self, units: int) -> Any:
            raise KeyError((3, 1, 57))

    fold = compiler.fold
    monkeypatch.setattr(compiler, "fold", lambda *args: Lost(*fold(*args)))
    asked = workload("llama", BASE, layers=5)
    assert compile_profile(asked).layout is None


def test_a_step_that_no_profile_holds_is_traced_at_its_own_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(asked: Workload) -> Profile:
        raise CompileError("its tape changes with the size")

    monkeypatch.setattr("lora_profiler.trace.compile_profile", refuse)
    asked = workload("llama", LORA, **SMOLLM3)
    said = engine.predict(asked, "traced")
    assert said.engine == "traced"
    assert said.peak.total_bytes == true_peak(asked)
    found = fit(asked, find_gpu("rtx_4090"), "traced", said)
    assert found is not None and found.verdict == "fits"
    assert found.largest_batch_size is found.longest_seq_len is found.highest_rank is None


def test_what_runs_in_plain_torch_for_want_of_a_package_is_said() -> None:
    """The recurrence goes over chunks of 64 tokens in a Python loop, so that no profile holds
    it."""
    raw = {
        "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "hidden_size": 32,
        "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "intermediate_size": 48, "vocab_size": 300, "linear_key_head_dim": 8,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }  # fmt: skip
    model = model_from_config(raw, id="tiny-qwen3_next", source="test")
    asked = Workload(model=model, setup=replace(BASE, seq_len=100))
    with pytest.raises(CompileError, match="tape changes"):
        compile_profile(asked)
    said = engine.predict(asked, "traced")
    assert "chunk_gated_delta_rule (flash-linear-attention)" in " ".join(said.assumptions)
    assert said.peak.total_bytes == true_peak(asked)


def test_a_4_bit_base_multiplies_as_often_as_any() -> None:
    """The rules count the same products, by formulas of their own."""
    setup = replace(LORA, quantization=Quantization(), checkpointing=True)
    asked = workload("llama", setup, head_dim=16)
    assert predict_once(asked).flops == engine.predict(asked, "analytic").flops


# --- relatives ------------------------------------------------------------------------------------


def test_a_relative_needs_fewer_traces_and_has_the_same_profile_otherwise() -> None:
    wide = workload("llama", BASE, hidden_size=96, intermediate_size=200, vocab_size=300)
    proven = tape_signature(compiled(workload("llama", BASE)).tape)
    short, whole = compile_profile(wide, proven={proven}), compile_profile(wide)
    assert [layers for layers, *_ in short.checked] == [5]
    assert [layers for layers, *_ in whole.checked] == [5, 6, 7]
    assert packed(replace(short, checked=())) == packed(replace(whole, checked=()))


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"num_key_value_heads": 4}])
def test_a_model_that_does_something_else_is_no_relative(changes: dict[str, Any]) -> None:
    """Tied, it makes fewer gradients; with a bias, more; with as many key heads as heads, it need
    not repeat them in eager."""
    eager = replace(BASE, attention="eager")
    proven = tape_signature(compiled(workload("llama", eager)).tape)
    assert len(compile_profile(workload("llama", eager, **changes), proven={proven}).checked) == 3


# --- shortcuts ------------------------------------------------------------------------------------


def fresh(asked: Workload) -> Flat:
    return flat(trace(asked, lambda w: build_model(w, device="meta")))


@pytest.mark.grid
@pytest.mark.parametrize(
    ("family", "setup"),
    [
        ("llama", BASE),
        ("llama", SETUPS["eager"]),
        ("gpt2", SETUPS["lora checkpointed, dropout"]),
        ("gemma2", SETUPS["lora checkpointed, dropout"]),
        ("qwen3_moe", BASE),
    ],
)
def test_shortcuts_change_nothing(
    family: str, setup: TrainSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = workload(family, setup, layers=2)
    with_them = fresh(asked)
    monkeypatch.setattr(tracer, "SHORTCUTS", {})
    without = fresh(asked)
    for name in ("events", "where", "flops"):
        assert getattr(with_them, name) == getattr(without, name)


def test_a_size_beyond_polynomials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_profiler.trace import compiler

    def build(asked: Workload) -> Any:
        import torch

        model = build_model(asked, device="meta")
        odd = torch.empty(asked.setup.seq_len**3 // 7, device="meta")
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(lambda _m, _a, out: out + torch.neg(odd)[:1])
        return model

    monkeypatch.setattr(compiler, "_on_meta", build)
    with pytest.raises(CompileError, match="polynomial"):
        compile_profile(workload("llama", BASE))


def test_the_layout_finds_periods_and_prefixes() -> None:
    plain = layout_of(workload("llama", BASE).model)
    assert plain is not None and (plain.prefix, plain.period, plain.tail) == (0, 1, 0)
    types = (["sliding_attention"] * 3 + ["full_attention"]) * 5
    turning = layout_of(workload("gemma3_text", BASE, 20, layer_types=types).model)
    assert turning is not None and (turning.prefix, turning.period) == (0, 4)
    first = layout_of(workload("qwen3_moe", BASE, 9, mlp_only_layers=[0]).model)
    assert first is not None and (first.prefix, first.period) == (1, 1)
    assert layout_of(workload("llama", BASE, 3).model) is None
    fewest = layout_of(workload("llama", BASE, 4).model)
    assert fewest is not None and fewest.units_of(4) == 4
    assert at_depth(workload("llama", BASE).model, 5).num_layers == 5
    period = ["sliding_attention", "sliding_attention", "full_attention"]
    long = at_depth(workload("gemma3_text", BASE, 16, layer_types=(period * 6)[:16]).model, 18)
    assert long.config["layer_types"] == period * 6


@pytest.mark.parametrize(
    ("name", "period", "units"),
    [
        ("HuggingFaceTB/SmolLM3-3B", 4, 9),  # each fourth layer without rotary positions
        ("google/gemma-3-1b-it", 6, 4),  # as many as a tape is made of, and two layers behind them
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 4, 12),
    ],
)
def test_periods_that_only_transformers_fills_in_are_found(
    name: str, period: int, units: int
) -> None:
    model = find_model(name, offline=True)
    layout = layout_of(model)
    assert layout is not None
    assert (layout.period, layout.units_of(model.num_layers)) == (period, units)


def test_a_model_whose_period_the_config_leaves_out_is_folded() -> None:
    made = compiled(workload("llama", BASE, 16, **SMOLLM3))
    assert made.layout is not None and made.layout.period == 4
    deeper = workload("llama", replace(BASE, seq_len=77), 28, **SMOLLM3)
    assert predict_with(made, deeper).peak.total_bytes == true_peak(deeper)


GPT_NEO: dict[str, Any] = {
    "model_type": "gpt_neo", "hidden_size": 48, "num_layers": 12, "num_heads": 4,
    "attention_types": [[["global", "local"], 6]], "window_size": 16, "embed_dropout": 0,
    "attention_dropout": 0, "max_position_embeddings": 128,
}  # fmt: skip
FEW_POSITIONS = {
    "gpt_neo": GPT_NEO | {"attention_layers": ["global", "local"] * 6},
    "gpt_neo, whose layers are not listed": GPT_NEO,
    "mpt": {"model_type": "mpt", "d_model": 48, "n_layers": 6, "n_heads": 4, "max_seq_len": 128},
}


@pytest.mark.parametrize("config", FEW_POSITIONS.values(), ids=FEW_POSITIONS)
def test_a_profile_of_few_positions_says_what_a_real_step_takes(config: dict[str, Any]) -> None:
    """Neither type is in the catalogue, whose fields tell how many positions there are."""
    config = {**config, "vocab_size": 101, "resid_dropout": 0}
    model = model_from_config(config, id="few-positions", source="test")
    setup = TrainSetup(device="cpu", dtype="float32", batch_size=2, seq_len=93)
    asked = Workload(model=model, setup=setup)
    said = predict_with(compile_profile(asked), asked)
    assert said.exactness == "exact"
    found = oracle.step_peaks(oracle.build(config, setup), setup)
    real = max(size for (step, _), size in found.items() if step == 2)
    assert said.peak.total_bytes == pytest.approx(real, rel=5e-4)
