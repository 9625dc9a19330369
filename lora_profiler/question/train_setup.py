"""How a model is trained: what its options amount to, and which do not go together."""

import re
from dataclasses import dataclass, replace

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import (
    DEEPSPEED_ZERO,
    FLAT,
    FROZEN_PARTS,
    FULLY_SHARDED,
    WHOLE_WEIGHTS,
    Dtype,
    Method,
    Precision,
    check_options,
)
from lora_profiler.question.train_options import TrainOptions

_IMAGE_SIZE = r"[1-9]\d{0,4}x[1-9]\d{0,4}"


def check_together(setup: "TrainSetup") -> None:
    """Raises UsageError for options that contradict each other."""
    if setup.world_size > 1 and setup.sharding == "none":
        raise UsageError(
            f"{setup.world_size} GPUs need a sharding; add `--sharding ddp` or `fsdp`."
        )
    if not re.fullmatch(_IMAGE_SIZE, setup.image_size):
        raise UsageError(
            f"image size is {setup.image_size[:40]!r}; write width and height in pixels, as in"
            " 1024x768."
        )
    if setup.freeze:
        _check_frozen(setup)
    if setup.world_size == 1 and setup.sharding not in ("none", *DEEPSPEED_ZERO):
        raise UsageError(
            f"--sharding {setup.sharding} needs several GPUs; add `--world-size 2` or more."
        )
    if setup.has_flat_units and not loss_facts(setup.loss).takes_flat_units:
        raise UsageError(
            f"--loss {setup.loss} is not modelled under FSDP1; use --loss plain, fused or triton,"
            " or --sharding fsdp."
        )
    if setup.label_smoothing_factor and setup.loss != "plain":
        raise UsageError(
            f"--loss {setup.loss} and --label-smoothing-factor exclude each other; label smoothing"
            " needs all logits. Leave out one of them."
        )
    if setup.label_smoothing_factor and setup.transformers != "5":
        raise UsageError(
            "label smoothing is modelled for transformers 5 only; leave out one of --transformers"
            " and --label-smoothing-factor."
        )
    if setup.completions_at_once and setup.sharding not in WHOLE_WEIGHTS:
        raise UsageError(
            "generation is modelled with whole weights on each GPU; use --sharding ddp, or"
            " --use-vllm."
        )
    for flag, is_given in (("--beta", setup.beta > 0), ("--use-vllm", setup.use_vllm)):
        if is_given and not loop_facts(setup.loop_state).generates:
            raise UsageError(
                f"{flag} needs GRPO; use --trainer trl-grpo or unsloth-grpo, or leave {flag} out."
            )
    if setup.use_vllm and setup.generation_batch_size is not None:
        raise UsageError(
            "--use-vllm and --generation-batch-size exclude each other; leave out one of them."
        )
    if setup.optimizer_in_bwd:
        _check_in_backward(setup)
    if setup.quantization is not None and setup.lora is None:
        raise UsageError("a quantised base cannot be trained in full; use --method qlora.")
    facts = optimizer_facts(setup.optimizer)
    if setup.optimizer_impl == "fused" and not facts.has_fused:
        raise UsageError(
            f"{setup.optimizer} has no fused implementation; leave --optimizer-impl out."
        )
    lora = setup.lora
    if facts.matrices_alone and (
        lora is None
        or lora.modules_to_save
        or lora.use_dora
        or not adapter_method(lora.peft_type).matrices
    ):
        raise UsageError(
            "torch's Muon updates matrices only, not norms, biases, DoRA or VeRA vectors; use"
            " --method lora without --modules-to-save, --use-dora and VeRA, or another"
            " --optimizer."
        )
    if facts.whole_weights_alone and (lora is not None or setup.sharding not in ("none", "ddp")):
        raise UsageError(
            f"{setup.optimizer} is modelled with whole weights only; use --method full, with"
            " --sharding none or ddp."
        )
    if facts.b_alone and (
        lora is None
        or lora.use_dora
        or lora.fast_lora
        or lora.peft_type != "lora"
        or setup.sharding not in ("none", "ddp")
    ):
        raise UsageError(
            "PEFT's LoRA-FA trains B of plain LoRA; use --method lora or qlora, with --sharding"
            " none or ddp."
        )
    if setup.precision == "amp" and setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            "DeepSpeed's bf16 casts the weights and uses no autocast. Try: `--dtype bfloat16"
            " --precision pure`"
        )
    if setup.precision == "amp-float16":
        _check_scaled(setup)
    if setup.precision == "fsdp-mixed":
        _check_gathered_in_bfloat16(setup)
    if facts.matrices_alone and setup.sharding in DEEPSPEED_ZERO:
        raise UsageError(
            "torch's Muon cannot update DeepSpeed's flat gradients; use another --sharding or"
            " --optimizer."
        )
    half = setup.dtype != "float32" or setup.precision != "pure"
    if setup.is_flash_attention_2 and setup.device != "cuda":
        raise UsageError("FlashAttention 2 runs on CUDA only; use another --attention or --device.")
    if (
        setup.attention in ("flash", "cudnn", "flash_attention_2")
        and setup.device != "cpu"
        and not half
    ):
        raise UsageError(
            f"--attention {setup.attention} does not support float32; use a 16-bit --dtype,"
            " --precision amp, or --attention efficient."
        )


def _check_frozen(setup: "TrainSetup") -> None:
    unknown = next((part for part in setup.freeze if part not in FROZEN_PARTS), None)
    if unknown is not None:
        raise UsageError(
            f"--freeze: unknown part {unknown[:40]!r}.{did_you_mean(unknown, FROZEN_PARTS)}"
            f" Supported: {', '.join(FROZEN_PARTS)}"
        )
    if setup.images is None:
        raise UsageError(
            "--freeze needs a vision-language model with images; add --images N, or leave it out."
        )
    if {*setup.freeze} == {*FROZEN_PARTS}:
        raise UsageError("nothing is left to train; leave a part out of --freeze.")
    lora = setup.lora
    if lora is not None and (
        adapter_method(lora.peft_type).shared or "language_model" in setup.freeze
    ):
        raise UsageError(
            "adapters can leave out the vision tower and the projector only, and not with VeRA;"
            " name the adapted layers with --targets."
        )


def _check_scaled(setup: "TrainSetup") -> None:
    """torch's GradScaler, without which gradients vanish in float16, scales those in float32 alone
    (torch `amp/grad_scaler.py`, _unscale_grads_)."""
    lora, base = setup.lora, setup.quantization
    is_trl = base is not None and base.recipe == "trl"
    saved = lora is not None and lora.modules_to_save and setup.dtype != "float32"
    if lora is None and setup.dtype != "float32":
        raise UsageError(
            "torch cannot unscale 16-bit gradients under float16 autocast; use --dtype float32, or"
            " --method lora."
        )
    if lora is not None and (lora.adapter_dtype != "float32" or is_trl or saved):
        raise UsageError(
            "torch cannot unscale 16-bit gradients under float16 autocast; use --adapter-dtype"
            " float32, no --recipe trl, and --modules-to-save with --dtype float32 only."
        )
    if setup.sharding not in ("none", "ddp", "fsdp", "fsdp-no-reshard"):
        raise UsageError(
            "float16 autocast is modelled for one process, DDP and FSDP2; use --precision amp, or"
            " another --sharding."
        )


def _check_in_backward(setup: "TrainSetup") -> None:
    if setup.world_size > 1:
        raise UsageError(
            "--optimizer-in-bwd is modelled for one GPU; leave it out, or --world-size and"
            " --sharding."
        )
    if setup.accumulation > 1:
        raise UsageError(
            "--optimizer-in-bwd frees each gradient at once, so accumulation must be 1. Try:"
            " `--accumulation 1`"
        )
    if setup.precision == "amp-float16":
        raise UsageError(
            "--precision amp-float16 and --optimizer-in-bwd exclude each other; a scaled loss keeps"
            " its gradients. Leave out one of them."
        )
    is_foreach = setup.optimizer == "adamw" and setup.optimizer_impl != "fused"
    steps = optimizer_facts(setup.optimizer).steps_in_backward
    if is_foreach or not (steps or setup.optimizer == "adamw"):
        raise UsageError(
            "--optimizer-in-bwd is modelled with fused AdamW, SGD and bitsandbytes' optimizers; use"
            " one of them, or leave it out."
        )


def _check_gathered_in_bfloat16(setup: "TrainSetup") -> None:
    if setup.sharding not in FULLY_SHARDED or setup.sharding in FLAT:
        raise UsageError(
            "--precision fsdp-mixed needs FSDP; add --sharding fsdp, or use --precision amp."
        )
    lora = setup.lora
    if setup.quantization is not None:
        if setup.dtype != "bfloat16":
            raise UsageError(
                "FSDP's mixed precision would convert packed weights that are not bfloat16; use"
                " --dtype bfloat16, or --precision pure or amp."
            )
        return  # accelerate widens nothing beside a 4-bit base (fsdp_utils.py)
    if lora is None or lora.modules_to_save:
        is_wide = setup.dtype == "float32"
    else:
        is_wide = setup.dtype != "float16"
    if not is_wide or (lora is not None and lora.adapter_dtype != "float32"):
        raise UsageError(
            "FSDP's mixed precision keeps trained weights in float32; use --dtype float32 (bfloat16"
            " for adapters only) and --adapter-dtype float32."
        )


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
    kernel does; the others are folders of `features/losses/`. With `label_smoothing_factor` above 0
    it is transformers' `LabelSmoother` that makes it of all logits. `hold_outputs` is of a loop
    that writes `out = model(...)`: the output, all logits among it where there are any, lives until
    the next one takes its name; without it the loop keeps the loss alone. `world_size` is the
    number of ranks, each with a batch of its own, and `sharding` what they share of the model;
    `context_parallel_size` of them share a batch, each with a part of every sequence of `seq_len`.

    `packed` is the length in tokens of the sequences that are packed into each row of `seq_len`,
    the last one of a row cut where it ends; None, or a row no longer than that, for one sequence a
    row. `padding` is the share of each sequence that is padding: memory only knows whether there is
    any, which brings an attention mask. `eval_batch_size` sequences are evaluated between steps;
    None for no evaluation while training. `kernels` are those, or the whole model, that
    run in place of transformers' own, folders of `features/kernels/`. `transformers` is the version
    whose own code runs: its loss, its attention around the kernel, its experts.

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
        if self.generation_batch_size is None and loop_facts(self.loop_state).generates:
            return self.batch_size * self.accumulation
        return self.generation_batch_size or 0

    @property
    def runs_reference(self) -> bool:
        """Whether a reference runs beside what trains, without a gradient (TRL 1.16
        `dpo_trainer.py`, `kto_trainer.py`, and `grpo_trainer.py` with a beta)."""
        reads_its_logits = loss_facts(self.loss).has_reference
        compares = loop_facts(self.loop_state).compares
        return reads_its_logits or compares or self.beta > 0

    @property
    def scores_at_once(self) -> bool:
        """Whether the reference scores all completions of a step in one pass."""
        return loop_facts(self.loop_state).scores_step and self.beta > 0

    @property
    def returns_all_hidden_states(self) -> bool:
        """Whether the model tells all layers' outputs until its pass is over, as the loop asks for
        and its own model does."""
        return loop_facts(self.loop_state).returns_all and kernel_set(self.kernels).unpadded

    @property
    def passes_beside(self) -> int:
        """Forward passes without a gradient: the reference's, and what a loop runs beside it."""
        return loop_facts(self.loop_state).passes_beside if self.runs_reference else 0

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
        """Whether checkpoints are transformers' own, which are not reentrant and move nothing."""
        return loop_facts(self.loop_state).plain_checkpoints and not self.use_vllm

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
        where layers are checkpointed, and by some loops always."""
        requested = self.checkpointing or loop_facts(self.loop_state).input_gradients
        return self.lora is not None and requested

    @property
    def has_wide_ends(self) -> bool:
        """Whether norms, embeddings and head are in float32 beside linear layers in 16 bit, as
        axolotl has them in full fine-tuning over SDPA or eager attention (067b021,
        `loaders/model.py`, _configure_embedding_dtypes); DeepSpeed makes all alike."""
        return (
            loop_facts(self.loop_state).widens
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
            loop_facts(self.loop_state).widens
            and self.lora is not None
            and self.precision == "amp"
            and self.dtype != "float32"
            and self.sharding in ("none", "ddp", "zero1")
        )

    @property
    def is_padding_free(self) -> bool:
        """Whether rows are laid end to end whatever is packed."""
        is_unpadded = not self.is_padded and self.device == "cuda"
        return (
            is_unpadded
            and kernel_set(self.kernels).unpadded
            and not loop_facts(self.loop_state).pads
        )

    @property
    def compiles_layers(self) -> bool:
        """Whether Unsloth's layers are compiled, each as one region, which they are where nothing
        tells them of sequences (2026.10.9, `models/_block_compile.py`)."""
        return kernel_set(self.kernels).unpadded and not self.is_padding_free

    @property
    def is_flash_attention_2(self) -> bool:
        return self.attention == "flash_attention_2"
