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
            "auto is SDPA with the kernel that torch would take; flash_attention_2 is the"
            " package's, which is told of a sliding window and gets no mask of it.",
            group="attention",
            words="{} attention",
            alternatives=("flash_attention_2",),
            unknown="the attention implementation",
        ),
    )
    loss: Loss = field(
        default="plain",
        metadata=option(
            "plain: all logits at once, as transformers; chunked: a few tokens at a time; fused: as"
            " Liger's kernel; trl, torchtune, torchtune-chunked, litgpt: as those trainers; cce:"
            " cut cross-entropy, as axolotl's plugin; triton: gradients written over the logits, as"
            " Liger's cross_entropy.",
            added=1,
            metavar="NAME",
            group="optimizer",
            tip="plain: all logits at once; chunked: a few tokens at a time; fused: as Liger's"
            " kernel; trl, torchtune, torchtune-chunked, litgpt: as those trainers; cce: cut"
            " cross-entropy; triton: gradients over the logits, as Liger's cross_entropy.",
            words="{} loss",
            heading="{} loss",
            alternatives=("fused",),
            unknown="the loss",
        ),
    )
    label_smoothing_factor: float = field(
        default=0.0,
        metadata=option(
            "As transformers' Trainer: the loss is made of all logits by its LabelSmoother.",
            added=6,
            at_least=0,
            below=1,
            group="optimizer",
            label="Label smoothing",
            tip="Of transformers' Trainer, which makes the loss of all logits by its"
            " LabelSmoother.",
            words="label smoothing {}",
            heading="label smoothing {}",
        ),
    )
    hold_outputs: bool = field(
        default=False,
        metadata=option(
            "The loop keeps the model's output, logits among it, until the next forward pass has"
            " returned: out = model(...).",
            added=5,
            group="optimizer",
            label="Outputs held",
            alternatives=(True,),
            unknown="whether the loop keeps the outputs",
            tip="The loop keeps the model's output, logits among it, until the next forward pass"
            " has returned.",
            words="outputs held|outputs dropped",
            heading="outputs held",
        ),
    )
    loop_state: LoopState = field(
        default="none",
        metadata=option(
            "What the loop itself keeps on the card: transformers' Trainer keeps labels apart from"
            " the input ids, a padding collator's attention mask, a running loss and the norm of"
            " gradients, and the 8-bit optimizers' states of embeddings in 32 bit; unmasked: with"
            " default_data_collator, which makes no mask.",
            added=15,
            is_open=True,
            group="optimizer",
            label="Kept by the loop",
            tip="transformers: labels apart from the ids, an attention mask, a running loss, the"
            " norm of gradients; 8-bit optimizers' states of embeddings in 32 bit.",
            words="{}'s loop",
        ),
    )
    kernels: Kernels = field(
        default="transformers",
        metadata=option(
            "liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding; use_liger_kernel=True adds"
            " --loss fused. foak: RMSNorm and rotary embedding of fms-acceleration's plugin."
            " torchtune, litgpt: their own models, whose attention copies grouped heads."
            " litgpt-2024, litgpt-2023: LitGPT's own model of those years.",
            added=4,
            group="attention",
            tip="liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding; foak: RMSNorm and"
            " rotary embedding of fms-acceleration's plugin.",
            words="{} kernels",
            heading="{} kernels",
            alternatives=("liger",),
            unknown="the kernels",
        ),
    )
    transformers: Transformers = field(
        default="5",
        metadata=option(
            "Version whose code runs. Before 5 an expert is a layer of its own; 4.48 copies the"
            " float32 logits to shift them; 4.45 casts them in the head, and its flash attention"
            " repeats Mistral's grouped heads.",
            added=14,
            group="attention",
            tip="Version whose code runs: what its loss holds, whether an expert is a layer of its"
            " own, what attention copies.",
            words="transformers {}",
            heading="transformers {}",
            alternatives=("4.57", "4.48", "4.45"),
            unknown="the version of transformers",
        ),
    )
    world_size: int = field(
        default=1,
        metadata=option(
            "Ranks that train together, a batch each.",
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
            "What the ranks share of the model: zero1 is torch's ZeroRedundancyOptimizer,"
            " zero1-deepspeed, zero2 and zero3 are DeepSpeed's, of one rank too; fsdp1 is FSDP as"
            " torch had it first, of flat parameters, whose layers run in bfloat16 under"
            " --precision amp.",
            added=2,
            group="ranks",
            tip="What ranks that train together share of the model; each has a batch of its own.",
            words="{}",
            heading="{} over {ranks}",
        ),
    )
    reduce_bucket_size: int = field(
        default=500_000_000,
        metadata=option(
            "Elements of DeepSpeed's bucket of gradients, with zero1-deepspeed, zero2 and zero3.",
            metavar="N",
            added=13,
            largest=2**40,
            group="ranks",
            label="Reduce bucket, elements",
            tip="Of DeepSpeed's ZeRO: elements that its buffer of gradients has room"
            " for, its own default unless a file says otherwise.",
            words="reduce bucket {}",
            heading="reduce bucket {}",
        ),
    )
    offload_params: bool = field(
        default=False,
        metadata=option(
            "FSDP's shards, their gradients and optimizer states stay in the host's memory, where"
            " the optimizer steps: CPUOffloadPolicy, or CPUOffload of FSDP1.",
            added=31,
            group="ranks",
            label="Shards on the host",
            tip="FSDP's shards, their gradients and optimizer states stay in the host's memory,"
            " where the optimizer steps.",
            words="shards on the host|shards on the device",
            heading="shards on the host",
        ),
    )
    use_orig_params: bool = field(
        default=True,
        metadata=option(
            "use_orig_params of FSDP1, which transformers' Trainer sets: a layer's weights stay"
            " parameters of their own. Off, as in PEFT's guide, they are one flat parameter alone,"
            " and adapters run in the format that they are gathered in.",
            added=36,
            group="ranks",
            label="FSDP1's own parameters",
            tip="use_orig_params of FSDP1: off, PEFT casts no input to the adapters' float32.",
            words="use_orig_params|flat parameters alone",
        ),
    )
    offload_optimizer_device: OffloadDevice = field(
        default="none",
        metadata=option(
            "Where DeepSpeed's ZeRO keeps float32 weights and optimizer states, and step:"
            " offload_optimizer of its file.",
            noun="offload_optimizer device",
            added=39,
            group="ranks",
            label="Optimizer kept on",
            tip="Of DeepSpeed's ZeRO: where float32 weights and states wait, and the"
            " optimizer steps.",
            words="optimizer offloaded: {}",
            heading="optimizer offloaded to {}",
        ),
    )
    offload_param_device: OffloadDevice = field(
        default="none",
        metadata=option(
            "Where zero3 keeps a rank's part of the weights until they are gathered: offload_param"
            " of DeepSpeed's file.",
            noun="offload_param device",
            added=40,
            group="ranks",
            label="Weights kept on",
            tip="Of DeepSpeed's zero3: where a rank's part of the weights waits.",
            words="weights offloaded: {}",
            heading="weights offloaded to {}",
        ),
    )
    context_parallel_size: int = field(
        default=1,
        metadata=option(
            "Ranks that have a part of each sequence, beside --sharding fsdp: torch's"
            " context_parallel, as accelerate's ParallelismConfig(cp_size) runs it.",
            metavar="N",
            added=43,
            largest=MAX_WORLD_SIZE,
            group="ranks",
            label="Ranks that share a sequence",
            tip="torch's context_parallel, as accelerate's ParallelismConfig(cp_size) runs it.",
            words="context parallelism of {}",
            heading="context parallelism of {}",
        ),
    )
    padding: float = field(
        default=0.0,
        metadata=option(
            "Share of each sequence that is padding: batches padded to their longest have an"
            " attention mask.",
            metavar="SHARE",
            added=7,
            at_least=0,
            below=1,
            is_open=True,
            group="batch",
            label="Padding, share of a sequence",
            tip="Batches padded to their longest sequence have an attention mask; any share above 0"
            " means that.",
            words="padding {}",
            heading="padded",
            alternatives=(0.05,),
            unknown="padding",
        ),
    )
    eval_batch_size: int | None = field(
        default=None,
        metadata=option(
            "Sequences in one batch of evaluation between steps (per_device_eval_batch_size).",
            metavar="N",
            default_text="no evaluation while training",
            noun="evaluation batch size",
            added=8,
            group="batch",
            label="Evaluation batch",
            tip="Sequences of one batch of evaluation between steps, 8 in transformers unless asked"
            " otherwise.",
            placeholder="no evaluation while training",
            words="evaluation batch {}",
            heading="evaluating batches of {}",
        ),
    )
    generation_batch_size: int | None = field(
        default=None,
        metadata=option(
            "Completions that transformers' generate makes at once between steps, as GRPO:"
            " per_device_train_batch_size x steps_per_generation.",
            metavar="N",
            default_text="none; batch x accumulation by --trainer trl-grpo",
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
            "Tokens of --seq-len that are generated, the rest being the prompt.",
            metavar="N",
            default_text="prompts may be as long as --seq-len",
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
            "vLLM makes GRPO's completions, and transformers' generate none.",
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
            "What GRPO's reference weighs: above 0 it runs beside, the model with its adapters"
            " switched off, or a frozen copy of one that trains in full.",
            added=33,
            at_least=0,
            group="batch",
            label="Beta of GRPO",
            tip="Above 0 a reference runs beside: the model with its adapters switched off, or a"
            " frozen copy.",
            words="beta {}",
            heading="beta {}",
        ),
    )
    images: int | None = field(
        default=None,
        metadata=option(
            "Images in each sequence, of a model that sees; their tokens are part of --seq-len.",
            metavar="N",
            default_text="text alone",
            noun="number of images",
            added=24,
            group="batch",
            label="Images in a sequence",
            tip="Of a model that sees; their tokens are part of the sequence.",
            placeholder="text alone",
            words="{} images",
            heading="images: {} of {image_size} a sequence",
        ),
    )
    image_size: str = field(
        default="1024x768",
        metadata=option(
            "Pixels of each image before the model's own processor resizes it.",
            metavar="WIDTHxHEIGHT",
            noun="image size",
            added=24,
            group="batch",
            label="Image size, pixels",
            tip="Width x height before the model's own processor resizes it.",
            words="images of {}",
        ),
    )
    freeze: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "Parts of a model that sees which neither train nor take adapters, as LLaMA-Factory's"
            " freeze_vision_tower: vision_tower, multi_modal_projector, language_model.",
            metavar="PART,...",
            default_text="what the method trains trains",
            added=29,
            group="batch",
            label="Frozen with images",
            tip="Parts which neither train nor take adapters: vision_tower, multi_modal_projector,"
            " language_model.",
            placeholder="none; or vision_tower",
            words="frozen {}",
            heading="frozen: {}",
        ),
    )
    device: Device = field(
        default="cuda", metadata=option("Whose memory rules hold.", group="attention", words="{}")
    )
