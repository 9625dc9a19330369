"""Every option of how a model is trained, declared once: here, and in `step_options`."""

from dataclasses import dataclass, field

from lora_profiler.option import option
from lora_profiler.option_values import (
    MAX_WORLD_SIZE,
    Attention,
    Device,
    Kernels,
    LoopState,
    Loss,
    OffloadDevice,
    Sharding,
    Transformers,
)
from lora_profiler.question.step_options import StepOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(StepOptions):
    """The fields of `TrainSetup`, whose docstring says what they mean."""

    attention: Attention = field(
        default="auto",
        metadata=option(
            "auto: SDPA with torch's choice of kernel; flash_attention_2: the flash-attn package",
            group="attention",
            words="{} attention",
            alternatives=("flash_attention_2",),
            unknown="the attention implementation",
        ),
    )
    loss: Loss = field(
        default="plain",
        metadata=option(
            "plain: all logits at once; chunked: in pieces; fused: Liger's; others: see "
            "`lora-profile options loss`",
            added=1,
            metavar="NAME",
            group="optimizer",
            words="{} loss",
            heading="{} loss",
            alternatives=("fused",),
            unknown="the loss",
        ),
    )
    label_smoothing_factor: float = field(
        default=0.0,
        metadata=option(
            "label smoothing, as in transformers' Trainer",
            added=6,
            at_least=0,
            below=1,
            group="optimizer",
            label="Label smoothing",
            words="label smoothing {}",
            heading="label smoothing {}",
        ),
    )
    hold_outputs: bool = field(
        default=False,
        metadata=option(
            "the loop keeps the model output until the next forward pass",
            added=5,
            group="optimizer",
            label="Keep model output",
            alternatives=(True,),
            unknown="whether the loop keeps the outputs",
            words="outputs held|outputs dropped",
            heading="outputs held",
        ),
    )
    loop_state: LoopState = field(
        default="none",
        metadata=option(
            "which trainer's loop, with the tensors that it keeps; unmasked: no attention mask",
            added=15,
            is_open=True,
            group="optimizer",
            label="Loop state",
            words="{}'s loop",
        ),
    )
    kernels: Kernels = field(
        default="transformers",
        metadata=option(
            "liger: Liger-Kernel; foak: fms-acceleration; others: the model code of that trainer",
            added=4,
            group="attention",
            words="{} kernels",
            heading="{} kernels",
            alternatives=("liger",),
            unknown="the kernels",
        ),
    )
    transformers: Transformers = field(
        default="5",
        metadata=option(
            "transformers version; older ones copy logits or split experts",
            added=14,
            group="attention",
            words="transformers {}",
            heading="transformers {}",
            alternatives=("4.57", "4.48", "4.45"),
            unknown="the version of transformers",
        ),
    )
    world_size: int = field(
        default=1,
        metadata=option(
            "number of GPUs (ranks), each with its own batch",
            added=2,
            largest=MAX_WORLD_SIZE,
            group="ranks",
            label="Ranks",
            tip="",
            words="{} ranks",
        ),
    )
    sharding: Sharding = field(
        default="none",
        metadata=option(
            "zero1: torch's ZeroRedundancyOptimizer; zero1-deepspeed, zero2, zero3: "
            "DeepSpeed; fsdp1: FSDP with flat parameters; tp: tensor parallel",
            added=2,
            group="ranks",
            words="{}",
            heading="{} over {ranks}",
        ),
    )
    reduce_bucket_size: int = field(
        default=500_000_000,
        metadata=option(
            "DeepSpeed ZeRO: elements per gradient bucket",
            metavar="N",
            added=13,
            largest=2**40,
            group="ranks",
            label="Reduce bucket, elements",
            words="reduce bucket {}",
            heading="reduce bucket {}",
        ),
    )
    offload_params: bool = field(
        default=False,
        metadata=option(
            "FSDP: offload shards, gradients and optimizer state to CPU",
            added=31,
            group="ranks",
            label="Shards on CPU",
            words="shards on the host|shards on the device",
            heading="shards on the host",
        ),
    )
    use_orig_params: bool = field(
        default=True,
        metadata=option(
            "FSDP1: use_orig_params, on in transformers' Trainer",
            added=36,
            group="ranks",
            label="Original parameters (FSDP1)",
            words="use_orig_params|flat parameters alone",
        ),
    )
    offload_optimizer_device: OffloadDevice = field(
        default="none",
        metadata=option(
            "DeepSpeed offload_optimizer: none, cpu, nvme",
            noun="offload_optimizer device",
            added=39,
            group="ranks",
            label="Optimizer offload",
            words="optimizer offloaded: {}",
            heading="optimizer offloaded to {}",
        ),
    )
    offload_param_device: OffloadDevice = field(
        default="none",
        metadata=option(
            "DeepSpeed offload_param with zero3: none, cpu, nvme",
            noun="offload_param device",
            added=40,
            group="ranks",
            label="Weight offload",
            words="weights offloaded: {}",
            heading="weights offloaded to {}",
        ),
    )
    context_parallel_size: int = field(
        default=1,
        metadata=option(
            "GPUs per sequence with --sharding fsdp: torch's context_parallel",
            metavar="N",
            added=43,
            largest=MAX_WORLD_SIZE,
            group="ranks",
            label="Context-parallel ranks",
            words="context parallelism of {}",
            heading="context parallelism of {}",
        ),
    )
    padding: float = field(
        default=0.0,
        metadata=option(
            "padded share of each sequence; any adds an attention mask",
            metavar="SHARE",
            added=7,
            at_least=0,
            below=1,
            is_open=True,
            group="batch",
            label="Padding share",
            words="padding {}",
            heading="padded",
            alternatives=(0.05,),
            unknown="padding",
        ),
    )
    eval_batch_size: int | None = field(
        default=None,
        metadata=option(
            "sequences per evaluation batch between steps",
            metavar="N",
            default_text="no evaluation",
            noun="evaluation batch size",
            added=8,
            group="batch",
            label="Evaluation batch size",
            placeholder="no evaluation while training",
            words="evaluation batch {}",
            heading="evaluating batches of {}",
        ),
    )
    generation_batch_size: int | None = field(
        default=None,
        metadata=option(
            "GRPO: completions that transformers generates at once",
            metavar="N",
            default_text="none",
            noun="generation batch size",
            added=21,
            group="batch",
            label="Completions at once",
            placeholder="no generation while training",
            words="generating {} at once",
            heading="generating {} completions at once",
        ),
    )
    max_completion_length: int | None = field(
        default=None,
        metadata=option(
            "GRPO: generated tokens; the rest of --seq-len is the prompt",
            metavar="N",
            default_text="any prompt length",
            noun="completion length",
            added=22,
            group="batch",
            label="Tokens generated",
            placeholder="prompts may fill the sequence",
            words="completions of {}",
            heading="completions of {}",
        ),
    )
    use_vllm: bool = field(
        default=False,
        metadata=option(
            "GRPO: vLLM makes the completions",
            added=34,
            group="batch",
            label="Completions by vLLM",
            words="completions by vLLM|completions by generate",
            heading="completions by vLLM",
        ),
    )
    beta: float = field(
        default=0.0,
        metadata=option(
            "GRPO: weight of the reference model; above 0 it runs too",
            added=33,
            at_least=0,
            group="batch",
            label="GRPO beta",
            words="beta {}",
            heading="beta {}",
        ),
    )
    images: int | None = field(
        default=None,
        metadata=option(
            "images per sequence; only vision-language models",
            metavar="N",
            default_text="text only",
            noun="number of images",
            added=24,
            group="batch",
            label="Images per sequence",
            placeholder="text alone",
            words="{} images",
            heading="images: {} of {image_size} a sequence",
        ),
    )
    image_size: str = field(
        default="1024x768",
        metadata=option(
            "image size in pixels, before the model's processor",
            metavar="WIDTHxHEIGHT",
            noun="image size",
            added=24,
            group="batch",
            label="Image size, pixels",
            words="images of {}",
        ),
    )
    freeze: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "frozen: vision_tower, multi_modal_projector, language_model",
            metavar="PART,...",
            default_text="none",
            added=29,
            group="batch",
            label="Frozen parts",
            placeholder="none; or vision_tower",
            words="frozen {}",
            heading="frozen: {}",
        ),
    )
    device: Device = field(
        default="cuda",
        metadata=option("device to model: cuda, cpu, mps, xpu", group="attention", words="{}"),
    )
