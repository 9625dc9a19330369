"""Every option of how a model is trained, declared once."""

from dataclasses import dataclass, field

from lora_profiler.question.lora_config import LoraConfig, Quantization
from lora_profiler.question.option import (
    MAX_WORLD_SIZE,
    UNMODELLED_OPTIMIZERS,
    Attention,
    Device,
    Dtype,
    Kernels,
    LoopState,
    Loss,
    OffloadDevice,
    Optimizer,
    OptimizerImpl,
    Precision,
    Qat,
    Sharding,
    Transformers,
    option,
)


@dataclass(frozen=True, slots=True, kw_only=True, init=False, repr=False, eq=False)
class StepOptions:
    """The first fields of `TrainSetup`, whose docstring says what they mean."""

    lora: LoraConfig | None = None
    batch_size: int = field(
        default=1,
        metadata=option(
            "sequences per micro-batch",
            short="-b",
            common=True,
            is_open=True,
            group="batch",
            words="batch {}",
        ),
    )
    seq_len: int = field(
        default=2048,
        metadata=option(
            "tokens per sequence",
            short="-s",
            common=True,
            noun="sequence length",
            is_open=True,
            group="batch",
            label="Sequence length, tokens",
            tip="",
            alternatives=lambda options: (max(1, options["seq_len"] // 2),),
            unknown="the lengths of samples",
            words="{} tokens",
        ),
    )
    packed: int | None = field(
        default=None,
        metadata=option(
            "mean tokens per packed sequence; rows are --seq-len long",
            metavar="TOKENS",
            noun="packed length",
            added=3,
            group="batch",
            label="Packed sequences, tokens each",
            placeholder="one sequence a row",
            words="packed from {}",
        ),
    )
    accumulation: int = field(
        default=1,
        metadata=option(
            "micro-batches per optimizer step",
            is_open=True,
            group="batch",
            tip="",
            words="accumulation {}",
        ),
    )
    dtype: Dtype = field(
        default="bfloat16",
        metadata=option(
            "base weight dtype: float32, bfloat16, float16",
            group="optimizer",
            label="Base dtype",
            alternatives=("float32", "bfloat16"),
            unknown="the weights' dtype",
            words="{}",
        ),
    )
    precision: Precision = field(
        default="pure",
        metadata=option(
            "pure; amp: bfloat16 autocast; amp-float16: with loss scaling; fsdp-mixed: FSDP "
            "gathers in bfloat16",
            group="optimizer",
            words="{}",
            alternatives=("pure", "amp"),
            unknown="mixed precision",
        ),
    )
    quantization: Quantization | None = None
    qat: Qat = field(
        default="none",
        metadata=option(
            "quantisation-aware training by torchao; names give the formats of inputs and weights",
            noun="quantisation-aware training",
            added=30,
            group="optimizer",
            label="Quantisation-aware training",
            words="{} fake-quantised",
            heading="{} fake-quantised",
        ),
    )
    qat_group_size: int = field(
        default=32,
        metadata=option(
            "weights per int4 scale; always 128 in fp8-int4",
            metavar="N",
            noun="group size",
            added=30,
            group="optimizer",
            label="QAT group size",
            words="groups of {}",
        ),
    )
    optimizer: Optimizer = field(
        default="adamw",
        metadata=option(
            "adamw, adamw_8bit, lion, adafactor, ...",
            unmodelled=tuple(UNMODELLED_OPTIMIZERS.items()),
            common=True,
            metavar="NAME",
            group="optimizer",
            tip="",
            words="{}",
        ),
    )
    optimizer_rank: int = field(
        default=128,
        metadata=option(
            "rank of projected gradients in GaLore and APOLLO",
            metavar="N",
            noun="optimizer rank",
            added=23,
            group="optimizer",
            label="Projection rank",
            words="gradients of rank {}",
        ),
    )
    optimizer_impl: OptimizerImpl = field(
        default="foreach",
        metadata=option(
            "foreach (default on CUDA), fused, forloop",
            noun="optimizer implementation",
            group="optimizer",
            label="Optimizer kernels",
            alternatives=("foreach", "fused"),
            unknown="the optimizer's implementation",
            words="{}",
        ),
    )
    optimizer_in_bwd: bool = field(
        default=False,
        metadata=option(
            "optimizer steps in backward, as in torchtune",
            added=25,
            group="optimizer",
            label="Optimizer step in backward",
            words="steps in backward|steps after backward",
            heading="steps in backward",
        ),
    )
    checkpointing: bool = field(
        default=False,
        metadata=option(
            "recompute activations in backward",
            common=True,
            group="batch",
            label="Gradient checkpointing",
            words="checkpointing|no checkpointing",
        ),
    )
    use_reentrant: bool = field(
        default=False,
        metadata=option(
            "reentrant checkpointing, the Trainer's default before transformers 5",
            added=14,
            group="batch",
            label="Reentrant checkpointing",
            alternatives=(True, False),
            unknown="the kind of checkpointing",
            words="reentrant|non-reentrant",
        ),
    )
    offload_checkpoints: bool = field(
        default=False,
        metadata=option(
            "offload checkpointed inputs to CPU, as in Unsloth",
            added=25,
            group="batch",
            label="Checkpoints on CPU",
            words="offloaded checkpoints|checkpoints on the device",
            heading="checkpoints on the host",
        ),
    )
    offload_activations: bool = field(
        default=False,
        metadata=option(
            "offload saved activations to CPU, as in TRL, axolotl and torchtune",
            added=32,
            group="batch",
            label="Activations on CPU",
            words="offloaded activations|activations on the device",
            heading="activations on the host",
        ),
    )
    offload_embedding: bool = field(
        default=False,
        metadata=option(
            "keep the embedding in CPU memory, as in Unsloth",
            added=35,
            group="batch",
            label="Embedding on CPU",
            words="embedding on the host|embedding on the device",
            heading="embedding on the host",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, init=False, repr=False, eq=False)
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
