"""A document of `verify`, fresh or committed, as plain data for charts: series of x and y, with the
words that belong to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Scale = Literal["linear", "log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of points; a y that is None was not measured or came to nothing finite."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`key` names it for ever; `note` is a sentence to stand below it; where `y_is_share`, y are
    fractions of 1.

    Of a chart of bars x counts the `categories` from 0; of any other there are none.
    """

    key: str
    claim_id: int
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Scale = "log"
    y_scale: Scale = "linear"
    y_is_share: bool = False
    categories: tuple[str, ...] = ()
    note: str = ""


def verify_charts(document: Mapping[str, Any]) -> tuple[Chart, ...]:
    """The charts that its claims have numbers for, in the order of the claims."""
    makers = {1: _size, 5: _scaling, 6: _dimension, 7: _cost}
    return tuple(
        chart
        for claim in document["claims"]
        if claim["id"] in makers
        for chart in makers[claim["id"]](claim["evidence"])
    )


def _size(e: Mapping[str, Any]) -> list[Chart]:
    ranks = [row["rank"] for row in e["model"]["ranks"]]
    return [
        Chart(
            key="trained_share",
            claim_id=1,
            title="Numbers that LoRA trains, as a share of the full update",
            x_label="rank",
            y_label="share of the full update",
            y_scale="log",
            y_is_share=True,
            series=(
                Series(
                    label="all adapted layers",
                    x=tuple(ranks),
                    y=tuple(row["share_of_full"] for row in e["model"]["ranks"]),
                ),
                *(
                    Series(
                        label=(
                            f"{_short(layer['name'])}, {layer['out_features']} x"
                            f" {layer['in_features']}"
                        ),
                        x=tuple(row["rank"] for row in layer["ranks"]),
                        y=tuple((row["a"] + row["b"]) / layer["full"] for row in layer["ranks"]),
                    )
                    for layer in e["layers"]
                ),
            ),
            note="Above 1, LoRA trains more numbers than the full update has.",
        )
    ]


def _short(name: str) -> str:
    """'self_attn.q_proj' of 'model.layers.*.self_attn.q_proj'."""
    return name.rpartition("*.")[2]


_SIZES = {
    "first_update": ("First update of W", "norm, relative to W"),
    "first_logit_change": (
        "What the first update changes in the logits",
        "root mean square, relative to the logits",
    ),
    "last_update": ("Last update of W", "norm, relative to W"),
    "whole_update": ("Whole update of W", "norm, relative to W"),
}


def _scaling(e: Mapping[str, Any]) -> list[Chart]:
    steps = (
        f"{e['steps']} steps at learning rate {e['learning_rate']:g}; alpha is {e['alpha']:g} where"
        " it is fixed."
    )
    charts = [
        Chart(
            key=f"scaling_{name}",
            claim_id=5,
            title=title,
            x_label="rank",
            y_label=label,
            y_scale="log",
            series=_by_rank(e["scalings"], name),
            note=steps,
        )
        for name, (title, label) in _SIZES.items()
    ]
    charts.append(
        Chart(
            key="scaling_gain",
            claim_id=5,
            title="Fall of the held-out loss",
            x_label="rank",
            y_label="loss before - loss after",
            series=_by_rank(e["scalings"], "gain"),
            note=steps,
        )
    )
    if e["learning_rates"]:
        labels = {each["key"]: each["label"] for each in e["scalings"]}
        charts.append(
            Chart(
                key="scaling_learning_rates",
                claim_id=5,
                title=(
                    "Fall of the held-out loss by learning rate, at the lowest and the highest rank"
                ),
                x_label="learning rate",
                y_label="loss before - loss after",
                series=tuple(
                    Series(
                        label=f"{labels[row['key']]}, rank {row['rank']}",
                        x=tuple(each["learning_rate"] for each in row["gains"]),
                        y=tuple(each["gain"] for each in row["gains"]),
                    )
                    for row in e["learning_rates"]
                ),
                note=(
                    "Where the two ranks of one scaling peak at one learning rate, the rank can be"
                    " changed without retuning it."
                ),
            )
        )
    return charts


def _by_rank(scalings: Sequence[Mapping[str, Any]], name: str) -> tuple[Series, ...]:
    return tuple(
        Series(
            label=each["label"],
            x=tuple(run["rank"] for run in each["runs"]),
            y=tuple(run[name] for run in each["runs"]),
        )
        for each in scalings
    )


def _dimension(e: Mapping[str, Any]) -> list[Chart]:
    ranks = tuple(row["rank"] for row in e["ranks"])
    spectra = [
        Chart(
            key=f"spectrum_{kind['name']}",
            claim_id=6,
            title=f"{_short(kind['name'])}: singular values in {kind['middle']}",
            x_label="number of the singular value",
            y_label="relative to the largest",
            y_scale="log",
            series=tuple(
                Series(label=label, x=tuple(kind[name]["places"]), y=tuple(kind[name]["values"]))
                for name, label in (
                    ("update", "update"),
                    ("weight", "W itself"),
                    ("random", "a random matrix"),
                )
            ),
            note=(
                f"Effective rank {kind['update']['effective_rank']:.0f} of the update,"
                f" {kind['weight']['effective_rank']:.0f} of W,"
                f" {kind['random']['effective_rank']:.0f} of the random matrix."
            ),
        )
        for kind in e["kinds"]
    ]
    return [
        Chart(
            key="gain_by_rank",
            claim_id=6,
            title="How much of the gain of full fine-tuning survives at each rank",
            x_label="rank",
            y_label="share of the gain of the linear layers' update",
            y_is_share=True,
            series=(
                Series(
                    label="full update cut down to the rank",
                    x=ranks,
                    y=tuple(row["truncated_gain_share"] for row in e["ranks"]),
                ),
                Series(
                    label="LoRA trained at the rank",
                    x=ranks,
                    y=tuple(row["lora_gain_share"] for row in e["ranks"]),
                ),
            ),
            note="Gain is the fall of the held-out loss.",
        ),
        _energy(e["layers"]),
        *spectra,
    ]


def _energy(layers: Sequence[Mapping[str, Any]]) -> Chart:
    """The least, the middle and the most of all layers; one with fewer ranks than another holds all
    from its last on."""
    places = range(max(len(layer["energy"]) for layer in layers))
    by_rank = [
        [layer["energy"][min(place, len(layer["energy"]) - 1)] for layer in layers]
        for place in places
    ]
    return Chart(
        key="energy_by_rank",
        claim_id=6,
        title="Energy of each layer's update that its best approximation holds",
        x_label="rank",
        y_label="share of the squared norm",
        y_is_share=True,
        series=tuple(
            Series(
                label=label,
                x=tuple(2.0**place for place in places),
                y=tuple(of(each) for each in by_rank),
            )
            for label, of in (
                ("the layer with the most", max),
                ("the median layer", median),
                ("the layer with the least", min),
            )
        ),
        note=f"Of {len(layers)} layers.",
    )


def _cost(e: Mapping[str, Any]) -> list[Chart]:
    names = {
        "trainable": "trained numbers",
        "gradients": "gradients",
        "optimizer_states": "Adam's states",
        "saved_activations": "saved activations",
        "peak": "peak",
        "flops": "FLOPs",
        "step_time": "step time",
    }
    return [
        Chart(
            key="lora_of_full",
            claim_id=7,
            title=f"LoRA r{e['rank']} as a share of full fine-tuning",
            x_label="",
            categories=tuple(names.values()),
            y_label="LoRA / full, measured",
            y_is_share=True,
            x_scale="linear",
            series=tuple(
                Series(
                    label=(
                        f"{pair['dtype']}, {pair['adapter_dtype']} adapters, {pair['batch_size']} x"
                        f" {pair['seq_len']} tokens"
                    ),
                    x=tuple(range(len(names))),
                    y=tuple(pair[name] for name in names),
                )
                for pair in e["pairs"]
            ),
        )
    ]
