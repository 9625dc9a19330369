"""The rule of SDPA's kernels against what the CUDA builds of torch chose themselves: every cell of
`data/sdpa_choices.json`.

The file is made by `benchmarks/truth/sdpa_choices.py`, on torch's own dispatcher; the rule is written
from its source.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from commands import lora_profile
from lora_profiler.facts.catalog import find_model
from lora_profiler.memory.compiled.regime import kernel_choice
from lora_profiler.question.gpu_platform import CUDNN, Platform, version_of
from lora_profiler.question.support.sdpa import SdpaCall, cuda_backend, takes_single_head
from lora_profiler.question.workload import TrainSetup, Workload

CHOICES = json.loads((Path(__file__).parents[1] / "data" / "sdpa_choices.json").read_text("utf-8"))
AXES = ("torch", "sm", "dtype", "heads", "mask", "dropout", "length")
LETTERS = {"m": "math", "f": "flash", "e": "efficient", "c": "cudnn"}
WIDTHS = [tuple(int(part) for part in width.split("/")) for width in CHOICES["about"]["widths"]]


def trained(row: Mapping[str, Any]) -> bool:
    """What training meets: gradients, torch's own order; q, k and v of one length are asked for
    below."""
    return "on" in row["grad"] and "default" in row["setting"]


def cells(version: str) -> Iterator[tuple[SdpaCall, Platform, str]]:
    """Each call of `version` with its platform, and the kernel that torch took."""
    torch = version_of(version)
    assert torch is not None
    for row in filter(trained, CHOICES["rows"]):
        for release, capability, dtype, heads, mask, dropout, length in product(
            *(row[axis] for axis in AXES)
        ):
            platform = Platform(capability=int(capability), torch=torch)
            is_single = heads == "8/1"
            if release != version or "/" in length:
                continue
            for width, letter in zip(WIDTHS, row["widths"], strict=True):
                if is_single and not takes_single_head(platform):
                    assert letter == "m"  # refused before any kernel is asked
                    continue
                call = SdpaCall(
                    dtype=dtype,
                    head_dim=width[0],
                    value_dim=width[-1],
                    grouped=heads != "8/8",
                    masked=mask in ("bool", "additive"),
                    dropout=float(dropout),
                    one_token=length == "1",
                )
                yield call, platform, LETTERS[letter]


@pytest.mark.parametrize("version", CHOICES["about"]["torch"])
def test_the_rule_takes_what_torch_takes(version: str) -> None:
    found = list(cells(version))
    wrong = [
        (call, platform, torchs)
        for call, platform, torchs in found
        if cuda_backend(call, platform) != torchs
    ]
    assert not wrong, f"{len(wrong)} of {len(found)}, first: {wrong[0]}"
    assert {platform.capability for _, platform, _ in found} >= {70, 75, 80, 86, 89, 90, 100, 120}
    assert {call.dtype for call, _, _ in found} == {"float32", "float16", "bfloat16"}
    assert len(found) > 30_000


def test_the_versions_are_those_that_can_be_asked_about() -> None:
    """With the cuDNN that each wheel asks for, as torch itself said it."""
    seen = {}
    for version, about in CHOICES["about"]["torch"].items():
        major, minor, patch = (int(part) for part in about["cudnn_seen"].split("."))
        seen[version_of(version)] = 10_000 * major + 100 * minor + patch
    assert seen == CUDNN


def test_a_mask_that_trains_is_not_for_cudnn() -> None:
    """check_attn_mask_shape of sdp_utils.cpp; T5's position bias is such a mask."""
    call = SdpaCall(dtype="bfloat16", head_dim=64, value_dim=64, masked=True)
    hopper = Platform(capability=90)
    assert cuda_backend(call, hopper) == "cudnn"
    assert cuda_backend(call._replace(mask_trains=True), hopper) == "efficient"


@pytest.mark.parametrize(("loop", "kernel"), [("unsloth", "efficient"), ("transformers", "math")])
def test_unsloth_repeats_heads_rather_than_take_the_math_kernel(loop: str, kernel: str) -> None:
    """Without a mask torch 2.13 takes grouped heads on a T4 by its math kernel alone."""
    model = find_model("LiquidAI/LFM2-1.2B", offline=True)
    setup = TrainSetup(dtype="float16", loop_state=loop)  # type: ignore[arg-type]
    chosen = kernel_choice(Workload(model=model, setup=setup), Platform(capability=75))
    assert set(chosen.plain) == {kernel}


def test_unsloths_lfm2_on_a_t4_is_within_the_bound_of_its_rehearsal() -> None:
    """Its notebook's settings with rows of 2,048 tokens, rehearsed over Unsloth 2026.10.9 and torch
    2.14: 2,820,303,660 bytes without BLAS' workspaces, by the efficient kernel."""
    done = lora_profile(
        "LiquidAI/LFM2-1.2B", "--method", "lora", "--rank", "16", "--trainer", "unsloth",
        "--gpu", "t4", "--batch-size", "2", "--seq-len", "2048", "--format", "json", "--full",
    )  # fmt: skip
    (answer,) = json.loads(done.stdout)["predictions"]
    bound = answer["evidence"]["half_width"]
    assert abs(answer["peak"]["total_bytes"] / 2_820_303_660 - 1) < bound < 0.25
