"""The words for runs that were measured: label and definition of every phase, metric, counter and
status, in display order; of how predictions are held to them, and of how fast a run went."""

from functools import partial
from typing import TYPE_CHECKING, Final

from lora_profiler.measuring.records.checks import LEAST_SAMPLES
from lora_profiler.report.labels import defined, interval_text, told
from lora_profiler.units import percent_text, rate_text, seconds_text

if TYPE_CHECKING:
    from lora_profiler.measuring.records.record import Record
    from lora_profiler.runs.comparison.throughput import Ratio, Throughput, Utilisation


PHASE_LABELS: Final[dict[str, str]] = {
    "setup": "between steps",
    "forward": "forward and loss",
    "loss": "the loss",
    "backward": "backward",
    "clip": "gradient clipping",
    "optimizer": "optimizer step",
    "zero": "clearing gradients",
    "evaluation": "evaluation",
    "generation": "generation",
    "saving": "saving",
}
"""Measured phases; "forward" also names the group of forward and loss that is compared with a
prediction."""

PASS_LABELS: Final[dict[str, str]] = {"memory": "the memory pass", "timing": "the timing pass"}
"""Passes of a run that ended outside of a step's phases."""


def phase_label(phase: str) -> str:
    """Where a run ended."""
    return PHASE_LABELS.get(phase) or PASS_LABELS.get(phase, phase)


PHASE_SHORT: Final[dict[str, str]] = PHASE_LABELS | {
    "setup": "the batch",
    "forward": "forward",
    "clip": "clipping",
    "optimizer": "optimizer",
    "zero": "clearing",
}
"""The same while a step goes on, for narrow columns."""

PHASE_CURVE: Final[dict[str, str]] = PHASE_SHORT | {
    "setup": "between steps",
    "optimizer": "optimizer step",
}
"""The same along a picture of one step."""

STAGE_LABELS: Final[dict[str, str]] = {
    "start": "starting",
    "import": "importing",
    "context": "opening the device",
    "load": "loading the model",
    "quantise": "quantising",
    "adapter_inject": "adding adapters",
    "shard": "sharding",
    "optimizer_build": "making the optimizer",
    "memory": "memory",
    "timing": "timing",
    "reference": "training alone",
    "end": "finishing",
}
"""What a measured process does before, between and after its steps."""

METRIC_LABELS, METRIC_DEFINITIONS = defined("""
peak_requested_bytes: requested peak: the most bytes that live tensors request at one moment of the
    second step or a later one
peak_allocated_bytes: peak allocated: the same with the allocator's rounding and the tails of blocks
    that it does not split
attribution_bytes: part of the peak: what that instant is made of, by category; the parts add up to
    the peak
phase_peak_bytes: peak of a phase: the most that tensors request within one phase of a steady step
step1_phase_peak_bytes: peak of a phase in step 1: the same in the first step, before there are
    optimizer states
persistent_bytes: persistent: what is there in every step: weights, adapters, buffers, gradients,
    optimizer states, by category
saved_activation_bytes: saved for backward: everything that autograd keeps at the end of the forward
    pass, parameters left out
num_parameters: parameters: the model's own weights, tied ones once; adapters are not among them
num_trainable_parameters: trained parameters: weights that receive gradients: all of them in full
    fine-tuning, the adapters under LoRA
peak_reserved_bytes: reserved by the allocator: what the allocator took from the driver in segments,
    free blocks in them included
device_used_bytes: in use on the device: what the driver says is in use on the device at the end,
    less what was in use while it was idle
step_seconds: median step: the median time of an optimizer step, all its micro-batches included,
    after the warm-up
tokens_per_second: tokens a second: padded tokens of an optimizer step over its median time
""")

GROUPING_LABELS: Final[dict[str, str]] = {
    "metric": "what",
    "category": "part",
    "engine": "engine",
    "method": "method",
    "family": "family",
    "model": "model",
    "device": "device",
}
"""By what errors are gathered; a family is a model type of transformers."""

ENVIRONMENT_LABELS: Final[dict[str, str]] = {
    "device.name": "device",
    "device.kind": "kind of device",
    "device.total_bytes": "memory of the device",
    "device.uuid_hash": "GPU, by a hash of its UUID",
    "device.compute_capability": "compute capability",
    "device.driver": "driver",
    "device.cuda": "CUDA",
    "device.cudnn": "cuDNN",
    "device.vbios": "VBIOS",
    "device.ecc": "ECC",
    "device.mig": "MIG",
    "device.power_limit_watts": "power limit, W",
    "device.clocks_locked": "clocks locked",
    "python": "Python",
    "platform": "platform",
    "cpu": "processor",
    "logical_cpus": "logical processors",
    "threads": "threads",
    "memory_bytes": "memory of the machine",
    "memory_limit_bytes": "memory limit",
    "allocator": "allocator",
    "commit": "commit of this program",
    "dirty": "uncommitted changes",
    "diff_hash": "hash of these changes",
}
"""Fields of a record's environment by their path; packages and variables go by their own names."""

COUNTER_LABELS: Final[dict[str, str]] = {
    "requested_peak_bytes": "requested peak",
    "requested_bytes": "requested at the end of the phase",
    "allocated_peak_bytes": "peak allocated",
    "reserved_peak_bytes": "reserved by the allocator",
}
"""Counters of a memory pass, phase by phase."""

ALONE_LABELS: Final[dict[str, str]] = {
    "rounding": "allocated beyond the request (rounding)",
    "peak_reserved_bytes": "reserved by the allocator",
    "fragmentation": "reserved, not allocated (fragmentation)",
    "device_used_bytes": "in use on the device, above idle",
    "outside": "in use outside torch's allocator",
    "context_bytes": "driver context",
    "workspace_bytes": "BLAS workspace, inside what is allocated",
}
"""Memory that is measured but that no engine predicts yet."""

STATUS_LABELS, STATUS_DEFINITIONS = defined("""
ok: ok: the run went through and kept to the protocol
noisy: noisy: the run went through and its memory is right, but its times scatter too much
oom: out of memory: the device had no room for an allocation
host_oom: host out of memory: the operating system ended the process because the machine ran out of
    memory
timeout: timed out: the run took longer than it was given and was ended
crash: crashed: the process ended before it had a result
unsupported: unsupported: this combination cannot be trained on this device or with these libraries
invalid: invalid: the run ended, but what it measured cannot be right
interrupted: interrupted: the run was stopped by hand, or its piece was over
""")

STATUS_ADVICE: Final = told("""
oom: a smaller batch or sequence, --checkpointing, or what `lora-profile predict` says lowers the
    peak most
host_oom: a smaller model or batch, or a machine with more memory; other programs may hold what is
    missing
timeout: a longer time limit, or a smaller batch or sequence
crash: the run again with the log at hand; `lora-profile doctor` shows what is installed
unsupported: another dtype, attention or optimizer, or what `lora-profile doctor` says is missing
invalid: one process, without --world-size: ranks that train together must have its losses
interrupted: the same command with --resume
""")
"""What to try after each failure; `advice` knows more of some."""
_AFTER_FLOAT16 = (
    "--dtype bfloat16, or --dtype float32 with or without --precision amp: a whole step in float16"
    " needs loss scaling, which this one does not have"
)
_AFTER_ANOTHER_DTYPE = (
    "--dtype float32, other weights or another text; the same command again gives the same loss"
)

FLAG_DEFINITIONS: Final = told("""
busy_machine: step times are not reliable: other programs used the CPU meanwhile
host_bound: step times say more about Python than about the GPU: the CPU could not keep it busy
instrumentation_perturbed_memory: the peak is in doubt: two ways of measuring it differ
losses_not_compared: the losses are not checked: one process could not train on the ranks' data
low_clock: the GPU can be faster: it ran far below its default clock, as under a power cap
memory_pressure: step times are too long: the allocator had to free memory and ask again
passive_waits: step times are slightly long: the machine was busy, so threads slept instead of
    spinning
shared_device: memory in use on the device is not reliable: another process used it
thermal_throttling: step times are too long: the GPU slowed down because it was hot
timing_cut: fewer steps were timed than requested: the time limit was reached
unattributed_over_1_percent: over 1 % of the peak belongs to no category
""")

MFU_DEFINITIONS: Final[tuple[str, ...]] = (
    (
        "MFU: FLOPs of forward and backward over the GPU's dense peak in that time. HFU: with what"
        " checkpointing computes again. Attention counts in full, not its causal half."
    ),
    (
        'LoRA needs fewer FLOPs than full fine-tuning, so their MFU cannot be compared; "full'
        ' equivalent" is the MFU of full fine-tuning at the same tokens per second.'
    ),
)

ENERGY_CAVEAT: Final = (
    "Energy is the driver's counter; on A100 and H100 it sees power a quarter of the time."
)

ERROR_DEFINITION: Final = "error = (predicted - measured) / measured"

PARTS_CAVEAT: Final = (
    "Two moments of a step may be nearly as high: the prediction names one, the run another. The"
    " peaks then agree, their parts do not."
)


def status_label(record: "Record") -> str:
    """How a run ended; one on a pretended card was rehearsed, however it ended."""
    label = STATUS_LABELS[record.measurement.status]
    if not record.is_rehearsed:
        return label
    return "rehearsed" if record.measurement.went_through else f"rehearsed, {label}"


def advice(record: "Record") -> str | None:
    """The end of 'To try: ...', after a loss that was no number by the dtype that was trained in;
    None for a run that went through."""
    status, failure = record.measurement.status, record.measurement.failure
    if status == "invalid" and failure and failure.step is not None:  # whose loss is no number
        return _AFTER_FLOAT16 if record.workload.setup.dtype == "float16" else _AFTER_ANOTHER_DTYPE
    return STATUS_ADVICE.get(status)


def speed_lines(speed: "Throughput", utilisation: "Utilisation | None" = None) -> list[str]:
    """A line for each kind of number; definitions follow where a utilisation is printed."""
    steps = speed.steps
    text = partial(seconds_text, largest=max(steps.high, steps.mean, steps.p90))
    interval = interval_text(text(steps.low), text(steps.high), steps.n)
    tenths = f"10 % of them below {text(steps.p10)}, 10 % above {text(steps.p90)}"
    named = {
        "tokens": speed.tokens_per_second,
        "non-padding tokens": speed.nonpad_tokens_per_second,
        "supervised tokens": speed.supervised_tokens_per_second,
    }
    if len(set(named.values())) == 1:  # said once where they are equal
        named = {"tokens": speed.tokens_per_second}
    named |= {"sequences": speed.samples_per_second, "steps": speed.steps_per_second}
    rates = ", ".join(rate_text(rate, name) for name, rate in named.items() if rate is not None)
    lines = [
        f"step: {text(steps.median)}, the median of {steps.n}; {interval}",
        f"half of all within {text(steps.mad)} of it; mean {text(steps.mean)}, {tenths}",
        f"rates: {rates}",
    ]
    if speed.energy:
        energy = speed.energy
        net = energy.net_joules_per_token
        above = f", {net:.3g} J above idling" if net is not None else ""
        lines += [f"energy: {energy.gross_joules_per_token:.3g} J a token{above}. {ENERGY_CAVEAT}"]
    if utilisation:
        peak = f"{utilisation.peak_flops / 1e12:g} TFLOP/s, {utilisation.card.name}"
        shares = f"MFU {percent_text(utilisation.mfu)}, HFU {percent_text(utilisation.hfu)}"
        full = utilisation.mfu_full_equivalent
        also = "" if full is None else f"; full equivalent {percent_text(full)}"
        lines += [f"{shares} of {peak}{also}", *MFU_DEFINITIONS[: 1 if full is None else 2]]
    return lines + [f"! {warning}" for warning in speed.warnings]


def ratio_line(name_a: str, name_b: str, ratio: "Ratio") -> str:
    """'LoRA r16 takes 0.713 of the time of full (95 % interval 0.701 to 0.726; 3 and 3 runs)'."""
    a, b = ratio.processes
    doubt = f"{ratio_interval(ratio)}; {b} and {a} runs"
    return f"{name_b} takes {ratio.ratio:.3f} of the time of {name_a} ({doubt})"


def ratio_interval(ratio: "Ratio") -> str:
    """'95 % interval 0.701 to 0.726', or why there is none."""
    if min(ratio.steps) < LEAST_SAMPLES:
        return "too few steps for a 95 % interval"
    return f"95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
