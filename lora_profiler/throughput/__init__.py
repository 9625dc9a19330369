"""What the raw samples of one record say about speed: medians with intervals, rates, energy, utilisation, paired ratios.

Worked out on reading, from `record.Measurement`; None where something was not measured.
"""

from lora_profiler.throughput.pairs import Ratio, full_against_lora
from lora_profiler.throughput.rates import EnergyUse, Throughput, throughput
from lora_profiler.throughput.spread import Spread, spread
from lora_profiler.throughput.utilisation import Utilisation, card_of, impossible, peak_flops, share_of_peak, utilisation

__all__ = [
    "EnergyUse", "Ratio", "Spread", "Throughput", "Utilisation", "card_of", "full_against_lora", "impossible", "peak_flops",
    "share_of_peak", "spread", "throughput", "utilisation",
]  # fmt: skip
