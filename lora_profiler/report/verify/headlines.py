"""Each claim's evidence in one line of numbers."""

from collections.abc import Callable, Mapping
from typing import Any

from lora_profiler.units import percent_text

Evidence = Mapping[str, Any]


def headline(claim: Mapping[str, Any]) -> str:
    """The numbers of a claim of the document that say most."""
    return _HEADLINES[claim["id"]](claim["evidence"])


def number(value: float | None, form: str) -> str:
    """A number of the document, which is null where a run or a layer came to nothing finite."""
    return "none" if value is None else format(value, form)


def limit_text(share: float | None) -> str:
    """An error as a share of what rounding can make: up to 1 it is rounding."""
    return number(share, ".2f" if share is None or share < 1000 else ".1e")


def _size(e: Evidence) -> str:
    example = e["example"]
    row = next(row for row in e["model"]["ranks"] if row["rank"] == example["rank"])
    return (
        f"rank {example['rank']}: {percent_text(example['fewer'])} fewer in"
        f" {example['out_features']} x {example['in_features']},"
        f" {percent_text(1 - row['share_of_full'])} here"
    )


def worst_of(values: list[float | None]) -> float | None:
    """The largest; None, which stands for no number at all, is larger than any."""
    numbers = [value for value in values if value is not None]
    return max(numbers) if len(numbers) == len(values) else None


def _merge(e: Evidence) -> str:
    names = ("weight_error_of_limit", "unmerged_error_of_limit", "merged_error_of_limit")
    worst = worst_of([row[name] for row in e["rows"] for name in names])
    nf4 = e["nf4"]
    lost = f"; NF4 again keeps {percent_text(nf4['update_kept'])} of it" if nf4["checked"] else ""
    return f"error {limit_text(worst)} of rounding's limit{lost}"


def _path(e: Evidence) -> str:
    return (
        f"error {limit_text(worst_of([row['error_of_limit'] for row in e['rows']]))} of rounding's"
        " limit"
    )


def _start(e: Evidence) -> str:
    equal = all(row["equal"] for row in e["logits"])
    first = e["gradients"]["first"]["largest_of_a"]
    start = "logits equal bit for bit" if equal else "logits differ"
    of_a = "zero" if first == 0 else number(first, ".1e")
    return f"{start}; A normal, p = {e['gaussian']['p_value']:.2g}, its first gradient {of_a}"


def _scaling(e: Evidence) -> str:
    levels = e["scalings"][0]["levels"]
    return (
        f"worst rank gains {percent_text(levels['loss']['least_to_best_gain'])} of best; first"
        f" update r^{number(levels['first_update']['exponent'], '+.2f')}, in logits"
        f" r^{number(levels['first_logit_change']['exponent'], '+.2f')}"
    )


def _dimension(e: Evidence) -> str:
    low = next((row for row in reversed(e["ranks"]) if row["rank"] <= 8), e["ranks"][0])
    held = [kind["energy_at_8"] for kind in e["kinds"]]
    return (
        f"rank {low['rank']}: {percent_text(low['truncated_gain_share'])} of the gain,"
        f" {percent_text(min(held))} to {percent_text(max(held))} of the energy"
    )


def _cost(e: Evidence) -> str:
    if not e["pairs"] or e["pairs"][0]["peak"] is None:
        return "not measured"
    pair = e["pairs"][0]
    time = f", step time {percent_text(pair['step_time'])}" if pair["step_time"] is not None else ""
    return (
        f"of full: Adam's states {percent_text(pair['optimizer_states'])}, peak"
        f" {percent_text(pair['peak'])}{time}"
    )


_HEADLINES: Mapping[int, Callable[[Evidence], str]] = {
    1: _size,
    2: _merge,
    3: _path,
    4: _start,
    5: _scaling,
    6: _dimension,
    7: _cost,
}
