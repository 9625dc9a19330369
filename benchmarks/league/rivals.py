"""The estimators of the league: what is installed, and what each is told of a run.

`mapping` is the most favourable reading of its options that is still what ran; `lacks` is what of
the runs no option of it says, so that such rows are answered without it.
"""

from dataclasses import dataclass
from pathlib import Path

ASK = Path(__file__).parent / "ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """`pins` are installed as pip resolves them; one that `is_bare` without what it depends on,
    where that is large and has nothing to do with the estimate."""

    name: str
    distribution: str
    version: str
    pins: tuple[str, ...] = ()
    is_bare: bool = False
    total: str
    mapping: str
    lacks: tuple[str, ...]
    losses: tuple[str, ...] = ("plain",)
    calibrated: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def url(self) -> str:
        return f"https://pypi.org/project/{self.distribution}/{self.version}/"

    @property
    def script(self) -> Path:
        """What answers questions under its Python."""
        return ASK / f"ask_{self.distribution.replace('-', '_')}.py"


TORCH = ("torch==2.13.0", "transformers==5.24.0")
KERNELS = "other kernels than the libraries' own"
CARDS = "weights shared by several cards"

RIVALS = (
    Rival(
        name="FitCheck",
        distribution="fitcheck-llm",
        version="0.3.1",
        total="its components without the overhead; reserved: its total without the card's context",
        mapping=(
            "its Python API; what it downloads, config.json and the Hub's count of parameters, is"
            " given; `--flash-attn` for FlashAttention 2 and for SDPA; states in bfloat16"
            " (`optimizer_dtype`) where weights are trained in bfloat16"
        ),
        lacks=(KERNELS, CARDS, "mixtures of experts", "the format of adapters"),
        calibrated=(
            "constants of its activations and overheads were fitted by its author to runs on a T4;"
            " its archive of those runs is not in the package, and nothing reads it here"
        ),
    ),
    Rival(
        name="CanIFineTune",
        distribution="canifinetune",
        version="0.4.1",
        total=(
            "its total without safety margin and CUDA overhead; reserved: without the safety margin"
        ),
        mapping=(
            "`estimate` of its API; config.json and the count of parameters are given instead of"
            " downloaded; the scope of adapters that has the adapted layers, none larger; `liger`"
            " where Liger's loss ran; AdamW of torch"
        ),
        lacks=("Triton's kernels", CARDS, "the format of adapters"),
        losses=("plain", "liger"),
        calibrated="its formulas were informed by its author's runs on an RTX 4080",
    ),
    Rival(
        name="ftuneai",
        distribution="ftuneai",
        version="0.4.1",
        total="its total without its 20 % of overhead; reserved: its total",
        mapping=(
            "its memory estimator; its own reading of config.json with the true count of"
            " parameters, which it counts without the head; FlashAttention for FlashAttention 2 and"
            " SDPA; the target that has the adapted layers, none larger"
        ),
        lacks=(KERNELS, "the loss and its logits", "the format of adapters"),
        calibrated="its factors were set by its author after runs on A100 and V100",
    ),
    Rival(
        name="fitscout",
        distribution="fitscout",
        version="0.1.1",
        total="its total without the CUDA context, for both quantities",
        mapping=(
            "its model inspection of a folder with config.json, with the true count of parameters;"
            " gradients in the format of the weights, of adapters in float32"
        ),
        lacks=(KERNELS, CARDS, "targets", "attention kernels", "mixtures of experts"),
    ),
    Rival(
        name="ml-memguard",
        distribution="ml-memguard",
        version="0.5.0",
        total="its total without the framework's overhead; reserved: its total",
        mapping=(
            "its training estimate with the model's true widths, adapters in all layers, as many"
            " targets as were adapted"
        ),
        lacks=(KERNELS, CARDS, "the loss and its logits", "8-bit states"),
        calibrated="its factors were set by its author after a run on Apple's M4 Max",
    ),
    Rival(
        name="PEFT Doctor",
        distribution="peft-doctor",
        version="0.9.2",
        total="its total without fragmentation; reserved: its total",
        mapping="its VRAM estimate with the true count of parameters, width and layers",
        lacks=(KERNELS, CARDS, "rank and targets", "attention kernels", "the loss", "optimizers"),
    ),
    Rival(
        name="train-in-silence",
        distribution="train-in-silence",
        version="0.1.6",
        total="its total without the 2 GiB that its formula adds, for both quantities",
        mapping="its resource estimate with the model's true widths",
        lacks=(KERNELS, CARDS, "checkpointing", "rank and targets", "the loss", "optimizers"),
    ),
    Rival(
        name="qmemcalc",
        distribution="qmemcalc",
        version="0.1.1",
        pins=TORCH,
        total="its total without its 10 % of buffers; reserved: its total",
        mapping=(
            "`estimate_memory` of a folder with config.json, with the true number of trained"
            " parameters; the base model's parameters are its own estimate, which no option changes"
        ),
        lacks=(KERNELS, CARDS, "targets", "attention kernels", "the loss and its logits"),
    ),
    Rival(
        name="hf-vram-calc",
        distribution="hf-vram-calc",
        version="1.0.9",
        pins=TORCH,
        total="its LoRA or training memory, for both quantities",
        mapping="its calculator with the true count of parameters and the rank; int4 for NF4",
        lacks=(KERNELS, CARDS, "batch and length", "checkpointing", "targets", "optimizers"),
    ),
    Rival(
        name="training-hub",
        distribution="training-hub",
        version="0.11.2",
        pins=(*TORCH, "accelerate==1.15.0", "pandas", "rhai-innovation-mini-trainer==0.9.0"),
        is_bare=True,
        total="its sum before overhead; reserved: what it expects",
        mapping=(
            "its estimators; the model that it loads is made empty from config.json; the batch of"
            " all cards, as it divides tokens by cards; Liger where Liger's loss ran"
        ),
        lacks=("Triton's kernels", "checkpointing", "targets", "attention kernels", "8-bit states"),
        losses=("plain", "liger"),
    ),
    Rival(
        name="fm-training-estimator",
        distribution="fm-training-estimator",
        version="0.1.3",
        pins=(
            "torch==2.13.0",
            "transformers==4.46.3",  # it reads names that 5 no longer has
            "peft==0.13.2",
            "accelerate==1.1.1",
            "dataclass-wizard",
            "pandas",
            "fire",
        ),
        is_bare=True,
        total="its total, for both quantities",
        mapping=(
            "its theoretical estimators (full, LoRA, QLoRA, FSDP) of a folder with config.json; its"
            " tokenizer is told the length alone; no look-up and no regression, which have no data"
        ),
        lacks=(KERNELS, "the loss and its logits", "8-bit states"),
    ),
    Rival(
        name="torch-preflight",
        distribution="torch-preflight",
        version="0.5.0",
        total="its breakdown without context and fragmentation; reserved: without the context",
        mapping=(
            "its cost model of config.json with the true counts of parameters and of trained ones;"
            " pure bfloat16, and automatic mixed precision for float32 weights; FSDP as ZeRO-3"
        ),
        lacks=(KERNELS, "4-bit weights", "rank and targets but for how many train"),
        calibrated="its coefficients were measured by its author on small models",
    ),
    Rival(
        name="accelerate",
        distribution="accelerate",
        version="1.15.0",
        pins=TORCH,
        total="the largest of its training stages, for both quantities",
        mapping=(
            "what `estimate-memory` works out, of the empty model that it makes of config.json;"
            " float16 for bfloat16, float32 for float32"
        ),
        lacks=(KERNELS, CARDS, "adapters", "batch and length", "checkpointing", "optimizers"),
    ),
)

LOOKED_AT = {
    "alloc 0.0.16, gpu-estimator 0.2.0, llm-analysis 0.2.2, DeepSpeed's `estimate_zero*`": (
        "price no adapters"
    ),
    "hf-mem, llm-mem, llm-mem-planner, llm-resource-planner, cfit, model-vram-calc": (
        "price inference, or weights alone"
    ),
    "loggetta 0.7.0, streamft, memopro, tinyforge": "plan for runtimes of their own",
    "Unsloth Studio, gpu_poor, apxml and other calculators on the web": "are not on PyPI",
    "AgileRL's memory module": (
        "is in a pull request, beside fixtures that are kept apart from this project"
    ),
    "SimuMax 1.2": "is not on PyPI, and prices no adapters",
}
"""What else was looked at, and why it is not asked."""
