"""A run of `verify` made up by hand: what the page Learn and the report are drawn from, with
numbers that are easily checked."""

from dataclasses import asdict
from typing import Any

from lora_profiler.report.claims.claim import Chart, Series
from lora_profiler.report.learn.findings import ClaimFound, Findings
from records import make_record

RANKS = (1.0, 8.0, 64.0)
FINDINGS = Findings(
    model="made/up",
    lines=("llama, 2 layers", "a full run, seed 0"),
    claims=(
        ClaimFound(
            id=1,
            title="Size of the update",
            statement="It is large.",
            must_hold=False,
            verdict="holds",
            headline="99.61 % fewer",
            finding=("So it is.",),
        ),
        ClaimFound(
            id=2,
            title="Shape and merge",
            statement="They agree.",
            must_hold=True,
            verdict="fails",
            headline="error 7.00",
            finding=("They do not.",),
        ),
    ),
    charts=(
        Chart(
            key="trained_share",
            title="Numbers",
            x_label="rank",
            y_label="share of the full update",
            y_scale="log",
            y_is_share=True,
            series=(
                Series(label="all", x=RANKS, y=(0.01, 0.08, 0.64)),
                Series(label="k_proj, 64 x 128", x=RANKS, y=(0.0234, 0.1875, 1.5)),
            ),
        ),
        Chart(
            key="scaling_first_update",
            title="First update",
            x_label="rank",
            y_label="norm, relative to W",
            y_scale="log",
            series=(
                Series(label="falling", x=RANKS, y=(0.08, 0.04, 0.01)),
                Series(label="even", x=RANKS, y=(0.02, 0.03, 0.025)),
            ),
        ),
        Chart(
            key="scaling_gain",
            title="Fall of the loss",
            x_label="rank",
            y_label="loss before - loss after",
            series=(
                Series(label="steady", x=RANKS, y=(0.3, 0.4, 0.2)),
                Series(label="bursting", x=RANKS, y=(0.3, 0.1, None)),
                Series(label="useless", x=RANKS, y=(-0.1, -0.2, -0.3)),
            ),
        ),
        Chart(
            key="scaling_learning_rates",
            title="By rate",
            x_label="learning rate",
            y_label="loss",
            series=(Series(label="steady, rank 1", x=(0.001, 0.01), y=(0.1, 0.4)),),
        ),
        Chart(
            key="gain_by_rank",
            title="Gain kept",
            x_label="rank",
            y_label="share of the gain",
            y_is_share=True,
            series=(
                Series(label="cut", x=RANKS, y=(0.5, 0.9, 1.0)),
                Series(label="LoRA", x=RANKS, y=(0.6, 1.2, None)),
            ),
        ),
        Chart(
            key="energy_by_rank",
            title="Energy",
            x_label="rank",
            y_label="share of the norm",
            y_is_share=True,
            series=tuple(
                Series(label=label, x=RANKS, y=(0.2, y, 1.0))
                for label, y in (("most", 0.9), ("median", 0.5), ("least", 0.4))
            ),
        ),
        Chart(
            key="spectrum_a",
            title="a: singular values",
            x_label="number",
            y_label="relative to the largest",
            y_scale="log",
            series=(
                Series(label="update", x=(1, 2, 4), y=(1.0, 0.1, 0.0)),
                Series(label="random", x=(1, 2, 4), y=(1.0, 0.9, 0.8)),
            ),
        ),
        Chart(
            key="lora_of_full",
            title="LoRA of full",
            x_label="",
            y_label="LoRA / full, measured",
            x_scale="linear",
            y_is_share=True,
            categories=("trained numbers", "saved activations", "step time"),
            series=(Series(label="bfloat16", x=(0, 1, 2), y=(0.01, 1.4, None)),),
        ),
    ),
)


def document(verdict: str = "holds") -> dict[str, Any]:
    """What `verify --claims 1 --format json` prints, of one layer of 64 x 128."""
    ranks = [{"rank": 8, "a": 1_024, "b": 512, "lora": 1_536, "share_of_full": 0.1875}]
    layer = {
        "name": "model.layers.*.k_proj",
        "kind": "Linear",
        "copies": 1,
        "out_features": 64,
        "in_features": 128,
        "full": 8_192,
        "ranks": [{"rank": 8, "a": 1_024, "b": 512}],
        "lora_exceeds_full_from_rank": 43,
    }
    claim = {
        "id": 1,
        "title": "Size of the update",
        "statement": "It is large.",
        "verdict": verdict,
        "must_hold": False,
        "seconds": 1.0,
        "finding": ["Here 1,536 numbers train."],
        "evidence": {
            "example": {
                "out_features": 4_096,
                "in_features": 4_096,
                "rank": 8,
                "full": 16_777_216,
                "lora": 65_536,
                "fewer": 0.99609375,
            },
            "layers": [layer],
            "model": {
                "weights": 700_000,
                "full": 8_192,
                "lora_exceeds_full_from_rank": 43,
                "ranks": ranks,
            },
            "counts_equal_formula": True,
        },
    }
    model = {
        "id": "small-llama",
        "model_type": "llama",
        "num_layers": 1,
        "num_parameters": 700_000,
        "weights": "trained on the spot",
        "text": "The Sonnets",
        "note": "Checked on a small model.",
    }
    return {
        "model": model,
        "environment": asdict(make_record().environment),
        "seed": 0,
        "quick": True,
        "seconds": 2.0,
        "claims": [claim],
    }
