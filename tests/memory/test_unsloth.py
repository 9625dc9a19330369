"""Unsloth's loss and LoRA kernels by hand; `tests/rehearsal/test_rehearsed_frameworks.py` holds both to what its
own notebook asked for."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agreement import a_sweep_as_single_answers
from benchmarks.rehearsed.frameworks import FAMILY, counted_bytes
from benchmarks.rows import read_rows
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.features.losses.unsloth import Cut, cut_of, regime
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.engine import predict as predict_by_any
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.loss import all_losses, is_predicted_only
from lora_profiler.question.support.check import check
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.support.losses import head_of
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

REHEARSED = [row for row in read_rows(FAMILY.rows) if row["status"] == "done"]
ONE, SMALL = find_model("meta-llama/Llama-3.2-1B"), find_model("HuggingFaceTB/SmolLM2-135M")


def asked(
    method: Any = "lora", card: str = "a100_sxm_80gb", model: Any = SMALL, **options: Any
) -> Workload:
    given = {"batch_size": 2, "accumulation": 1, "seq_len": 512, **options}
    setup = setup_for(model, given.pop("trainer", "unsloth"), method, **given)
    return Workload(model=model, setup=setup, platform=find_gpu(card).platform())


def held(workload: Workload, moment: str, category: Any) -> int:
    steady = (m for m in predict(workload).moments if m.step == "steady")
    return next(m for m in steady if m.moment == moment).bytes.get(category, 0)


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "width", "tokens", "rows"),
    [
        (128_256, 2048, 2046, 512),  # 512 * 151,936 / 128,256 is 606
        (49_152, 576, 1022, 1024),  # 1,582; and no more than there are
        (32_000, 4096, 1022, 2048),  # 2,430
        (8_000, 4096, 2046, 4096),  # 9,723
        (128_256, 8192, 40_000, 2048),  # 40,000 * 8,192 / 128,256 is 2,554
        (600_000, 2048, 2046, 512),
        (5_000_000, 2048, 2046, 107),  # 2 GiB of float32
    ],
)
def test_rows_of_a_part(words: int, width: int, tokens: int, rows: int) -> None:
    """By fused_linear_rows of unsloth-zoo 2026.10.9; where tiles are made no more than this is
    asked, so that a head which trains is asked here."""
    head: Any = SimpleNamespace(in_features=width, out_features=words)
    workload = Workload(
        model=ONE,
        setup=replace(asked().setup, lora=None, quantization=None, kernels="transformers"),
    )
    cut = cut_of(regime(workload, head, 1, tokens + 1, 1))
    assert cut == Cut(rows, -(-tokens // rows), 1, False)


@pytest.mark.parametrize(
    ("card", "length", "is_tiled"),
    [
        ("a100_sxm_80gb", 2048, False),  # 4,094 labelled tokens
        ("a100_sxm_80gb", 2049, True),  # 4,096
        ("l4", 128, True),  # 24 GB
        ("t4", 128, False),  # sm_75
    ],
)
def test_which_cards_make_tiles(card: str, length: int, is_tiled: bool) -> None:
    workload = asked(model=ONE, card=card, seq_len=length)
    head = head_of(ONE)
    assert head is not None
    assert cut_of(regime(workload, head, 2, length, 1)).tiled is is_tiled


def test_one_part_by_hand() -> None:
    """1,022 of 1,024 tokens have a label, and one buffer of 49,152 float32 words for each."""
    tokens, labelled, width, words = 1024, 1022, 576, 49_152
    buffer = labelled * words * 4
    part = labelled * (width * 2 + 8 + 4)  # hidden states, labels, sums
    gradient, narrow = labelled * width * 4, labelled * width * 2
    targets = tokens * (8 + 8 + 1) + 1 + labelled * (8 + 4)
    all_gradients, scalars, loss = tokens * width * 2, 6 * 4, 0
    by_hand = buffer + part + gradient + narrow + targets + all_gradients + scalars + loss
    assert held(asked(), "end_of_forward", "logits_and_loss") == by_hand


def test_several_parts_by_hand() -> None:
    """2,046 labelled tokens in parts of 512, the last of 510: beside its gradient there is that of
    the part before."""
    tokens, labelled, width, words = 2048, 2046, 2048, 128_256
    buffer = 512 * words * 4
    part = 512 * (width * 2 + 8 + 4)
    gradients = 2 * 512 * width * 4
    targets = tokens * (8 + 8 + 1) + 1 + labelled * (8 + 4)
    by_hand = buffer + part + gradients + targets + tokens * width * 2 + 6 * 4
    workload = asked(model=ONE, seq_len=1024)
    assert held(workload, "end_of_forward", "logits_and_loss") == by_hand


def test_two_parts_by_hand() -> None:
    """1,023 labelled tokens, of which the second part has 511: less than the first one, whose
    gradient is still there."""
    tokens, labelled, width = 1024, 1023, 2048
    part = 511 * (width * 2 + 8 + 4 + width * 4) + 512 * width * 4
    targets = tokens * (8 + 8 + 1) + 1 + labelled * (8 + 4)
    by_hand = 512 * 128_256 * 4 + part + targets + tokens * width * 2 + 6 * 4
    workload = asked(model=ONE, batch_size=1, seq_len=1024)
    assert held(workload, "end_of_forward", "logits_and_loss") == by_hand


def test_tiles_by_hand() -> None:
    """2,046 labelled tokens on a card of 24 GB: tiles of 16,384 words, eight splits of them."""
    tokens, labelled, width = 2048, 2046, 2048
    buffer = labelled * 16_384 * 4
    sums = labelled * (width * 4 + 4 + 4)  # gradients, running maxima, log-sums
    part = labelled * (width * 2 + 8 + 8 * 8 * 4)
    targets = tokens * (8 + 8 + 1) + 1 + labelled * (8 + 4)
    by_hand = buffer + sums + part + targets + tokens * width * 2 + 6 * 4
    workload = asked(model=ONE, card="l4", seq_len=1024)
    assert held(workload, "end_of_forward", "logits_and_loss") == by_hand


def test_backward_scales_the_gradient_into_another() -> None:
    one = 1024 * 576 * 2
    assert held(asked(), "loss_backward", "logits_and_loss") == 2 * one + 4 + 8 + 4 + 8


def test_a_table_of_sizes_is_the_single_answers() -> None:
    a_sweep_as_single_answers(asked(model=ONE), [1, 2, 5], [1024, 1500, 3000])
    a_sweep_as_single_answers(
        asked(), [1], [1500, 1900]
    )  # of one part each; one's inputs are moved
    tiny = find_model("TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    a_sweep_as_single_answers(
        asked(model=tiny), [1], [7900, 8000, 8192]
    )  # beyond its 2,048 positions


# --- what stays for the process -------------------------------------------------------------------


def test_rotary_tables_and_the_buffer_of_4_bit_weights_by_hand() -> None:
    """131,072 positions of 64 numbers, cosines and sines in bfloat16; the largest weight that a
    function has is 2,048 x 8,192."""
    tables = 2 * 131_072 * 64 * 2 + 32 * 4 + 2 * 2
    code_book = 1024
    quantised = asked("qlora", model=ONE, seq_len=1024)
    staging = 2 * 2048 * 2048 * 2  # of layers' inputs that come back from the host
    assert held(quantised, "setup", "buffers") == tables + 2048 * 8192 * 2 + code_book + staging
    for changed in ({"targets": "q_proj,gate_proj,up_proj"}, {"dropout": 0.1}):
        unbuffered = asked("qlora", model=ONE, seq_len=1024, **changed)
        assert held(unbuffered, "setup", "buffers") == tables + code_book + staging
    only_o = asked("qlora", model=ONE, seq_len=1024, targets="o_proj")
    assert held(only_o, "setup", "buffers") == tables + 2048 * 2048 * 2 + code_book + staging


def test_rows_beyond_the_models_positions_have_tables_of_their_own_length() -> None:
    """Whatever was asked before: 2,048 positions, and rows of 8,000 and 8,192 tokens, of heads of 64
    numbers."""
    model = find_model("TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    for length in (8000, 8192):
        workload = asked(model=model, batch_size=1, seq_len=length)
        tables = 2 * length * 64 * 2 + 32 * 4 + 2 * 2
        staging = 2 * length * 2048 * 2
        assert held(workload, "setup", "buffers") == tables + staging


def test_dropout_keeps_a_mask_a_layer() -> None:
    """A byte a number: q, k and v, gate and up have masks of the same input, o of the attention's
    output, down of what the MLP makes."""
    plain = asked(checkpointing=False)
    dropped = asked(checkpointing=False, dropout=0.1)
    more = predict(dropped).saved_activation_bytes - predict(plain).saved_activation_bytes  # type: ignore[operator]
    assert more == 30 * 1024 * (6 * 576 + 1536)


def test_heads_are_repeated_where_sdpa_would_take_its_math_kernel() -> None:
    """On a T4, whose efficient kernel takes no grouped heads."""
    assert (
        predict(
            asked(model=ONE, card="t4", dtype="float16", precision="amp-float16")
        ).attention_kernel
        == "efficient"
    )
    assert predict(asked(model=ONE)).attention_kernel == "flash"


# --- completions and pairs ------------------------------------------------------------------------


def completed(model: Any = SMALL, **options: Any) -> Workload:
    given = {"trainer": "unsloth-grpo", "max_completion_length": 256, "use_vllm": True, **options}
    return asked(model=model, **{"batch_size": 4, **given})


def test_completions_by_hand() -> None:
    """Of 2,048 tokens 1,024 are scored, with one buffer of 49,152 float32 words for each. Beside
    it: their hidden states and gradients in bfloat16, a gradient in float32, and of each its id,
    its place, its log-probability and the sum of exponentials."""
    scored, width, words = 1024, 576, 49_152
    kept = 2 * scored * width * 2 + scored * (8 + 8 + 4 + 4) + 4
    by_hand = scored * words * 4 + scored * width * 4 + kept
    assert held(completed(), "end_of_forward", "logits_and_loss") == by_hand


def test_a_small_card_scores_in_tiles_whatever_its_capability() -> None:
    """1,536 tokens on a T4, whose gradients are kept in float32: float16 would lose them."""
    scored, width = 1536, 2048
    held_too = scored * width * (4 + 2) + scored * (8 + 8 + 4 + 4) + 4
    tile = scored * (16_384 * 4 + width * 4 + 4) + 8 * 8 * scored * 4
    options = {"dtype": "float16", "precision": "amp-float16", "max_completion_length": 768}
    workload = completed(ONE, card="t4", batch_size=2, seq_len=1024, **options)
    assert held(workload, "end_of_forward", "logits_and_loss") == tile + held_too


def test_what_is_laid_end_to_end_by_hand() -> None:
    """Of a step: ids and masks of prompts and completions, what vLLM made of each token, an
    advantage a row, a count; two scalars of the loop. Of the pass: ids and a mask together, ids
    packed to the left, flat ids, positions, two indices; a mask of what is completed; four
    switches; three numbers and a length a row; where rows begin, and the loss before."""
    rows, tokens, scored = 4, 2048, 1024
    of_step = 2 * 8 * tokens + 4 * scored + 4 * rows + 8 + 4 + 4
    of_pass = 7 * 8 * tokens + 8 * scored + 4 * tokens - 2 + rows * (3 * 8 + 4)
    begins = 4 * (rows + 1) + 4
    assert held(completed(), "end_of_forward", "inputs") == of_step + of_pass + begins


def test_all_layers_states_are_told_while_the_pass_runs() -> None:
    """16 layers: of 15 states before the last one's input the embeddings and that are counted
    already."""
    state = 8 * 1024 * 2048 * 2
    options = {"batch_size": 8, "seq_len": 1024, "max_completion_length": 512}
    scoring, plain = completed(ONE, **options), asked(model=ONE, batch_size=8, seq_len=1024)
    more = held(scoring, "last_layer_forward", "activations")
    assert more - held(plain, "last_layer_forward", "activations") == 14 * state
    assert held(scoring, "last_layer_backward", "activations") == held(
        plain, "last_layer_backward", "activations"
    )


def test_its_own_cache_grows_by_512_tokens() -> None:
    """Of 256 tokens of prompt: as many keys and values, and 512 more in whole groups of 256, beside
    the prompts' own. Longer completions fill the row, a layer's keys and values twice."""
    token = 30 * 2 * 3 * 64 * 2  # layers, keys and values, heads, numbers, bytes
    short = completed(use_vllm=False)
    assert held(short, "generation", "activations") == 4 * token * (256 + 512 + 256 + 256)
    long = completed(use_vllm=False, seq_len=2048, max_completion_length=1792)
    whole = 4 * token * (2048 + 256)
    assert held(long, "generation", "activations") == whole + whole // 30


def test_after_its_own_decoding_layers_inputs_stay_on_the_card() -> None:
    """Of 30 layers 28 more, and no buffers to which they come back; TRL 1.9 models/utils.py."""
    beside, alone = completed(), completed(use_vllm=False)
    state = 2048 * 576 * 2
    kept = (held(each, "end_of_forward", "activations") for each in (alone, beside))
    assert next(kept) - next(kept) == 28 * state
    assert held(beside, "setup", "buffers") - held(alone, "setup", "buffers") == 2 * state
    assert sum(predict(beside).host_bytes.values()) == 29 * state
    assert not sum(predict(alone).host_bytes.values())


def test_a_reference_scores_a_steps_completions_at_once() -> None:
    """All layers' states of 16 rows, and what the last layer's MLP makes: 3 x 1,536 numbers."""
    alone, beside = (completed(accumulation=4, beta=beta) for beta in (0.0, 0.04))
    assert "generation" not in {moment.moment for moment in predict(alone).moments}
    tokens = 16 * 512
    least = tokens * (30 * 576 + 3 * 1536) * 2
    found = held(beside, "generation", "temporaries")
    assert least < found < least * 1.1


def test_pairs_have_a_frozen_copy_of_adapters_and_compiled_layers() -> None:
    """No buffer of a 4-bit weight, and cosines and sines of 32,768 positions."""
    pairs = asked("qlora", model=ONE, trainer="unsloth-dpo", seq_len=1024)
    rows = asked("qlora", model=ONE, batch_size=4, seq_len=1024)
    assert held(pairs, "setup", "adapters") == 2 * held(rows, "setup", "adapters")
    tables = 2 * 32_768 * 64 * 2 + 32 * 4 + 2 * 2
    assert held(pairs, "setup", "buffers") == tables + 1024 + 2 * 4 * 1024 * 2048 * 2
    assert "compiles these layers" in " ".join(predict(pairs).assumptions)


def test_pairs_by_hand() -> None:
    """2 pairs of 512 tokens: float32 states of policy and reference, of the reference those without
    each row's last beside the policy's gradients, one part of 1,024 tokens of 2,044, and statistics
    of both."""
    tokens, scored, width, words, part = 2048, 2044, 576, 49_152, 1024
    states = 2 * tokens * width * 4 + 2 * scored * width * 4
    told = scored * (8 + 4 * 4 + 1) + scored * (8 + 2 * 4)
    own = part * (width * 2 + 8 + 4 * 4 + 1)
    by_hand = states + told + own + part * words * 4 + part * width * 4
    workload = asked(trainer="unsloth-dpo")
    assert held(workload, "end_of_forward", "logits_and_loss") == by_hand


@pytest.mark.parametrize(
    ("trainer", "options"),
    [("unsloth-dpo", {}), ("unsloth-grpo", {}), ("unsloth-grpo", {"max_completion_length": None})],
)
def test_a_table_of_scored_sizes_is_the_single_answers(
    trainer: str, options: dict[str, Any]
) -> None:
    a_sweep_as_single_answers(asked(model=ONE, trainer=trainer, **options), [2, 6], [1024, 3000])


def test_its_kernel_of_2024_caps_the_logits_of_gemma_2_itself() -> None:
    """All logits in 16 bit, and once in float32, as accelerate returns them; with transformers'
    loop the model caps them, which the kernel does not know."""
    gemma = find_model("google/gemma-2-2b")
    float16 = {"dtype": "float16", "precision": "amp-float16"}
    workload = asked("qlora", "t4", gemma, trainer="unsloth@2024.10", **float16)
    logits = 2 * 512 * 256_000
    check(workload, "auto")
    made = held(workload, "end_of_forward", "logits_and_loss")
    assert made == pytest.approx(6 * logits, rel=0.01)
    with pytest.raises(UsageError, match="final_logit_softcapping"):
        check(asked(model=gemma, trainer="transformers", loss="triton"), "auto")


# --- over layers that no rule knows ---------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["LiquidAI/LFM2-350M", "ibm-granite/granite-4.0-350m", "Qwen/Qwen3.5-0.8B"]
)
def test_its_loss_and_checkpoints_are_near_what_its_own_code_asked_for(model: str) -> None:
    """Rehearsals of Unsloth 2026.10.9 at full size. Priced as TRL's loss with checkpoints on the
    GPU these were 14 to 38 % off."""
    rows = [row for row in REHEARSED if row["asked"][:3] == [model, "--trainer", "unsloth"]]
    assert rows
    for row in rows:
        words = dict(zip(row["asked"][1::2], row["asked"][2::2], strict=True))
        workload = asked(
            words["--method"], words["--gpu"], find_model(model), seq_len=int(words["--seq-len"])
        )
        peak = predict_by_any(workload, may_trace=False).peak.total_bytes
        assert peak == pytest.approx(counted_bytes(row), rel=0.035)


@pytest.mark.parametrize("model", ["LiquidAI/LFM2-350M", "openai/gpt-oss-20b"])
def test_a_table_of_estimates_is_the_single_answers(model: str) -> None:
    workload = asked("qlora", model=find_model(model))
    a_sweep_as_single_answers(workload, [1, 2, 5], [512, 1500, 3000], "auto")


@pytest.mark.parametrize(("trainer", "ratio"), [("unsloth", 2.0), ("trl-sft", 4.0)])
def test_scores_of_all_pairs_are_transformers_code_for_sinks_alone(
    trainer: str, ratio: float
) -> None:
    """FlexAttention needs twice as much for twice the tokens; eager attention four times."""
    peaks = []
    for length in (32_768, 65_536):
        workload = asked(model=find_model("openai/gpt-oss-20b"), trainer=trainer, seq_len=length)
        moment = max(
            (m for m in predict_by_any(workload, "analytic").moments if m.step == "steady"),
            key=lambda m: m.total_bytes,
        )
        peaks.append(moment.bytes["activations"] + moment.bytes.get("temporaries", 0))
    assert peaks[1] / peaks[0] == pytest.approx(ratio, rel=0.02)


# --- where it is asked for ------------------------------------------------------------------------


def test_other_models_and_full_training_run_transformers_code() -> None:
    gemma = find_model("google/gemma-2-2b")
    for workload in (asked("full"), asked(model=gemma, loss="plain")):
        setup = workload.setup
        assert setup.kernels == "transformers"
        assert setup.lora is None or setup.lora.lora_kernels == "peft"
    assert "own code for this model" in " ".join(predict(asked("full")).assumptions)


@pytest.mark.parametrize(
    "changes", [{"kernels": "unsloth", "lora": None, "quantization": None}, {"device": "cpu"}]
)
def test_what_it_does_not_go_with_is_refused(changes: dict[str, Any]) -> None:
    from lora_profiler.planning.engine import predict as predict_checked

    setup: TrainSetup = replace(asked().setup, offload_checkpoints=False, **changes)
    with pytest.raises(UsageError, match="nsloth"):
        predict_checked(Workload(model=SMALL, setup=setup))


@pytest.mark.parametrize("loss", filter(is_predicted_only, all_losses()))
def test_what_no_trace_makes_is_refused_there(loss: Any) -> None:
    from lora_profiler.planning.engine import predict as predict_by

    lora = None if loss == "llamafactory-asft" else LoraConfig(r=4)
    setup = TrainSetup(lora=lora, loss=loss)
    workload = Workload(model=as_made(SMALL, setup), setup=setup)
    with pytest.raises(UsageError, match="known to the rules alone"):
        predict_by(workload, "traced")
