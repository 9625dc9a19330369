"""A run of `verify` made up by hand: what the page Learn and the report are drawn from, with
numbers that are easily checked."""

from dataclasses import asdict
from typing import Any

from lora_profiler.report.claims.claim import Chart, Series
from lora_profiler.report.learn import ClaimFound, Findings
from records import make_record

RANKS = (1.0, 8.0, 64.0)


def chart(key: str, title: str, axes: str, lines: dict[str, tuple[Any, ...]], **more: Any) -> Chart:
    """`axes`: the labels of x and y, parted by a semicolon; `x` is that of every line."""
    x = more.pop("x", RANKS)
    x_label, y_label = axes.split("; ")
    series = tuple(Series(label=label, x=x, y=y) for label, y in lines.items())
    return Chart(key=key, title=title, x_label=x_label, y_label=y_label, series=series, **more)


LOG: dict[str, Any] = {"y_scale": "log"}
SHARE: dict[str, Any] = {"y_is_share": True}
FINDINGS = Findings(
    model="made/up",
    lines=("llama, 2 layers", "a full run, seed 0"),
    claims=(
        ClaimFound(
            **{"id": 1, "title": "Size of the update", "statement": "It is large."},
            **{"must_hold": False, "verdict": "holds", "headline": "99.61 % fewer"},
            finding=("So it is.",),
        ),
        ClaimFound(
            **{"id": 2, "title": "Shape and merge", "statement": "They agree."},
            **{"must_hold": True, "verdict": "fails", "headline": "error 7.00"},
            finding=("They do not.",),
        ),
    ),
    charts=(
        chart(
            "trained_share",
            "Numbers",
            "rank; share of the full update",
            {"all": (0.01, 0.08, 0.64), "k_proj, 64 x 128": (0.0234, 0.1875, 1.5)},
            **LOG | SHARE,
        ),
        chart(
            "scaling_first_update",
            "First update",
            "rank; norm, relative to W",
            {"falling": (0.08, 0.04, 0.01), "even": (0.02, 0.03, 0.025)},
            **LOG,
        ),
        chart(
            "scaling_gain",
            "Fall of the loss",
            "rank; loss before - loss after",
            {
                "steady": (0.3, 0.4, 0.2),
                "bursting": (0.3, 0.1, None),
                "useless": (-0.1, -0.2, -0.3),
            },
        ),
        chart(
            "scaling_learning_rates",
            "By rate",
            "learning rate; loss",
            {"steady, rank 1": (0.1, 0.4)},
            x=(0.001, 0.01),
        ),
        chart(
            "gain_by_rank",
            "Gain kept",
            "rank; share of the gain",
            {"cut": (0.5, 0.9, 1.0), "LoRA": (0.6, 1.2, None)},
            **SHARE,
        ),
        chart(
            "energy_by_rank",
            "Energy",
            "rank; share of the norm",
            {"most": (0.2, 0.9, 1.0), "median": (0.2, 0.5, 1.0), "least": (0.2, 0.4, 1.0)},
            **SHARE,
        ),
        chart(
            "spectrum_a",
            "a: singular values",
            "number; relative to the largest",
            {"update": (1.0, 0.1, 0.0), "random": (1.0, 0.9, 0.8)},
            x=(1, 2, 4),
            **LOG,
        ),
        chart(
            "lora_of_full",
            "LoRA of full",
            "; LoRA / full, measured",
            {"bfloat16": (0.01, 1.4, None)},
            x=(0, 1, 2),
            x_scale="linear",
            categories=("trained numbers", "saved activations", "step time"),
            **SHARE,
        ),
    ),
)


def document(verdict: str = "holds") -> dict[str, Any]:
    """What `verify --claims 1 --format json` prints, of one layer of 64 x 128."""
    ranks = [{"rank": 8, "a": 1_024, "b": 512, "lora": 1_536, "share_of_full": 0.1875}]
    layer = {
        "name": "model.layers.*.k_proj", "kind": "Linear", "copies": 1, "out_features": 64,
        "in_features": 128, "full": 8_192, "ranks": [{"rank": 8, "a": 1_024, "b": 512}],
        "lora_exceeds_full_from_rank": 43,
    }  # fmt: skip
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
        "id": "small-llama", "model_type": "llama", "num_layers": 1, "num_parameters": 700_000,
        "weights": "trained on the spot", "text": "The Sonnets",
        "note": "Checked on a small model.",
    }  # fmt: skip
    return {
        "model": model,
        "environment": asdict(make_record().environment),
        "seed": 0,
        "quick": True,
        "seconds": 2.0,
        "claims": [claim],
    }
