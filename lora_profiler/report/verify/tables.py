"""The evidence of each claim as tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_profiler.report.blocks import Block, Row, Table
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.verify.headlines import limit_text, number
from lora_profiler.units import (
    bytes_text,
    count_text,
    error_text,
    percent_text,
    seconds_text,
    short_count_text,
)

Evidence = Mapping[str, Any]


def claim_tables(claim: Mapping[str, Any]) -> list[Block]:
    """Of a claim of the document."""
    return list(_TABLES[claim["id"]](claim["evidence"]))


def _shape(row: Evidence) -> str:
    return f"{row['out_features']} x {row['in_features']}"


def _rows(cells: Sequence[Sequence[str]]) -> tuple[Row, ...]:
    return tuple(Row(cells=tuple(each)) for each in cells)


def _size(e: Evidence) -> list[Table]:
    rank = e["example"]["rank"]
    layers = []
    for layer in e["layers"]:
        found = next(row for row in layer["ranks"] if row["rank"] == rank)
        lora = found["a"] + found["b"]
        layers.append(
            (
                layer["name"],
                f"x{layer['copies']}",
                _shape(layer),
                count_text(layer["full"]),
                count_text(found["a"]),
                count_text(found["b"]),
                percent_text(1 - lora / layer["full"]),
                str(layer["lora_exceeds_full_from_rank"]),
            )
        )
    ranks = [
        (
            str(row["rank"]),
            count_text(row["a"]),
            count_text(row["b"]),
            count_text(row["lora"]),
            percent_text(row["share_of_full"]),
        )
        for row in e["model"]["ranks"]
    ]
    return [
        Table(
            columns=(
                "layer",
                "copies",
                "d x k",
                "full",
                f"A, rank {rank}",
                f"B, rank {rank}",
                "fewer",
                "more from rank",
            ),
            rows=_rows(layers),
        ),
        Table(columns=("rank, all layers", "A", "B", "A and B", "of full"), rows=_rows(ranks)),
    ]


def _merge(e: Evidence) -> list[Table]:
    rows = [
        (
            row["model"],
            ", ".join(row["layouts"]),
            row["dtype"],
            str(row["layers"]),
            limit_text(row["weight_error_of_limit"]),
            limit_text(row["unmerged_error_of_limit"]),
            limit_text(row["merged_error_of_limit"]),
            number(row["output_difference"], ".1e"),
            percent_text(row["weights_restored_by_unmerge"]),
        )
        for row in e["rows"]
    ]
    nf4 = e["nf4"]
    if nf4["checked"]:
        loss = nf4["loss"]
        rows.append(
            (
                "the same in NF4",
                "Linear4bit",
                "float32",
                str(nf4["layers"]),
                "",
                limit_text(nf4["unmerged_error_of_limit"]),
                limit_text(nf4["merged_error_of_limit"]),
                "",
                "",
            )
        )
    tables = [
        Table(
            columns=(
                "error, of rounding's limit",
                "layout",
                "dtype",
                "layers",
                "weight",
                "unmerged",
                "merged",
                "differ",
                "undone",
            ),
            rows=_rows(rows),
            left=3,
        )
    ]
    if nf4["checked"]:
        lines = [
            (
                "quantising the weight to NF4, error",
                percent_text(nf4["quantisation_error_of_weight"]),
            ),
            ("the update", percent_text(nf4["update_of_weight"])),
            (
                "quantising the merged weight again, error",
                percent_text(nf4["requantisation_error_of_weight"]),
            ),
        ]
        cells = [(what, share, "") for what, share in lines]
        cells += [
            (f"held-out loss, {what}", "", f"{loss[key]:.4f}") for key, what in _NF4_LOSSES.items()
        ]
        tables.append(Table(columns=("NF4 base", "of the weight", "loss"), rows=_rows(cells)))
    return tables


_NF4_LOSSES = {
    "base": "no adapter",
    "unmerged": "adapter beside the base",
    "merged_and_quantised_again": "merged and quantised again",
}


def _path(e: Evidence) -> list[Table]:
    errors = [
        (
            row["dtype"],
            str(row["layers"]),
            limit_text(row["error_of_limit"]),
            row["worst_layer"],
            percent_text(row["largest_path_of_output"]),
        )
        for row in e["rows"]
    ]
    costs = [
        (
            cost["name"],
            _shape(cost),
            percent_text(cost["predicted_flops"] / cost["base_flops"]),
            percent_text(cost["measured_flops"] / cost["base_flops"]),
            bytes_text(cost["predicted_bytes"]),
            bytes_text(cost["measured_bytes"]),
            f"{100 * (cost['adapted_seconds'] / cost['base_seconds'] - 1):+.0f} %",
        )
        for cost in e["costs"]
    ]
    return [
        Table(
            columns=(
                "dtype",
                "layers",
                "error, of rounding's limit",
                "in layer",
                "second path, of output",
            ),
            rows=_rows(errors),
        ),
        Table(
            title=f"What the second path adds to a layer, rank {e['rank']}, {e['tokens']} tokens",
            columns=(
                "layer",
                "d x k",
                "FLOPs, predicted",
                "measured",
                "kept, predicted",
                "measured",
                "time",
            ),
            rows=_rows(costs),
        ),
    ]


def _start(e: Evidence) -> list[Table]:
    starts = [
        (
            _init(start["init_lora_weights"]),
            f"{start['distribution']}, deviation {start['expected_deviation']}",
            f"{start['p_value']:.2g}",
            f"{start['p_value_as_normal']:.1g}",
            f"{start['moments']['deviation']:.4f}",
            f"{start['moments']['skewness']:+.4f}",
            f"{start['moments']['excess_kurtosis']:+.4f}",
            f"{start['largest_of_b']:g}",
        )
        for start in (e["gaussian"], e["default"])
    ]
    logits = [
        (
            f"logits, {row['dtype']}, {_init(row['init_lora_weights'])}",
            number(row["largest_difference"], "g"),
            count_text(row["numbers"]),
        )
        for row in e["logits"]
    ]
    steps = [
        (
            f"gradients before the {name} step",
            f"{step['largest_of_a']:.3g}",
            f"{step['smallest_norm_of_b']:.3g}",
            limit_text(step["error_of_limit"]),
        )
        for name, step in (("first", e["gradients"]["first"]), ("second", e["gradients"]["second"]))
    ]
    return [
        Table(
            columns=(
                "init_lora_weights",
                "A should be",
                "p",
                "p as normal",
                "deviation",
                "skewness",
                "kurtosis",
                "largest of B",
            ),
            rows=_rows(starts),
            left=2,
        ),
        Table(
            columns=("adapted less base, before the first step", "largest", "numbers"),
            rows=_rows(logits),
        ),
        Table(
            columns=("", "largest of A", "least norm of B", "chain rule, of rounding's limit"),
            rows=_rows(steps),
        ),
    ]


def _init(option: str | bool) -> str:
    return "True (default)" if option is True else str(option)


_SIZES = {
    "first_update": "first update of W",
    "first_logit_change": "its effect on logits",
    "last_update": "last update of W",
    "whole_update": "whole update of W",
}


def _scaling(e: Evidence) -> list[Table]:
    ranks = [run["rank"] for run in e["scalings"][0]["runs"]]
    rows: list[Row] = []
    for scaling in e["scalings"]:
        rows.append(Row(cells=(scaling["label"],), kind="section"))
        levels = scaling["levels"]
        for name, label in _SIZES.items():
            values = [number(run[name], ".1e") for run in scaling["runs"]]
            level = ", level" if levels[name]["level"] else ""
            how = f"r^{number(levels[name]['exponent'], '+.2f')}{level}"
            rows.append(Row(cells=(label, *values, how), indent=1))
        gains = [number(run["gain"], "+.3f") for run in scaling["runs"]]
        loss = levels["loss"]
        how = f"{percent_text(loss['least_to_best_gain'])}{', level' if loss['level'] else ''}"
        rows.append(Row(cells=("fall of the held-out loss", *gains, how), indent=1, kind="total"))
    tables = [
        Table(
            columns=("relative to W, or to logits", *(f"r {r}" for r in ranks), "by rank"),
            rows=tuple(rows),
        )
    ]
    if e["learning_rates"]:
        labels = {scaling["key"]: scaling["label"] for scaling in e["scalings"]}
        rates = [each["learning_rate"] for each in e["learning_rates"][0]["gains"]]
        found = [
            (labels[row["key"]], str(row["rank"]), *_gains(row)) for row in e["learning_rates"]
        ]
        tables.append(
            Table(
                title="Fall of the held-out loss by learning rate, * the best",
                columns=("scaling", "rank", *(f"{rate:g}" for rate in rates)),
                rows=_rows(found),
            )
        )
    return tables


def _gains(row: Evidence) -> list[str]:
    best = row["best_learning_rate"]
    return [
        f"{number(each['gain'], '+.3f')}{'*' if each['learning_rate'] == best else ''}"
        for each in row["gains"]
    ]


def _dimension(e: Evidence) -> list[Table]:
    losses = e["losses"]
    ranks = [
        (
            str(row["rank"]),
            f"{row['truncated_loss']:.4f}",
            percent_text(row["truncated_gain_share"]),
            f"{row['lora_loss']:.4f}",
            percent_text(row["lora_gain_share"]),
        )
        for row in e["ranks"]
    ]
    kinds = [
        (
            kind["name"],
            _shape(kind),
            f"{kind['effective_rank']:.0f}",
            f"{kind['weight']['effective_rank']:.0f}",
            f"{kind['random']['effective_rank']:.0f}",
            percent_text(kind["energy_at_8"]),
            _energy_at_8(kind["weight"]),
            _energy_at_8(kind["random"]),
            f"{kind['rank_for_90_percent']:g}",
        )
        for kind in e["kinds"]
    ]
    return [
        Table(
            columns=("rank", "loss, update cut to it", "gain kept", "loss, LoRA", "of that gain"),
            rows=_rows(ranks),
            title=(
                f"Held-out loss: {losses['base']:.4f} before, {losses['linear_layers_alone']:.4f}"
                f" with the whole update of the linear layers, {losses['full']:.4f} with all that"
                " training changed"
            ),
        ),
        Table(
            title=(
                "Effective rank, and energy that rank 8 holds: of the update, of W itself, of a"
                " random matrix"
            ),
            columns=(
                "layer",
                "d x k",
                "update",
                "W",
                "random",
                "update",
                "W",
                "random",
                "rank for 90 %",
            ),
            rows=_rows(kinds),
        ),
    ]


def _energy_at_8(curve: Evidence) -> str:
    """Energies are kept at ranks 1, 2, 4, 8, ..., as far as the matrix has them."""
    return percent_text(curve["energy"][min(3, len(curve["energy"]) - 1)])


def _cost(e: Evidence) -> list[Table]:
    runs = []
    for row in e["rows"]:
        setup, predicted, measured = row["setup"], row["predicted"], row["measured"]
        error = (
            (predicted["peak"] - measured["peak"]) / measured["peak"] if measured["peak"] else None
        )
        adapters = (
            f", {setup['adapter_dtype']} A, B"
            if setup["adapter_dtype"] not in (None, setup["dtype"])
            else ""
        )
        runs.append(
            (
                METHOD_LABELS[setup["method"]],
                f"{setup['dtype']}{adapters}",
                f"{setup['batch_size']} x {setup['seq_len']}",
                *(
                    _bytes(measured[name]) if name != "trainable" else _count(measured[name])
                    for name in measured
                ),
                "" if error is None else error_text(error),
                seconds_text(row["step_seconds"]["median"]) if row["step_seconds"] else "",
            )
        )
    pairs = [
        (
            (
                pair["dtype"]
                if pair["adapter_dtype"] == pair["dtype"]
                else f"{pair['dtype']}, {pair['adapter_dtype']} A, B"
            ),
            f"{pair['batch_size']} x {pair['seq_len']}",
            *(_percent(pair[name]) for name in _PAIR_COLUMNS),
        )
        for pair in e["pairs"]
    ]
    return [
        Table(
            title="Measured",
            columns=(
                "method",
                "dtype",
                "tokens",
                "trained",
                "gradients",
                "Adam",
                "saved",
                "peak",
                "predicted",
                "step",
            ),
            rows=_rows(runs),
            left=3,
        ),
        Table(
            title=f"LoRA r{e['rank']} as a share of full",
            columns=("dtype", "tokens", *_PAIR_COLUMNS.values()),
            rows=_rows(pairs),
            left=2,
        ),
    ]


_PAIR_COLUMNS = {
    "trainable": "trained",
    "gradients": "gradients",
    "optimizer_states": "Adam",
    "saved_activations": "saved",
    "peak": "peak",
    "flops": "FLOPs",
    "step_time": "step",
}


def _bytes(size: int | None) -> str:
    return "" if size is None else bytes_text(size)


def _count(number: int | None) -> str:
    return "" if number is None else short_count_text(number)


def _percent(share: float | None) -> str:
    return "" if share is None else percent_text(share)


_TABLES: Mapping[int, Callable[[Evidence], Sequence[Block]]] = {
    1: _size,
    2: _merge,
    3: _path,
    4: _start,
    5: _scaling,
    6: _dimension,
    7: _cost,
}
