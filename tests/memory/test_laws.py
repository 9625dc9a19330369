"""Laws of a type: made of small models, held against fresh traces of others; what they refuse."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lora_profiler.errors import CompileError, LoraProfilerError, NoProfileError
from lora_profiler.facts.catalog import bundled_models, find_model, model_from_config
from lora_profiler.facts.stacks import stack as stacks
from lora_profiler.memory.compiled import evaluation, predict_with
from lora_profiler.memory.compiled.evaluation import bytes_of, forget
from lora_profiler.memory.compiled.law import (
    NotOfLawError,
    facts_of,
    law_key,
    measured,
    of_model,
    outside_vocabulary,
    placeholders,
)
from lora_profiler.memory.compiled.library import find_profile
from lora_profiler.memory.compiled.predict import SEVERAL_ERROR, moments_with
from lora_profiler.memory.compiled.profile import Law, Monomial, Profile, packed, unpacked
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.memory.compiled.tape import Birth, Death, FlatEvent, Layout
from lora_profiler.planning import engine
from lora_profiler.planning.setups import DEFAULTS, setup_for, workloads
from lora_profiler.planning.sweep import sweep
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import (
    DTYPE_BYTES,
    LoraConfig,
    Quantization,
    TrainSetup,
    Workload,
)
from lora_profiler.trace import compile_profile
from lora_profiler.trace.compiler import check_again, compile_law, largest
from lora_profiler.trace.flat import difference, flat
from lora_profiler.trace.fold import fold, labels_of
from lora_profiler.trace.modeling.build import filled_config
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import predict_once
from lora_profiler.trace.toys import toys
from tracing import share_traces, traced_once

GRANITE: dict[str, Any] = {
    "model_type": "granite", "architectures": ["GraniteForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 112, "vocab_size": 300, "max_position_embeddings": 256,
    "attention_multiplier": 0.125, "logits_scaling": 8.0, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
OTHER = {
    "hidden_size": 240, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 9,
    "intermediate_size": 328, "vocab_size": 517, "logits_scaling": 3.0,
}  # fmt: skip
LORA = TrainSetup(batch_size=3, seq_len=50, lora=LoraConfig(r=6))
GUIDE = TrainSetup(
    batch_size=1, seq_len=56, lora=LoraConfig(r=6), precision="amp", checkpointing=True,
    optimizer_impl="fused", loop_state="transformers",
)  # fmt: skip
"""As guides train; autocast keeps copies of all adapters to the end of a forward pass."""


@pytest.fixture(autouse=True)
def cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    share_traces(monkeypatch)
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "profiles.sqlite"
    forget()


def granite(**changes: Any) -> ModelSpec:
    return model_from_config(GRANITE | changes, id="tiny-granite", source="test")


@cache
def law(setup: TrainSetup) -> Profile:
    return compile_law(Workload(model=granite(), setup=setup))


def test_a_law_is_checked_again_under_another_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.granite.modeling_granite import GraniteMLP

    workload = Workload(model=granite(), setup=LORA)
    profile = compile_profile(workload)
    check_again(law(LORA), workload)
    check_again(profile, workload)
    of_today = GraniteMLP.forward
    monkeypatch.setattr(GraniteMLP, "forward", lambda mlp, x: of_today(mlp, x * 1))
    monkeypatch.setattr("lora_profiler.trace.compiler.trace", trace)  # not one that was kept
    for made in (law(LORA), profile):
        with pytest.raises(CompileError, match=r"at 5 layers, .* events instead of"):
            check_again(made, workload)


@pytest.mark.parametrize("setup", [LORA, GUIDE], ids=["lora", "guide"])
def test_a_law_is_a_fresh_trace_of_another_model_event_by_event(setup: TrainSetup) -> None:
    other = Workload(model=granite(**OTHER), setup=setup)
    profile = of_model(unpacked(packed(law(setup))), other.model)
    assert profile.layout is not None
    fresh = flat(traced_once(other))
    rank = 1 if setup.lora is None else setup.lora.r
    values = [size.evaluate(setup.batch_size, setup.seq_len, rank) for size in profile.sizes]
    expanded = profile.tape.expand(profile.layout.units_of(9) or 0)
    assert difference(expanded, values, fresh) is None
    said = predict_with(profile, other)
    assert said.parameters.trainable == sum(fresh.trainable.values())
    assert said.flops is not None
    assert said.flops.forward == sum(fresh.flops_of("forward").values())
    assert said.saved_activation_bytes == sum(
        e.birth.size for e in fresh.events if e.birth is not None and e.birth.saved
    )


ENCODER_DECODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "T5": (
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 64,
         "d_ff": 112, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 4, "d_kv": 16,
         "vocab_size": 300, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
         "relative_attention_num_buckets": 32, "decoder_start_token_id": 0, "pad_token_id": 0},
        {"d_model": 240, "d_ff": 328, "num_layers": 9, "num_decoder_layers": 9, "num_heads": 6,
         "d_kv": 40, "vocab_size": 517},
    ),
    "BART": (
        {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "d_model": 64,
         "encoder_ffn_dim": 112, "decoder_ffn_dim": 176, "encoder_layers": 6, "decoder_layers": 6,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 300,
         "max_position_embeddings": 256},
        {"d_model": 240, "encoder_ffn_dim": 328, "decoder_ffn_dim": 520, "encoder_layers": 9,
         "decoder_layers": 9, "encoder_attention_heads": 6, "decoder_attention_heads": 6,
         "vocab_size": 517},
    ),
    "Whisper": (
        {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"],
         "d_model": 64, "encoder_ffn_dim": 112, "decoder_ffn_dim": 176, "encoder_layers": 6,
         "decoder_layers": 6, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "vocab_size": 300, "max_target_positions": 240, "num_mel_bins": 80, "pad_token_id": 0,
         "max_source_positions": 150, "bos_token_id": 1, "eos_token_id": 1,
         "decoder_start_token_id": 1},
        {"d_model": 240, "encoder_ffn_dim": 328, "decoder_ffn_dim": 520, "encoder_layers": 9,
         "decoder_layers": 9, "encoder_attention_heads": 6, "decoder_attention_heads": 6,
         "vocab_size": 517, "num_mel_bins": 128, "max_source_positions": 190},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "changes"), ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)
def test_the_law_of_an_encoder_and_a_decoder_is_a_fresh_trace_of_others(
    raw: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Of other sizes and another depth, with masks and sums whose rows are padded."""
    setup = replace(LORA, dtype="float32")
    tiny = model_from_config(raw, id="tiny", source="test")
    made = compile_law(Workload(model=tiny, setup=setup))
    assert made.layout is not None and len(made.layout.stacks) == 2
    model = model_from_config(raw | changes, id="other", source="test")
    for tokens in (50, 203):
        other = Workload(model=model, setup=replace(setup, seq_len=tokens))
        fresh = flat(traced_once(other))
        profile = of_model(unpacked(packed(made)), model)
        said = predict_with(profile, other).flops
        assert said is not None and said.forward == sum(fresh.flops_of("forward").values())
        values = [size.evaluate(3, tokens, 6) for size in profile.sizes]
        expanded = profile.tape.expand(made.layout.units_of(9) or 0)
        assert difference(expanded, values, fresh) is None


def test_a_model_that_nobody_traced_is_answered_by_the_law_of_its_type() -> None:
    known = Workload(model=granite(), setup=LORA)
    other = replace(known, model=granite(**OTHER))
    estimate = engine.predict(other, may_trace=False)
    assert (estimate.engine, estimate.exactness) == ("analytic", "estimate")
    compile_profile(known)
    said = engine.predict(other, may_trace=False)
    assert (said.engine, said.exactness) == ("compiled", "exact")
    assert said.peak == engine.predict(other, "traced").peak
    assert estimate.error_bound is not None
    off = estimate.peak.total_bytes / said.peak.total_bytes - 1
    assert abs(off) < estimate.error_bound


def test_names_of_all_linear_layers_are_answered_by_the_law_of_all_linear() -> None:
    compile_profile(Workload(model=granite(), setup=LORA))
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for targets, exactness in ((names, "exact"), (names[:-1], "estimate")):
        assert LORA.lora is not None
        named = replace(LORA, lora=replace(LORA.lora, target_modules=targets))
        asked = Workload(model=granite(), setup=named)
        said = engine.predict(asked, may_trace=False)
        assert said.exactness == exactness
        if exactness == "exact":
            assert said.peak.total_bytes == predict_once(asked).peak.total_bytes


TRL = TrainSetup(
    batch_size=3, seq_len=50, lora=LoraConfig(r=6), precision="amp", dtype="float32", loss="trl",
    checkpointing=True, optimizer_impl="fused", loop_state="trl",
)  # fmt: skip
COMPOSED = {
    "lora": TRL,
    "full": replace(TRL, lora=None),
    "4-bit base": replace(TRL, quantization=Quantization(recipe="trl", double_quant=False)),
    "all in bfloat16, batches summed up": replace(
        TRL, precision="pure", dtype="bfloat16", checkpointing=False, accumulation=2
    ),
}
"""Stacks that differ in what the loss is given and hands back."""


@pytest.mark.parametrize("setup", COMPOSED.values(), ids=COMPOSED)
def test_a_stack_and_a_loss_are_a_fresh_trace_of_both(setup: TrainSetup) -> None:
    """At sizes of one tile of the loss, and of several: a law leaves both open."""
    made = unpacked(packed(law(setup)))
    other = granite(**OTHER | {"vocab_size": 40_000, "max_position_embeddings": 4096})
    for rows, tokens in ((3, 50), (5, 1200)):
        whole = Workload(model=other, setup=replace(setup, batch_size=rows, seq_len=tokens))
        mine = moments_with(of_model(made, other, bytes_of(whole, made)), whole)
        real = predict_once(whole)
        assert largest(mine) == largest(real)
        assert mine.saved_activation_bytes == real.saved_activation_bytes
        assert mine.flops == real.flops


def test_a_model_that_nobody_traced_is_answered_by_its_stack_and_the_loss() -> None:
    known = Workload(model=granite(), setup=TRL)
    compile_profile(known)
    model = granite(**OTHER | {"vocab_size": 40_000})
    other = Workload(model=model, setup=replace(TRL, batch_size=9, seq_len=700))
    said = engine.predict(other, may_trace=False)
    assert said.peak.total_bytes == predict_once(other).peak.total_bytes
    assert (said.engine, said.has_tape, said.is_whole) == ("compiled", False, True)
    sizes = [700, 300, 40]
    assert sweep(other, seq_len=sizes).tolist() == [
        engine.peak_bytes(replace(other, setup=replace(other.setup, seq_len=n))) for n in sizes
    ]
    assert {row.name: row.saved_activation_bytes > 0 for row in said.layers}["loss"]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_what_is_traced_has_the_loss_that_its_law_leaves_open(accumulation: int) -> None:
    asked = Workload(model=granite(), setup=replace(TRL, accumulation=accumulation))
    assert largest(engine.predict(asked, "traced")) == largest(predict_once(asked))


def test_a_loss_that_keeps_the_hidden_state_is_no_number_of_bytes() -> None:
    """As TRL's on a CPU, whose one row is a view."""
    setup = replace(TRL, device="cpu", batch_size=1, precision="pure")
    with pytest.raises(CompileError, match="the loss keeps the hidden state"):
        compile_law(Workload(model=granite(), setup=setup))


FACTS: dict[str, dict[str, Any]] = {
    "a tied head": {"tie_word_embeddings": True},
    "biases, modules that appear": {"attention_bias": True},
    "a factor that turns something off": {"logits_scaling": 1.0},
    "no key heads that are shared": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "heads whose width is padded": {"hidden_size": 48},
    "another activation": {"hidden_act": "gelu"},
    "a fraction of the head that is turned": {"rope_parameters": {"partial_rotary_factor": 0.5}},
}


@pytest.mark.parametrize("changes", FACTS.values(), ids=FACTS)
def test_what_flips_a_tape_is_part_of_the_key(changes: dict[str, Any]) -> None:
    changed = granite(**changes)
    assert facts_of(changed) != facts_of(granite())
    regime = regime_of(Workload(model=changed, setup=LORA))
    assert law_key(changed, LORA, regime) != law_key(granite(), LORA, regime)


def test_sizes_and_depth_are_no_part_of_the_key() -> None:
    assert facts_of(granite(**OTHER)) == facts_of(granite())


def test_heads_a_power_of_two_count_where_slopes_are_made_of_them() -> None:
    raw = {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_layer": 6}
    few, many = (
        model_from_config(
            raw | {"n_head": heads, "hidden_size": 16 * heads}, id="tiny", source="test"
        )
        for heads in (4, 6)
    )
    assert facts_of(few) != facts_of(many)


def test_toys_differ_in_every_size_and_have_all_facts() -> None:
    model = granite()
    made = next(toys(model, regime_of(Workload(model=model, setup=LORA))))
    assert {facts_of(toy) for toy in made} == {facts_of(model)}
    for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        assert len({toy.config[name] for toy in made}) > 3
    assert len({toy.config["logits_scaling"] for toy in made}) == len(made)


@pytest.mark.parametrize("name", ["zai-org/GLM-4.6V-Flash", "PaddlePaddle/PaddleOCR-VL"])
def test_rotary_sections_are_all_the_angles_of_a_head_in_every_toy(name: str) -> None:
    """transformers splits the angles by them, and refuses sections of another sum."""
    model = find_model(name, offline=True)
    made = next(toys(model, regime_of(Workload(model=model, setup=LORA))))
    assert {facts_of(toy) for toy in made} == {facts_of(model)}
    for each in (model, *made):
        rope = each.config["rope_parameters"]
        turned = each.config["head_dim"] * rope.get("partial_rotary_factor", 1.0)
        assert sum(rope["mrope_section"]) == turned / 2


def changed_law(**changes: Any) -> Profile:
    made = law(LORA)
    assert made.law is not None
    return replace(made, law=made.law._replace(**changes))


def test_what_toys_held_equal_is_not_told_apart() -> None:
    """As of Qwen2-MoE: a law of models whose key heads are all heads was 257 MB off elsewhere."""
    made = law(LORA).law
    assert made is not None
    merged = tuple((*names, "intermediate_size") for names in made.factors)
    with pytest.raises(NotOfLawError, match="cannot separate"):
        of_model(changed_law(factors=merged), granite())


def test_a_field_that_another_config_leaves_out_is_not_asked_of_it() -> None:
    """As of GPT-BigCode, whose positions have two names where transformers fills a config in."""
    made = law(LORA).law
    assert made is not None
    named = tuple((*names, "n_positions_of_others") for names in made.factors)
    assert of_model(changed_law(factors=named), granite()) == of_model(law(LORA), granite())


def test_a_width_that_no_toy_varied_must_be_the_same() -> None:
    with pytest.raises(NotOfLawError, match="is 112, 999 in the law"):
        of_model(changed_law(constants={"intermediate_size": 999}), granite())


def test_a_part_of_a_size_must_be_whole() -> None:
    with pytest.raises(NotOfLawError, match="cannot be divided by 64"):
        measured(Law((("a",),), {}, (Monomial((0,), 64, (0, 0, 0, 0, 0, 0)),), ()), (100,))


def test_layers_that_are_no_whole_number_of_units_are_not_answered() -> None:
    with pytest.raises(NotOfLawError, match="no whole number of units"):
        of_model(law(LORA), granite(num_hidden_layers=3))


def test_what_treats_small_tensors_otherwise_has_no_law() -> None:
    setup = replace(LORA, lora=None, optimizer="adamw_8bit")
    with pytest.raises(CompileError, match="small tensors otherwise"):
        compile_law(Workload(model=granite(), setup=setup))


BLOCKS = replace(LORA, lora=LoraConfig(r=64), optimizer="adamw_8bit")
LARGE = {"hidden_size": 288, "num_attention_heads": 6, "intermediate_size": 328}


def test_states_in_blocks_are_those_of_a_fresh_trace() -> None:
    """288 x 64 elements are 72 blocks of 256, and 328 x 64 are 82."""
    model = granite(**LARGE, num_key_value_heads=3)
    made = compile_law(
        Workload(model=granite(hidden_size=256, intermediate_size=640), setup=BLOCKS)
    )
    other = Workload(model=model, setup=replace(BLOCKS, batch_size=4, seq_len=70))
    assert law_key(other.model, BLOCKS, regime_of(other)) == made.key
    assert largest(moments_with(of_model(made, model), other)) == largest(predict_once(other))


def test_a_model_with_smaller_adapters_is_not_answered_where_states_come_in_blocks() -> None:
    """Rank 64 x 48 keys are 3,072 elements, whose states bitsandbytes keeps in 32 bit."""
    compile_profile(Workload(model=granite(hidden_size=256, intermediate_size=640), setup=BLOCKS))
    small = granite(**LARGE | {"hidden_size": 96}, num_key_value_heads=3)
    for model, knows in ((granite(**LARGE, num_key_value_heads=3), True), (small, False)):
        asked = Workload(model=model, setup=BLOCKS)
        assert (engine.predict(asked, may_trace=False).engine == "compiled") == knows


EXPERTS: dict[str, Any] = {
    "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "hidden_size": 256,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "num_experts": 8,
    "num_experts_per_tok": 2, "intermediate_size": 192, "vocab_size": 300, "pad_token_id": 0,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def experts(**changes: Any) -> ModelSpec:
    return model_from_config(EXPERTS | changes, id="tiny-olmoe", source="test")


def test_states_that_are_small_in_every_model_of_a_law_are_in_32_bit() -> None:
    """Rank 64 x 8 experts are 512 elements; from 64 experts on their states have 8 bits too, which
    is another law."""
    made = compile_law(Workload(model=experts(), setup=BLOCKS))
    model = experts(hidden_size=288, num_attention_heads=6, num_key_value_heads=6, num_experts=12)
    other = Workload(model=model, setup=replace(BLOCKS, batch_size=4, seq_len=70))
    assert law_key(model, BLOCKS, regime_of(other)) == made.key
    assert largest(moments_with(of_model(made, model), other)) == largest(predict_once(other))
    assert law_key(experts(num_experts=64), BLOCKS, regime_of(other)) != made.key


def test_a_type_that_does_not_hold_names_the_event_that_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the toys has biases that the model has not."""
    from lora_profiler.trace import compiler

    real = compiler.toys
    biased = granite(attention_bias=True)

    def unlike(model: ModelSpec, regime: Any) -> Iterator[list[ModelSpec]]:
        for made in real(model, regime):
            yield [*made[:3], next(real(biased, regime))[3], *made[4:]]

    monkeypatch.setattr(compiler, "toys", unlike)
    with pytest.raises(CompileError, match=r"has no law of its type: .*events, and|event \d+"):
        compile_law(Workload(model=granite(), setup=LORA))


@pytest.mark.usefixtures("the_bundle")
@pytest.mark.parametrize(
    "name", ["ibm-granite/granite-3.3-8b-instruct", "openai/gpt-oss-120b", "bigscience/bloom-7b1"]
)
def test_laws_come_with_the_package(name: str) -> None:
    """None of these was the model that its law was made of."""
    model = find_model(name, offline=True)
    said = engine.predict(Workload(model=model, setup=setup_for(model, "guide")), may_trace=False)
    assert said.engine == "compiled"
    assert said.saved_activation_bytes is not None


def test_an_answer_priced_as_another_has_all_of_its_parts(the_bundle: None) -> None:
    """Layers and curve are of the question that the law answers: today's transformers."""
    model, guide = find_model("LiquidAI/LFM2-350M"), stacks.find_stack(stacks.GUIDE)
    lora = {**DEFAULTS, "methods": ("lora",)}
    (today,) = workloads(model, lora, (), stack=guide)
    (older,) = workloads(model, {**lora, "transformers": "4.57"}, {"transformers"}, stack=guide)
    prediction = engine.predict(older, may_trace=False)
    assert (prediction.engine, prediction.workload) == ("compiled", older)
    assert prediction.priced_as == today
    assert prediction.layers == engine.predict(today, may_trace=False).layers
    assert prediction.curve


def births(count: int, module: str) -> list[FlatEvent]:
    return [FlatEvent(Birth(0, "activations", module, "op", False), -1, None)] * count


def death(number: int) -> FlatEvent:
    return FlatEvent(None, number, None)


@pytest.mark.parametrize("first", [2, 3], ids=["fewer in the first unit", "as many"])
def test_what_a_unit_gives_back_of_the_one_before_is_the_same_at_any_depth(first: int) -> None:
    """The last that each unit made goes when backward comes to the next one, and the last that
    the last unit made at the very end. At four units written down, at six as the same rule says."""

    def step(units: int) -> tuple[list[FlatEvent], list[str]]:
        events: list[FlatEvent] = []
        where: list[str] = []
        last: list[int] = []

        def add(more: list[FlatEvent], place: str) -> None:
            events.extend(more)
            where.extend([place] * len(more))

        for unit in range(units):
            count = 3 if unit else first
            add(births(count, f"layers.{unit}"), f"layers.{unit}")
            last.append((last[-1] if last else -1) + count)
        for unit in reversed(range(units)):
            gone = [last[unit - 1]] if unit else [last[-1]]
            add([*births(1, f"layers.{unit}"), *map(death, gone)], f"layers.{unit}")
        return events, where

    layout = Layout(("layers",), 0, 1, 0)
    events, where = step(4)
    tape = fold(events, labels_of(where, layout, 4), layout)
    for units in (4, 5, 6):
        assert tape.expand(units) == step(units)[0]
        cut = [  # as the allocator's replay reads it
            each.born_in(event, units) + event.ordinal
            for each in tape.stretches(units, lambda event: False)
            for event in each.events
            if isinstance(event, Death)
        ]
        assert cut == [event.dies for event in step(units)[0] if event.birth is None]


def test_a_placeholder_is_on_its_side_of_the_vocabulary_in_every_toy() -> None:
    """Gemma 3's own forward pass looks for images where the embedding has no row for one."""
    model = find_model("google/gemma-3-4b-it", offline=True)
    made = next(toys(model, regime_of(Workload(model=model, setup=LORA))))
    assert all({*placeholders(filled_config(toy)).values()} == {1} for toy in made)
    assert outside_vocabulary(model, {"image_token_id": 262_207}) == []
    assert outside_vocabulary(model, {"image_token_id": 262_208}) == ["image_token_id"]


FALCON: dict[str, Any] = {
    "model_type": "falcon_h1", "architectures": ["FalconH1ForCausalLM"], "hidden_size": 128,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 200, "vocab_size": 300, "max_position_embeddings": 4096,
    "mamba_d_ssm": 192, "mamba_n_heads": 6, "mamba_d_head": 32, "mamba_d_state": 16,
    "mamba_n_groups": 1, "mamba_chunk_size": 32, "mamba_rms_norm": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def falcon(**changes: Any) -> ModelSpec:
    return model_from_config(FALCON | changes, id="tiny-falcon-h1", source="test")


INTO = LoraConfig(r=6, target_modules=("q_proj", "in_proj"))
WALKS = replace(LORA, seq_len=80, lora=INTO)
"""Three chunks of 32 tokens, the last one padded."""


def test_a_law_of_layers_that_walk_over_tokens_is_a_fresh_trace_at_its_own_length() -> None:
    made = compile_law(Workload(model=falcon(), setup=WALKS))
    assert (made.regime.length, made.valid["seq_len"]) == (80, (80, 80))
    other = falcon(hidden_size=96, mamba_n_heads=10, mamba_d_ssm=320, num_hidden_layers=7)
    for batch, seq, rank, is_answered in (
        (4, 80, 3, True), (2, 80, 40, True), (4, 79, 3, False), (4, 96, 3, False),
        (1, 80, 3, False),
    ):  # fmt: skip
        setup = replace(WALKS, batch_size=batch, seq_len=seq, lora=replace(INTO, r=rank))
        asked = Workload(model=other, setup=setup)
        assert (law_key(other, setup, regime_of(asked)) == made.key) == is_answered
        if is_answered:
            assert largest(moments_with(of_model(made, other), asked)) == largest(
                predict_once(asked)
            )


def test_a_sweep_over_layers_that_walk_over_tokens_answers_no_other_length() -> None:
    """A polynomial of one length says nothing of another."""
    compile_profile(Workload(model=falcon(), setup=WALKS))
    asked = Workload(model=falcon(), setup=WALKS)
    batches = [2, 5, 9]
    swept = sweep(asked, batch_size=batches).ravel()
    for batch, peak in zip(batches, swept, strict=True):
        sized = replace(asked, setup=replace(WALKS, batch_size=batch))
        assert peak == predict_once(sized).peak.total_bytes
    with pytest.raises(NoProfileError):
        sweep(asked, seq_len=[80, 96])


FOURFOLD = {"hidden_size": 64, "intermediate_size": 256}


def test_a_size_that_happens_to_be_a_multiple_of_another_is_a_size_of_its_own() -> None:
    made = compile_law(Workload(model=granite(**FOURFOLD), setup=LORA))
    assert made.law is not None and not made.law.ratios
    other = Workload(model=granite(**OTHER), setup=LORA)
    assert made.key == law_key(other.model, LORA, regime_of(other))
    assert largest(moments_with(of_model(made, other.model), other)) == largest(predict_once(other))


def test_what_was_a_multiple_in_every_toy_must_be_one_in_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Granite 3.3 8B has 3.125 times its hidden size, the 2B model 4 times: weights that a law
    wrote as four squares of the hidden size were 21 % too large."""
    from lora_profiler.trace import compiler

    real = compiler.toys
    monkeypatch.setattr(compiler, "toys", lambda *args: [*real(*args)][-1:])
    made = compile_law(Workload(model=granite(**FOURFOLD), setup=LORA))
    assert made.law is not None and made.law.ratios
    kept = unpacked(packed(made))
    assert kept.law == made.law
    of_model(kept, granite(hidden_size=128, intermediate_size=512))
    with pytest.raises(NotOfLawError, match="intermediate_size is not 4/1 of hidden_size"):
        of_model(kept, granite(hidden_size=128, intermediate_size=400))


@pytest.mark.usefixtures("the_bundle")
@pytest.mark.parametrize("trainer", ["guide", "trl-sft"])
def test_whoever_a_law_answers_for_has_its_own_weights(trainer: str) -> None:
    """Each bundled model that a law answers for, against what its shapes count; routers that a
    model keeps in float32 are less than a thousandth."""
    answered = 0
    for entry in bundled_models():
        model = find_model(entry.id, offline=True)
        with suppress(LoraProfilerError):
            setup = setup_for(model, trainer, "lora")
            said = engine.predict(Workload(model=model, setup=setup), may_trace=False)
            if said.engine == "compiled":
                bytes_ = model.num_parameters * DTYPE_BYTES[setup.dtype]
                more = said.persistent_bytes["parameters"] - bytes_
                assert 0 <= more < bytes_ // 1000, model.id
                answered += 1
    assert answered > 20


def test_one_sample_is_answered_by_the_profile_of_several(
    the_bundle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has none of its own; the answer is an estimate then."""
    model = find_model("ibm-granite/granite-3.3-8b-instruct", offline=True)
    setup = nearest_traced(setup_for(model, "guide", "lora", batch_size=1, seq_len=2048))
    workload = Workload(model=model, setup=setup)
    own = engine.predict(workload, may_trace=False)
    assert own.exactness == "exact"

    def of_several(key: str) -> Profile | None:
        found = find_profile(key)
        return None if found is None or found.regime.one_sample else found

    monkeypatch.setattr(evaluation, "find_profile", of_several)
    forget()
    answered = engine.predict(workload, may_trace=False)
    forget()
    assert answered.is_whole and answered.peak.total_bytes == own.peak.total_bytes
    assert answered.exactness == "estimate" and answered.error_bound == SEVERAL_ERROR
    assert any("several samples" in words for words in answered.assumptions)
