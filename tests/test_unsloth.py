"""Unsloth's loss and LoRA kernels by hand; `tests/test_rehearsed_frameworks.py` holds both to what its
own notebook asked for."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lora_profiler.analytic import predict
from lora_profiler.catalog import find_gpu, find_model
from lora_profiler.errors import UsageError
from lora_profiler.option_values import RULED_LOSSES
from lora_profiler.planning.setups import setup_for
from lora_profiler.planning.sweep import sweep
from lora_profiler.support.losses import head_of
from lora_profiler.support.unsloth import Cut, cut_of, unsloth_fact
from lora_profiler.workload import LoraConfig, TrainSetup, Workload

ONE, SMALL = find_model("meta-llama/Llama-3.2-1B"), find_model("HuggingFaceTB/SmolLM2-135M")


def asked(
    method: Any = "lora", card: str = "a100_sxm_80gb", model: Any = SMALL, **options: Any
) -> Workload:
    given = {"batch_size": 2, "accumulation": 1, "seq_len": 512, **options}
    setup = setup_for(model, "unsloth", method, **given)
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
    cut = cut_of(unsloth_fact(workload, head, 1, tokens + 1, 1))
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
    assert cut_of(unsloth_fact(workload, head, 2, length, 1)).tiled is is_tiled


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
    workload = asked(model=ONE)
    batches, lengths = np.array([[1], [2], [5]]), np.array([1024, 1500, 3000])
    table = sweep(workload, batch_size=batches, seq_len=lengths)
    for place, found in np.ndenumerate(table):
        b, length = int(batches[place[0], 0]), int(lengths[place[1]])
        sized = replace(workload, setup=replace(workload.setup, batch_size=b, seq_len=length))
        assert predict(sized).peak.total_bytes == found


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


# --- where it is asked for ------------------------------------------------------------------------


def test_other_models_and_full_training_run_transformers_code() -> None:
    gemma = find_model("google/gemma-2-2b")
    for workload in (asked("full"), asked(model=gemma, loss="plain")):
        setup = workload.setup
        assert setup.kernels == "transformers"
        assert setup.lora is None or setup.lora.lora_kernels == "peft"
    assert "compiles code of its own" in " ".join(predict(asked("full")).assumptions)


@pytest.mark.parametrize(
    "changes", [{"kernels": "unsloth", "lora": None, "quantization": None}, {"device": "cpu"}]
)
def test_what_it_does_not_go_with_is_refused(changes: dict[str, Any]) -> None:
    from lora_profiler.planning.engine import predict as predict_checked

    setup: TrainSetup = replace(asked().setup, offload_checkpoints=False, **changes)
    with pytest.raises(UsageError, match="nsloth"):
        predict_checked(Workload(model=SMALL, setup=setup))


@pytest.mark.parametrize("loss", RULED_LOSSES)
def test_what_no_trace_makes_is_refused_there(loss: Any) -> None:
    from lora_profiler.planning.engine import predict as predict_by

    setup = TrainSetup(lora=LoraConfig(r=4), loss=loss)
    with pytest.raises(UsageError, match="known to the rules alone"):
        predict_by(Workload(model=SMALL, setup=setup), "traced")
