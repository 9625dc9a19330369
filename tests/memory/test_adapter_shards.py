"""Ranks with adapters: VeRA, IA3, OFT and DoRA under FSDP2 and ZeRO-1 by trace, LoRA under FSDP1 and a
4-bit base in mixed precision by rule, against
what torch's and PEFT's own code asked a pretended card for."""

import os
from dataclasses import replace
from typing import Any

import pytest

from agreement import totals
from benchmarks.rehearsed.first_rank import rehearsed_first_rank
from benchmarks.rehearsing import steady_bytes
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.analytic import predict
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.single_size import predict_once as by_trace

CARD = find_gpu("h100_sxm_80gb")
BLAS_BYTES = 64 * 2**20
SETUP = TrainSetup(
    batch_size=2, seq_len=256, lora=LoraConfig(), world_size=4, sharding="fsdp",
    optimizer_impl="fused",
)  # fmt: skip
AGAIN: dict[str, Any] = {"checkpointing": True, "optimizer_impl": "foreach"}
KEPT: dict[str, Any] = {"sharding": "fsdp-no-reshard", "accumulation": 2}
MIXED: dict[str, Any] = {"checkpointing": True, "precision": "fsdp-mixed"}
ZERO1: dict[str, Any] = {"sharding": "zero1"}
OVER_SHARDS: list[tuple[str, dict[str, Any], int]] = [
    ("vera", {}, 1_019_302_968),
    ("vera", AGAIN, 452_594_632),
    ("vera", KEPT, 1_225_401_756),
    ("ia3", {}, 930_895_184),
    ("ia3", AGAIN, 452_910_888),
    ("ia3", KEPT, 1_137_790_548),
    ("oft", {}, 1_085_885_264),
    ("oft", AGAIN, 461_399_592),
    ("oft", KEPT, 1_303_376_724),
    ("dora", {}, 1_491_131_744),
    ("ia3", MIXED, 452_890_224),
    ("oft", MIXED, 461_233_776),
    ("dora", ZERO1, 1_647_036_636),
    ("vera", {**AGAIN, **ZERO1}, 591_753_736),
    ("oft", {**ZERO1, "optimizer": "sgd", "accumulation": 2}, 1_243_975_020),
]
"""Peaks of SmolLM2-135M's rank 0 of four, rehearsed in the harness' own loop, torch 2.13 and PEFT
0.21.2; BLAS workspaces left out."""
ON_NF4 = {"lora": LoraConfig(), "quantization": Quantization(double_quant=True)}
NF4: dict[str, Any] = {**MIXED, **ON_NF4}
KBIT: dict[str, Any] = {**NF4, "quantization": Quantization(double_quant=True, recipe="kbit")}
OVER_NF4: list[tuple[dict[str, Any], int]] = [
    (NF4, 423_674_800),
    ({**NF4, "checkpointing": False}, 751_011_216),
    ({**NF4, **KEPT, "optimizer_impl": "foreach"}, 489_382_436),
    ({**NF4, "offload_params": True}, 381_575_296),
    ({**NF4, "lora": LoraConfig(modules_to_save=("lm_head",))}, 523_355_060),
    ({**NF4, "quantization": Quantization(double_quant=True, recipe="trl")}, 416_348_080),
    (KBIT, 437_848_144),
    ({**KBIT, "checkpointing": False}, 765_184_560),
    ({**NF4, "quantization": Quantization(double_quant=True, recipe="kbit-norms")}, 423_692_368),
]
"""The same of a 4-bit base, stored in bfloat16, under FSDP2's MixedPrecisionPolicy."""
FLAT: dict[str, Any] = {"sharding": "fsdp1-no-prefetch", "precision": "amp"}
AHEAD: dict[str, Any] = {**FLAT, "sharding": "fsdp1"}
HEAD: dict[str, Any] = {"lora": LoraConfig(modules_to_save=("lm_head",))}
BOTH: dict[str, Any] = {"lora": LoraConfig(modules_to_save=("lm_head", "embed_tokens"))}
WHOLE: dict[str, Any] = {**FLAT, "precision": "pure", "lora": None}
SHORT: dict[str, Any] = {"seq_len": 16, "checkpointing": True}
OVER_FSDP1: list[tuple[dict[str, Any], int, int]] = [
    (FLAT, 807_856_680, 857_590_296),
    ({**FLAT, "checkpointing": True}, 409_741_384, 459_475_000),
    ({**FLAT, "sharding": "fsdp1"}, 807_856_680, 864_670_488),
    ({**FLAT, "precision": "pure"}, 964_651_688, 1_014_385_304),
    ({**FLAT, "dtype": "float32"}, 875_114_184, 924_847_800),
    ({**FLAT, "dtype": "float32", "lora": None}, 1_092_431_124, 1_142_754_564),
    ({**FLAT, "optimizer": "rmsprop", "optimizer_impl": "foreach"}, 802_970_520, 852_704_136),
    ({**FLAT, **HEAD}, 892_791_340, 943_114_780),
    ({**AHEAD, **HEAD}, 892_791_340, 999_737_884),
    ({**FLAT, **HEAD, "precision": "pure"}, 1_007_119_020, 1_057_442_460),
    ({**FLAT, **HEAD, "dtype": "float32"}, 960_048_844, 1_010_372_284),
    ({**FLAT, **HEAD, "use_orig_params": False}, 822_012_460, 872_335_900),
    ({**FLAT, **HEAD, **SHORT}, 295_471_668, 394_562_108),
    ({**AHEAD, **HEAD, **SHORT}, 295_471_668, 401_642_300),
    ({**FLAT, **HEAD, **SHORT, "precision": "pure"}, 241_994_420, 352_094_908),
    ({**FLAT, **BOTH, **SHORT}, 380_406_328, 511_471_936),
    ({**FLAT, **BOTH, **SHORT, "offload_params": True}, 142_780_448, 273_846_056),
    ({**FLAT, **BOTH, "quantization": NF4["quantization"]}, 870_231_080, 920_554_520),
    ({**WHOLE, **SHORT, "offload_params": True}, 87_767_736, 293_752_744),
]
"""The same of `FullyShardedDataParallel`, with adapters wrapped by PEFT's `fsdp_auto_wrap_policy`,
in forward and in backward, MixedPrecision as accelerate sets it under amp; of few tokens where what
trains whole beside adapters holds the peak."""
SCRIPT = """
import functools, os, torch, torch.distributed as dist, transformers, peft
from contextlib import nullcontext
from torch.distributed.fsdp import BackwardPrefetch, CPUOffload, MixedPrecision
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from peft.utils.other import fsdp_auto_wrap_policy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "LlamaDecoderLayer"
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=4)
name, low = "HuggingFaceTB/SmolLM2-135M", torch.bfloat16
model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.DTYPE, **BASE)
policy = functools.partial(
    transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer})
if ADAPTED:
    model = peft.get_peft_model(model, peft.LoraConfig(
        r=16, target_modules="all-linear", modules_to_save=SAVED))
    policy = fsdp_auto_wrap_policy(model)
if CHECKPOINTING:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
os.environ.pop("LORA_PROFILER_RUN", None)  # the other ranks are not there
mixed = MixedPrecision(param_dtype=low, reduce_dtype=low, buffer_dtype=low) if AMP else None
model = FSDP(model, use_orig_params=ORIGINAL, auto_wrap_policy=policy,
    cpu_offload=CPUOffload(offload_params=OFFLOADED),
    mixed_precision=mixed, device_id=torch.device("cuda:0"), backward_prefetch=PREFETCH)
if AMP:  # as accelerate does, accelerator.py, prepare_model
    for module in FSDP.fsdp_modules(model):
        if module._has_params and module._flat_param.requires_grad:
            module._flat_param.data = module._flat_param.data.to(torch.float32)
            module._handle._orig_param_dtype = torch.float32
model.train()
optimizer = torch.optim.KIND([p for p in model.parameters() if p.requires_grad], IMPL=True)
ids = torch.ones((2, SEQ), dtype=torch.int64, device="cuda")
peak = lambda: torch.cuda.memory_stats()["requested_bytes.all.peak"]
for step in range(3):
    torch.cuda.synchronize()
    torch.zeros(1, device="cuda")  # lets go of what waited for a stream
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", low) if AMP else nullcontext():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    ahead = peak()
    torch.cuda.reset_peak_memory_stats()
    loss.backward()
    del loss
    if step == 2:
        print("PEAKS", ahead, peak(), flush=True)
    optimizer.step()
    optimizer.zero_grad()
"""

rehearses = pytest.mark.skipif(
    not os.environ.get("LORA_PROFILER_CUDA_PYTHON"),
    reason="$LORA_PROFILER_CUDA_PYTHON names no Python with a CUDA build of torch",
)


def asked(**changes: Any) -> Workload:
    model, platform = find_model("HuggingFaceTB/SmolLM2-135M"), Platform(capability=CARD.capability)
    return Workload(model=model, setup=replace(SETUP, **changes), platform=platform)


def of(kind: str, changes: dict[str, Any]) -> Workload:
    if kind == "dora":
        return asked(lora=LoraConfig(r=8, use_dora=True), **changes)
    return asked(lora=LoraConfig(peft_type=kind), **changes)  # type: ignore[arg-type]


@pytest.mark.grid
@pytest.mark.parametrize(("kind", "changes", "rehearsed"), OVER_SHARDS)
def test_a_trace_is_what_shards_ask_for(kind: str, changes: dict[str, Any], rehearsed: int) -> None:
    found = by_trace(of(kind, changes))
    assert (found.peak.total_bytes, found.exactness) == (rehearsed, "exact")


@rehearses
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes", "rehearsed"), OVER_SHARDS)
def test_shards_ask_for_what_is_written_down(
    kind: str, changes: dict[str, Any], rehearsed: int
) -> None:
    workload = of(kind, changes)
    _, document = rehearsed_first_rank(workload, CARD)
    more = steady_bytes(document) - rehearsed
    # in some runs DDP's buckets, all gradients in float32, are there twice, by timing
    twice = 4 * predict(workload).parameters.trainable if changes.items() >= ZERO1.items() else 0
    assert more in (0, twice)


@pytest.mark.parametrize(("changes", "rehearsed"), OVER_NF4)
def test_rules_are_what_a_mixed_4_bit_base_asks_for(
    changes: dict[str, Any], rehearsed: int
) -> None:
    found = predict(asked(**changes))
    assert (found.peak.total_bytes, found.exactness) == (rehearsed, "exact")


@rehearses
@pytest.mark.slow
@pytest.mark.parametrize(("changes", "rehearsed"), OVER_NF4)
def test_a_mixed_4_bit_base_asks_for_what_is_written_down(
    changes: dict[str, Any], rehearsed: int
) -> None:
    _, document = rehearsed_first_rank(asked(**changes), CARD)
    assert steady_bytes(document) == rehearsed


def test_4_bits_in_another_format_are_not_gathered_as_numbers() -> None:
    with pytest.raises(UsageError, match="packed weights that are not bfloat16"):
        asked(**NF4, dtype="float32")


@pytest.mark.parametrize(("changes", "ahead", "back"), OVER_FSDP1)
def test_rules_are_what_fsdp1_asks_for(changes: dict[str, Any], ahead: int, back: int) -> None:
    prediction = predict(asked(**changes))
    found = totals(prediction)
    passes = ("loss_backward", "last_layer_backward", "first_layer_backward")
    assert (found["end_of_forward"], max(found[name] for name in passes)) == (ahead, back)
    assert (prediction.exactness == "exact") == (found["loss_backward"] == back)


@rehearses
@pytest.mark.slow
@pytest.mark.parametrize(("changes", "ahead", "back"), OVER_FSDP1)
def test_fsdp1_asks_for_what_is_written_down(
    tmp_path: Any, changes: dict[str, Any], ahead: int, back: int
) -> None:
    from test_rehearsal_cuda import rehearse, script
    from test_rehearsed_offloading import printed

    setup = asked(**changes).setup
    saved = list(setup.lora.modules_to_save) if setup.lora else []
    base = (
        "{'quantization_config': transformers.BitsAndBytesConfig(load_in_4bit=True,"
        " bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=low,"
        " bnb_4bit_quant_storage=low), 'device_map': 'cuda'}"
    )
    kind = "BackwardPrefetch.BACKWARD_PRE" if setup.sharding == "fsdp1" else "None"
    words = {
        **{"CHECKPOINTING": setup.checkpointing, "AMP": setup.precision == "amp"},
        **{"DTYPE": setup.dtype, "ADAPTED": setup.lora is not None, "SAVED": saved or None},
        **{"ORIGINAL": setup.use_orig_params, "OFFLOADED": setup.offload_params},
        **{"SEQ": setup.seq_len, "BASE": base if setup.quantization else "{}"},
        **{"KIND": {"adamw": "AdamW", "rmsprop": "RMSprop"}[setup.optimizer]},
        **{"IMPL": setup.optimizer_impl},
    }
    text = SCRIPT.replace("PREFETCH", kind)
    for word, value in words.items():
        text = text.replace(word, str(value))
    done = rehearse("--gpu", CARD.key, "--", "python", script(tmp_path, text))
    (line,) = printed(done.stderr, "PEAKS")
    assert [int(size) - BLAS_BYTES for size in line.split()] == [ahead, back]


def test_each_adapter_is_gathered_and_reduced_for_itself() -> None:
    """Of 30 layers with seven pairs, and the root; in bfloat16, as accelerate gathers them."""
    found = {(t.collective, t.phase): t for t in predict(asked(**FLAT)).traffic}
    assert found["all_gather", "forward"].count == 1 + 30 * 15
    assert found["reduce_scatter", "backward"].count == 30 * 14
    trained = predict(asked(**FLAT)).parameters.trainable
    assert found["reduce_scatter", "backward"].size_bytes == trained * 2


def test_a_head_beside_adapters_is_gathered_twice_and_reduced_once() -> None:
    plain, saved = (
        {(t.collective, t.phase): t for t in predict(asked(**FLAT, **more)).traffic}
        for more in ({}, HEAD)
    )
    size = 49_152 * 576 * 2  # gathered in bfloat16, of shards in float32
    for name, sent in saved.items():
        assert sent.count - plain[name].count == 1
        assert sent.size_bytes - plain[name].size_bytes == size


def test_the_layer_above_is_there_still_as_one_comes_back() -> None:
    """Where weights are all that counts: Llama-3.2-1B on eight ranks, 16 tokens each, which the
    same script asked for so many bytes of; a layer of it has 121,643,008."""
    small = asked(**FLAT, batch_size=1, seq_len=16, world_size=8)
    found = predict(replace(small, model=find_model("meta-llama/Llama-3.2-1B")))
    assert found.peak.total_bytes == pytest.approx(1_122_883_768, rel=0.002)
