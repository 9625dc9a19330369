"""How fast a run went, in words: step times with their interval, rates, energy, utilisation, and
one way against another."""

from functools import partial

from lora_profiler.comparison.paired_runs import Ratio
from lora_profiler.comparison.throughput import Throughput, Utilisation
from lora_profiler.report.measured import run_labels
from lora_profiler.units import percent_text, rate_text, seconds_text


def speed_lines(speed: Throughput, utilisation: Utilisation | None = None) -> list[str]:
    """A line for each kind of number; definitions follow where a utilisation is printed."""
    steps = speed.steps
    text = partial(seconds_text, largest=max(steps.high, steps.mean, steps.p90))
    interval = f"95 % interval {text(steps.low)} to {text(steps.high)}"
    tenths = f"10 % of them below {text(steps.p10)}, 10 % above {text(steps.p90)}"
    lines = [
        f"step: {text(steps.median)}, the median of {steps.n}; {interval}",
        f"half of all within {text(steps.mad)} of it; mean {text(steps.mean)}, {tenths}",
        _rates_line(speed),
    ]
    if speed.energy:
        energy = speed.energy
        net = energy.net_joules_per_token
        above = f", {net:.3g} J above idling" if net is not None else ""
        lines += [
            f"energy: {energy.gross_joules_per_token:.3g} J a token{above}."
            f" {run_labels.ENERGY_CAVEAT}"
        ]
    if utilisation:
        lines += utilisation_lines(utilisation)
    return lines + [f"! {warning}" for warning in speed.warnings]


def _rates_line(speed: Throughput) -> str:
    """All rates; the three kinds of tokens as one where they are equal."""
    named = {
        "tokens": speed.tokens_per_second,
        "non-padding tokens": speed.nonpad_tokens_per_second,
        "supervised tokens": speed.supervised_tokens_per_second,
    }
    if len(set(named.values())) == 1:
        named = {"tokens": speed.tokens_per_second}
    named |= {"sequences": speed.samples_per_second, "steps": speed.steps_per_second}
    return "rates: " + ", ".join(
        rate_text(rate, name) for name, rate in named.items() if rate is not None
    )


def utilisation_lines(utilisation: Utilisation) -> list[str]:
    """MFU and HFU with the peak they refer to, and what they mean."""
    peak = f"{utilisation.peak_flops / 1e12:g} TFLOP/s, {utilisation.card.name}"
    text = f"MFU {percent_text(utilisation.mfu)}, HFU {percent_text(utilisation.hfu)} of {peak}"
    if utilisation.mfu_full_equivalent is not None:
        text += f"; full equivalent {percent_text(utilisation.mfu_full_equivalent)}"
    return [
        text,
        *run_labels.MFU_DEFINITIONS[: 1 if utilisation.mfu_full_equivalent is None else 2],
    ]


def ratio_line(name_a: str, name_b: str, ratio: Ratio) -> str:
    """'LoRA r16 takes 0.713 of the time of full (95 % interval 0.701 to 0.726; 3 and 3 runs)'."""
    a, b = ratio.processes
    doubt = f"95 % interval {ratio.low:.3f} to {ratio.high:.3f}; {b} and {a} runs"
    return f"{name_b} takes {ratio.ratio:.3f} of the time of {name_a} ({doubt})"
