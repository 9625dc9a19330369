"""How a model is trained: what its options amount to, and which do not go together."""

from dataclasses import dataclass, replace

from lora_profiler.loss import loss_facts
from lora_profiler.option import check_options
from lora_profiler.option_values import (
    AXOLOTL,
    DEEPSPEED_ZERO,
    FLAT,
    GRPO,
    Dtype,
    Method,
    Precision,
)
from lora_profiler.question.checks import check_together
from lora_profiler.question.train_options import TrainOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup(TrainOptions):
    """How the model is trained. `lora=None` is full fine-tuning; `quantization` needs LoRA and
    makes it QLoRA.

    `batch_size` is the micro-batch, `seq_len` its padded length in tokens. `dtype` is that of the
    base weights; `precision` "amp" runs the forward pass under bfloat16 autocast, "amp-float16"
    under float16's, with the loss scaled. `checkpointing` is one segment a layer, non-reentrant
    without `use_reentrant`; `offload_checkpoints` is Unsloth's reentrant kind, whose layers' inputs
    wait on the host; with `offload_activations` everything that layers keep does, as TRL's
    OffloadActivations moves it, and with `offload_embedding` the embedding does, as Unsloth's.

    `loss` is how the loss comes from the last hidden state: "plain" makes all logits and then
    cross-entropy, as transformers does; "chunked" makes the logits of a few tokens at a time, and
    again in backward; "fused" computes the gradient with the loss, chunk by chunk, as Liger's
    kernel does; "trl" is the tiled head of TRL's trainers, "torchtune" and "torchtune-chunked" are
    torchtune's LinearCrossEntropyLoss and CEWithChunkedOutputLoss, "litgpt" is LitGPT's loss, "cce"
    cut cross-entropy, "unsloth" Unsloth's fused one, the names with "-dpo" are of pairs,
    and "triton" a kernel that writes the gradient over all logits, as Liger's `cross_entropy`.
    With `label_smoothing_factor` above 0 it is transformers' `LabelSmoother` that
    makes it of all logits. `hold_outputs` is of a loop that writes `out = model(...)`: the output,
    all logits among it where there are any, lives until the next one takes its name; without it the
    loop keeps the loss alone. `world_size` is the number of ranks, each with a batch of its own,
    and `sharding` what they share of the model; `context_parallel_size` of them share a batch, each
    with a part of every sequence of `seq_len`.

    `packed` is the length in tokens of the sequences that are packed into each row of `seq_len`,
    the last one of a row cut where it ends; None, or a row no longer than that, for one sequence a
    row. `padding` is the share of each sequence that is padding: memory only knows whether there is
    any, which brings an attention mask. `eval_batch_size` sequences are evaluated between steps;
    None for no evaluation while training. `kernels` "liger" are Liger-Kernel's RMSNorm, SwiGLU and
    rotary embedding in place of transformers' own; its loss is `loss` "fused". "foak" are the norm
    and rotary embedding of fms-acceleration's plugin of that name, which are Unsloth's. "torchtune"
    and "litgpt" are their own models as far as these differ in attention, rotary tables and tied
    heads, "litgpt-2024" and "litgpt-2023" LitGPT's of those years with bitsandbytes 0.42 and 0.41,
    and "unsloth" Unsloth's forward pass, which lays rows end to end.
    `transformers` is the version whose own code runs: its loss, its attention around the kernel,
    its experts.

    `freeze` are parts of a model that sees, images given, which neither train nor take adapters.
    `qat` puts torchao's fake-quantised layers in place of linear ones; `qat_group_size` weights
    share a scale in int4.

    Raises UsageError for values out of range and for options that contradict each other.

    Examples:
        >>> from lora_profiler import TrainSetup
        >>> TrainSetup(seq_len=512).method
        'full'
    """

    def __post_init__(self) -> None:
        check_options(self)
        check_together(self)

    @property
    def as_held(self) -> "TrainSetup":
        """The setup in the formats that a rank holds weights in: DeepSpeed makes adapters as narrow
        as the base, and what was prepared in float32 beside 4 bit."""
        if self.lora is None or self.sharding not in DEEPSPEED_ZERO:
            return self
        base = self.quantization and replace(self.quantization, recipe="stock")
        return replace(self, quantization=base, lora=replace(self.lora, adapter_dtype=self.dtype))

    @property
    def is_shared(self) -> bool:
        """Whether somebody deals the model out, to several ranks or, as DeepSpeed does, to one."""
        return self.world_size > 1 or self.sharding in DEEPSPEED_ZERO

    @property
    def batches_at_once(self) -> int:
        """Micro-batches that the ranks take at the same time: one each, or one together."""
        return 1 if self.sharding == "tp" else self.world_size // self.context_parallel_size

    @property
    def rank_seq_len(self) -> int:
        """Tokens of a sequence that a rank has: under context parallelism two pieces, one from each
        half, of a sequence padded to so many that all are equal (torch
        `tensor/experimental/_context_parallel/_load_balancer.py`, _HeadTailLoadBalancer)."""
        ranks = self.context_parallel_size
        return self.seq_len if ranks == 1 else -(-self.seq_len // (2 * ranks)) * 2

    @property
    def of_one_process(self) -> "TrainSetup":
        """The setup of a process alone whose forward and backward pass are a rank's: what FSDP
        gathers in bfloat16 is bfloat16 there."""
        held = self.as_held
        lora, base = held.lora, held.quantization
        is_lowered = self.precision == "fsdp-mixed" or self.has_wide_shards
        if lora is not None and (self.precision == "fsdp-mixed" or self._hides_adapters):
            lora, is_lowered = replace(lora, adapter_dtype="bfloat16"), True
        if base is not None and self.precision == "fsdp-mixed":
            base = replace(base, recipe="stock")  # what was prepared in float32 is gathered low
        return replace(
            held,
            lora=lora,
            quantization=base,
            world_size=1,
            sharding="none",
            dtype="bfloat16" if is_lowered else self.dtype,
            precision="pure" if is_lowered and not self.gathers_adapters_low else self.precision,
        )

    @property
    def method(self) -> Method:
        if self.lora is None:
            return "full"
        return "lora" if self.quantization is None else "qlora"

    @property
    def completions_at_once(self) -> int:
        """Completions that transformers' generate makes at once between steps, 0 for none: in
        GRPO's loop those of a whole optimizer step unless a number is given (TRL 1.16
        `grpo_config.py`, steps_per_generation)."""
        if self.use_vllm:
            return 0
        if self.generation_batch_size is None and self.loop_state in GRPO:
            return self.batch_size * self.accumulation
        return self.generation_batch_size or 0

    @property
    def runs_reference(self) -> bool:
        """Whether a reference runs beside what trains, without a gradient (TRL 1.16
        `dpo_trainer.py`, `kto_trainer.py`, and `grpo_trainer.py` with a beta)."""
        reads_its_logits = loss_facts(self.loss).has_reference
        compares = self.loop_state in ("trl-dpo", "trl-kto", "unsloth-dpo")
        return reads_its_logits or compares or self.beta > 0

    @property
    def passes_beside(self) -> int:
        """Forward passes without a gradient: the reference's, and of KTO both models' over answers
        that belong to other prompts (TRL 1.16 `kto_trainer.py`, _compute_kl_logps)."""
        return 3 if self.loop_state == "trl-kto" else int(self.runs_reference)

    @property
    def is_by_litgpt(self) -> bool:
        """Whether the model is LitGPT's own, of whatever year."""
        return self.kernels in ("litgpt", "litgpt-2024", "litgpt-2023")

    @property
    def is_litgpt_2023(self) -> bool:
        """Whether LitGPT's own model runs, with the bitsandbytes of its time."""
        return self.kernels == "litgpt-2023"

    @property
    def has_flat_units(self) -> bool:
        return self.sharding in FLAT

    @property
    def has_wide_shards(self) -> bool:
        """Whether layers run in bfloat16 over shards in float32, as accelerate sets FSDP's mixed
        precision (`utils/dataclasses.py`, set_mixed_precision)."""
        return self.has_flat_units and self.precision == "amp" and self.dtype == "float32"

    @property
    def gathers_adapters_low(self) -> bool:
        """Whether FSDP1 gathers float32 adapters in bfloat16, so that autocast copies none, while
        PEFT sees the dtype of their shards."""
        is_low = self.has_flat_units and self.precision == "amp" and self.lora is not None
        return is_low and self.use_orig_params

    @property
    def _hides_adapters(self) -> bool:
        """Whether PEFT sees adapters as FSDP1 gathers them, in bfloat16 (without use_orig_params a
        module's weight is the view of what was gathered last, torch
        `distributed/fsdp/_flat_param.py`, _use_unsharded_views)."""
        return self.has_flat_units and self.precision == "amp" and not self.use_orig_params

    @property
    def autocast_dtype(self) -> Dtype | None:
        """What products and attention run in, whatever their inputs are; None without autocast."""
        lowered: dict[Precision, Dtype] = {"amp": "bfloat16", "amp-float16": "float16"}
        return lowered.get(self.precision)

    @property
    def lowered_dtype(self) -> Dtype | None:
        """The same, also where FSDP gathers weights in 16 bit; None where they are used as they
        are."""
        return "bfloat16" if self.precision == "fsdp-mixed" else self.autocast_dtype

    @property
    def needs_bfloat16(self) -> bool:
        """Whether weights, adapters or what products take are in it."""
        trl = self.quantization is not None and self.quantization.recipe == "trl"
        adapters = self.lora is not None and (trl or self.lora.adapter_dtype == "bfloat16")
        return "bfloat16" in (self.dtype, self.lowered_dtype) or adapters

    @property
    def is_reentrant(self) -> bool:
        """Whether layers are checkpointed, by the reentrant kind, which Unsloth's offloaded one
        is."""
        requested = self.use_reentrant or self.offload_checkpoints
        return self.checkpointing and requested and not self.checkpoints_plainly

    @property
    def checkpoints_plainly(self) -> bool:
        """Whether checkpoints are transformers' own, which are not reentrant and move nothing: TRL
        switches these on where Unsloth's GRPO has generated (TRL 1.9 `models/utils.py`,
        unwrap_model_for_generation; rehearsed)."""
        return self.loop_state == "unsloth-grpo" and not self.use_vllm

    @property
    def offloads(self) -> bool:
        """Whether anything is kept in the host's memory."""
        moves = self.offload_checkpoints or self.offload_activations or self.offload_embedding
        return moves or self.offload_params or self.offloads_by_deepspeed

    @property
    def offloads_by_deepspeed(self) -> bool:
        """Whether DeepSpeed keeps weights or the optimizer elsewhere."""
        return (self.offload_optimizer_device, self.offload_param_device) != ("none", "none")

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several sequences."""
        return self.packed is not None and self.packed < self.seq_len

    @property
    def is_padded(self) -> bool:
        """Whether batches have an attention mask that leaves tokens out."""
        return self.padding > 0

    @property
    def padded_tokens(self) -> int:
        """Tokens of each sequence that are padding, at least one where there is any."""
        return max(1, round(self.seq_len * self.padding)) if self.is_padded else 0

    @property
    def is_flattened(self) -> bool:
        """Whether rows become one, without a mask: FlashAttention 2 is told where packed sequences
        begin (`cu_seqlens`), and Unsloth where rows do."""
        taken = self.attention == "flash" or self.is_flash_attention_2
        return self.is_padding_free or (self.is_packed and taken and self.device == "cuda")

    @property
    def has_input_gradients(self) -> bool:
        """Whether the embeddings' output is made to require a gradient though they do not train:
        where layers are checkpointed, and by axolotl always (067b021, `loaders/adapter.py`,
        load_adapter)."""
        requested = self.checkpointing or self.loop_state in AXOLOTL
        return self.lora is not None and requested

    @property
    def has_wide_ends(self) -> bool:
        """Whether norms, embeddings and head are in float32 beside linear layers in 16 bit, as
        axolotl has them in full fine-tuning over SDPA or eager attention (067b021,
        `loaders/model.py`, _configure_embedding_dtypes); DeepSpeed makes all alike."""
        return (
            self.loop_state in AXOLOTL
            and self.lora is None
            and self.precision == "amp"
            and self.dtype != "float32"
            and not self.is_flash_attention_2
            and not loss_facts(self.loss).narrow_head
            and self.sharding in ("none", "ddp", "zero1")
        )

    @property
    def has_wide_routers(self) -> bool:
        """Whether modules named gate, which are routers, are in float32 beside adapters and a base
        in 16 or 4 bit, as axolotl has them where no FSDP is (as above)."""
        return (
            self.loop_state in AXOLOTL
            and self.lora is not None
            and self.precision == "amp"
            and self.dtype != "float32"
            and self.sharding in ("none", "ddp", "zero1")
        )

    @property
    def is_padding_free(self) -> bool:
        """Whether rows are laid end to end whatever is packed, as Unsloth's trainers do but that of
        DPO (2026.10.9, `trainer.py`, padding_free; `models/rl_replacements.py`,
        UNSLOTH_GRPO_SEQ_PACKING)."""
        is_unpadded = self.kernels == "unsloth" and not self.is_padded and self.device == "cuda"
        return is_unpadded and self.loop_state != "unsloth-dpo"

    @property
    def compiles_layers(self) -> bool:
        """Whether Unsloth's layers are compiled, each as one region, which they are where nothing
        tells them of sequences (2026.10.9, `models/_block_compile.py`)."""
        return self.kernels == "unsloth" and not self.is_padding_free

    @property
    def is_flash_attention_2(self) -> bool:
        return self.attention == "flash_attention_2"
