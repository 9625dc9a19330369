"""The suite of one 80 GB Hopper card, some 24 minutes, ordered by what each case tells.

Anchors first, small then large; then one lever at a time against an anchor; then sizes, other
families, the largest batch on emulated smaller cards, energy, and the anchors again in other
processes. Whatever is cut off at the end costs least.

On a CPU every model is replaced by one of its family in miniature, sequences are cut to a
thirty-second and budgets follow the small models, so that the same list runs from end to end
anywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.truth.suite_models import bundled
from lora_profiler.measuring.harness import Case, make_case
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import peak_bytes
from lora_profiler.question.workload import Device, LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.units import GIB

SMALL, LARGE = "meta-llama/Llama-3.2-1B", "meta-llama/Meta-Llama-3-8B"

ENERGY_STEPS = (200, 400)
"""Steps of the two blocks whose energies are compared: at 0.06 s a step the shorter one lasts more
than the ten seconds below which a block gives no energy."""

ADAPTER = LoraConfig(r=16)
FULL = TrainSetup(batch_size=4, seq_len=2048, optimizer_impl="fused")
LORA = replace(FULL, lora=ADAPTER, optimizer_impl="foreach")
QLORA = replace(LORA, quantization=Quantization(), checkpointing=True)

EDGES = ((24, 2), (40, 6), (48, 9))
"""GiB of an emulated card, and a batch of the large model (LoRA, checkpointing) that should just
fit; the next should not."""

SHORTER_ON_CPU = 32
SHORTER_TIMING_ON_CPU = 16


def h100_campaign(device: Device) -> tuple[Case, ...]:
    """Every case of the campaign, in order."""
    return tuple(_cases(_Scale(device)))


@dataclass(frozen=True, slots=True)
class _Scale:
    """Makes workloads and cases for a device: as they are written for a GPU, in miniature for a
    CPU."""

    device: Device

    def workload(self, name: str, setup: TrainSetup) -> Workload:
        seq_len = setup.seq_len // SHORTER_ON_CPU if self.device == "cpu" else setup.seq_len
        return Workload(
            model=bundled(name, self.device),
            setup=replace(setup, seq_len=seq_len, device=self.device),
        )

    def timed(
        self, workload: Workload, steps: int = 10, seconds: float = 8.0, repeat: int = 0
    ) -> Case:
        """A case of the whole protocol, which ends its timing after `seconds`."""
        if self.device == "cpu":
            steps, seconds = max(3, steps // SHORTER_TIMING_ON_CPU), seconds / SHORTER_TIMING_ON_CPU
        conditions = Conditions(memory_steps=3, min_timed_steps=steps, max_timing_seconds=seconds)
        return make_case(workload, conditions, repeat=repeat)

    def edge(self, name: str, setup: TrainSetup, budget_bytes: int) -> Iterator[Case]:
        """Two batches on one emulated card, of which the first should fit and the second should
        not; memory alone."""
        batches = (setup.batch_size, setup.batch_size + 1)
        pair = [self.workload(name, replace(setup, batch_size=batch)) for batch in batches]
        if self.device == "cpu":
            budget_bytes = sum(map(peak_bytes, pair)) // 2
        for workload in pair:
            yield make_case(
                workload, Conditions(memory_steps=3, min_timed_steps=0, budget_bytes=budget_bytes)
            )


def _cases(scale: _Scale) -> Iterator[Case]:
    anchors = [
        *(scale.workload(SMALL, setup) for setup in (FULL, LORA, QLORA)),
        *(
            scale.workload(LARGE, replace(setup, batch_size=1))
            for setup in (replace(FULL, checkpointing=True), LORA, QLORA)
        ),
    ]
    yield from map(scale.timed, anchors)
    for name, setup in (*_levers(), *_families()):
        yield scale.timed(scale.workload(name, setup))
    for gib, batch in EDGES:
        yield from scale.edge(LARGE, replace(LORA, checkpointing=True, batch_size=batch), gib * GIB)
    for steps in ENERGY_STEPS:
        yield scale.timed(anchors[1], steps=steps, seconds=60.0)
    for repeat in (1, 2):
        for workload in anchors[:2]:
            yield scale.timed(workload, repeat=repeat)


def _levers() -> Iterator[tuple[str, TrainSetup]]:
    """One thing changed at a time against an anchor, what moves memory most first; then sizes."""
    alone = replace(LORA, batch_size=1)
    bf16 = replace(ADAPTER, adapter_dtype="bfloat16")
    yield SMALL, replace(LORA, checkpointing=True)
    yield SMALL, replace(FULL, checkpointing=True)
    yield LARGE, replace(alone, checkpointing=True)
    yield SMALL, replace(FULL, optimizer_impl="foreach")
    yield SMALL, replace(FULL, optimizer_impl="forloop")
    yield SMALL, replace(LORA, lora=bf16)
    yield LARGE, replace(alone, lora=bf16)
    yield SMALL, replace(LORA, lora=replace(ADAPTER, lora_dropout=0.05))
    yield SMALL, replace(LORA, lora=replace(ADAPTER, target_modules=("q_proj", "v_proj")))
    yield SMALL, replace(QLORA, checkpointing=False)
    yield SMALL, replace(QLORA, quantization=Quantization(recipe="kbit"))
    for attention in ("eager", "math", "efficient", "flash"):
        yield SMALL, replace(alone, attention=attention)
    yield SMALL, replace(LORA, precision="amp")
    yield SMALL, replace(FULL, dtype="float32", precision="amp", seq_len=1024)
    yield SMALL, replace(FULL, dtype="float32", batch_size=2, seq_len=1024)
    yield SMALL, replace(FULL, optimizer="adamw_8bit", optimizer_impl="foreach")
    yield SMALL, replace(alone, accumulation=4)
    yield SMALL, replace(LORA, lora=replace(ADAPTER, r=128))
    yield LARGE, replace(QLORA, batch_size=1, seq_len=4096, quantization=Quantization(recipe="trl"))
    yield SMALL, replace(FULL, batch_size=1, seq_len=512)
    for batch, seq in ((1, 512), (1, 8192)):
        yield SMALL, replace(LORA, batch_size=batch, seq_len=seq, checkpointing=True)


def _families() -> Iterator[tuple[str, TrainSetup]]:
    """Another model each, in the way that it is mostly tuned."""
    yield "Qwen/Qwen2.5-0.5B", replace(LORA, seq_len=1024)
    yield "mistralai/Mistral-7B-v0.1", replace(LORA, batch_size=2, checkpointing=True)
    yield "google/gemma-2-2b", replace(LORA, batch_size=1, seq_len=1024, attention="eager")
    yield (
        "openai-community/gpt2-medium",
        replace(LORA, batch_size=8, seq_len=1024, lora=replace(ADAPTER, target_modules=None)),
    )
    yield "Qwen/Qwen3-4B", replace(LORA, batch_size=2, seq_len=1024)
    yield "HuggingFaceTB/SmolLM2-135M", replace(FULL, batch_size=8, seq_len=1024)
