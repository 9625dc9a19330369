"""What an answer takes for granted, and what is set that the ledger does not follow to the byte, in
words."""

from lora_profiler._common.polynomial import Values
from lora_profiler.memory.analytic.families import unmodelled
from lora_profiler.memory.analytic.losses import ChunkedHead
from lora_profiler.memory.analytic.plan import Plan
from lora_profiler.question.feature import part
from lora_profiler.question.gpu_platform import CUDA_RULES
from lora_profiler.question.kernel_set import of_set
from lora_profiler.question.loop import loop_facts, of_loop
from lora_profiler.question.loss import CORE, loss_facts
from lora_profiler.question.support.check import (
    BY_ROWS,
    STOPPED,
    omissions,
    rules_unsupported_reason,
)
from lora_profiler.question.support.generations import version_words
from lora_profiler.question.support.library_memory import evaluation_words, generation_words
from lora_profiler.question.support.losses import OUTPUTS_HELD, SMOOTHED, loss_words
from lora_profiler.question.support.offloading import ON_NVME, PINNED, PINNED_BY_DEEPSPEED
from lora_profiler.question.support.packing import rows_words
from lora_profiler.question.support.sdpa import kernel_words
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    FLAT,
    FULLY_SHARDED,
    TrainSetup,
    Workload,
)

_SHARED = {
    "ddp": (
        "One of several equal ranks under DDP; its buckets are as large as the gradients, which are"
        " no views of them (gradient_as_bucket_view=False)."
    ),
    "zero1": "The rank with the largest optimizer state, under DDP with ZeroRedundancyOptimizer.",
    "zero1-deepspeed": (
        "The largest rank under DeepSpeed's ZeRO-1. It has all weights, whole gradients until"
        " backward ends, and one bucket for them. Its part has a float32 copy in optimizer state. A"
        " second bucket of overlap_comm is left out."
    ),
    "zero2": (
        "The largest rank under DeepSpeed's ZeRO-2. It has all weights, and one bucket of"
        " gradients, copied while it is reduced. Its part has a float32 copy in optimizer state. A"
        " second bucket of overlap_comm is left out."
    ),
    "zero3": (
        "Each rank under DeepSpeed's ZeRO-3 with its defaults: weights up to 100,000 elements stay"
        " whole. Of the others about a billion elements are gathered at once"
        " (stage3_max_live_parameters). Its part has a float32 copy in optimizer state."
    ),
    "tp": (
        "Rank 0 under transformers' tensor parallelism: its part of heads, MLP and vocabulary,"
        " whole norms; the optimizer steps what is cut and what is whole as two groups."
    ),
    "fsdp": (
        "Rank 0, which holds no less than another, under FSDP2 with every decoder layer a unit;"
        " gradients are reduced after every micro-batch."
    ),
    "fsdp1": (
        "A rank under FSDP1 with torch's defaults: each decoder layer and adapter tensor is a flat"
        " parameter. The next layer is fetched ahead in backward. With --precision amp float32"
        " weights"
        " are gathered in bfloat16."
    ),
    "fsdp1-no-prefetch": (
        "A rank under FSDP1 as in accelerate: each decoder layer and adapter tensor is a flat"
        " parameter. None is fetched ahead. With --precision amp float32 weights are gathered in"
        " bfloat16."
    ),
    "fsdp-no-reshard": (
        "Rank 0, the largest, under FSDP2: each decoder layer is a unit, kept whole from forward to"
        " backward. Gradients are reduced after every micro-batch."
    ),
}
"""How the ranks share, in words."""


def is_unchecked(setup: TrainSetup) -> bool:
    """Whether the sharding's rule was held against no trace."""
    return setup.sharding in FLAT and setup.loss != "plain"


def doubts(plan: Plan, setup: TrainSetup) -> list[str]:
    """What is set that the ledger does not follow to the byte, a sentence each."""
    model, lora, loss = plan.workload.model, setup.lora, setup.loss
    evaluates = setup.eval_batch_size is not None
    is_dealt = setup.sharding in DEEPSPEED_ZERO
    words = plan.forward.logits.elements.evaluate(1, 1, 1) if plan.forward else 0
    own = part("losses", loss, "", "doubts")
    of_kernels = of_set(setup.kernels, "doubts")
    loop, of_its_loop = loop_facts(setup.loop_state), of_loop(setup.loop_state, "doubts")
    apply = {
        **(of_kernels(plan.workload) if of_kernels else {}),
        "Activations of LoRA on an embedding are not modelled.": (
            any(a.kind == "Embedding" for a in plan.adapters)
        ),
        "Adapters on packed experts under autocast: saved bytes were off by up to 1 KiB on small"
        " models.": (setup.autocast_dtype and any(a.parameter is not None for a in plan.adapters)),
        # Linear4bit.forward: self.bias.data = self.bias.data.to(x.dtype)
        "bitsandbytes copies biases that FSDP gathered in another format. The copies are left out:"
        " 0.1 % of OPT-6.7B's peak after k-bit preparation.": (
            setup.quantization is not None
            and setup.sharding in FULLY_SHARDED
            and any(
                m.is_linear and len(m.weights) > 1
                for name, m in model.modules()
                if name != model.output_embedding
            )
        ),
        "Adapters on experts that are layers of their own: what A makes is counted for more tokens"
        " than take the expert.": any(".experts." in a.module for a in plan.adapters),
        # masks' copies are left out: it was 6 % too low in a tiny model of packed rows
        "SDPA's math kernel with a mask is not exact (packed rows, padding, sliding"
        " window).": plan.masks_in_math,
        "Evaluation with this loss is not checked. It is predicted as the training pass, with label"
        " smoothing as the plain loss.": (
            evaluates and (loss not in CORE or setup.label_smoothing_factor > 0)
        ),
        "No trace of evaluation under this sharding was held against its rule.": (
            evaluates and setup.sharding in FULLY_SHARDED
        ),
        "Liger's loss with a trained copy of the head needed 380 bytes more in a rehearsal.": (
            loss == "fused" and setup.accumulation > 1 and lora and lora.modules_to_save
        ),
        **(own(plan.workload) if own else {}),
        "Unsloth compiles these layers; they are counted operator by"
        " operator.": setup.compiles_layers,
        **(of_its_loop(setup) if of_its_loop else {}),
        "GRPO's completions with vLLM were not checked against a run.": (
            setup.use_vllm and loop.corrects_generated
        ),
        "Between steps GRPO is taken to keep batch x accumulation completions.": (
            loop.generates and setup.generation_batch_size is not None
        ),
        "The loss was held against traces of transformers' model under FSDP2; torchtune and LitGPT"
        " shard models of their own, LitGPT by FSDP1.": (
            loss_facts(loss).after_forward and setup.sharding in FULLY_SHARDED
        ),
        f"No run of {setup.loop_state}'s loop was held against context parallelism.": (
            setup.context_parallel_size > 1 and setup.loop_state != "none"
        ),
        "No run of a quantised base was held against context parallelism.": (
            setup.context_parallel_size > 1 and setup.quantization is not None
        ),
        "On the CPU some tensors of one number, 8 B each, are counted and not there.": (
            setup.sharding == "tp" and setup.device == "cpu"
        ),
        "With an uneven vocabulary the last rank's padded logits are counted, other padding is"
        " not.": setup.sharding == "tp" and words % setup.world_size,
        "Persistent tensors are DeepSpeed 0.19.8's to the byte. Temporary ones follow its source,"
        " rehearsed with the plain loss only.": is_dealt,
        "No trace and no measurement of this sharding was held against its rule.": (
            not is_dealt and is_unchecked(setup)
        ),
        f"The rules of {setup.device} are those of CUDA, unchecked.": (
            setup.device in ("mps", "xpu")
        ),
    }
    return [
        *(f"The config's {name} is not modelled." for name in unmodelled(model)),
        *omissions(setup),
        *(sentence for sentence, applies in apply.items() if applies),
    ]


def assumptions(workload: Workload, plan: Plan, at: Values) -> tuple[str, ...]:
    """What the answer takes for granted, a sentence each."""
    setup = workload.setup
    sentences = [
        "Bytes that live tensors request; allocator rounding, workspaces and the CUDA context are"
        " extra."
    ]
    if plan.forward is None:
        whose = rules_unsupported_reason(setup) or f"model type {workload.model.model_type}"
        sentences.append(
            f"Activations of {whose} are not known to this engine; the peak is a lower bound."
            " Parameters, gradients and optimizer states are exact. Measure the rest with one"
            " step on a"
            " GPU: torch.cuda.max_memory_allocated()."
        )
        return tuple(sentences)
    sentences.append(rows_words(setup, plan.kernel_text))
    sentences += (*evaluation_words(workload), *generation_words(setup))
    if setup.is_shared:
        sentences += [_SHARED[setup.sharding], *[PINNED] * setup.offload_params]
        if setup.sharding == "tp" and any(a.module.endswith(BY_ROWS) for a in plan.adapters):
            sentences.append(STOPPED)
        sentences += [PINNED_BY_DEEPSPEED] * setup.offloads_by_deepspeed
        sentences += [ON_NVME] * (
            "nvme" in (setup.offload_optimizer_device, setup.offload_param_device)
        )
    if setup.context_parallel_size > 1:
        sentences.append(
            f"torch's context_parallel over {setup.context_parallel_size} ranks, as in accelerate:"
            f" {setup.rank_seq_len:,} tokens of each sequence per rank, keys and values gathered."
            " This is rank 0. Others need up to 2.5 times its queries more in attention's forward"
            " pass. With cuDNN they need 1.5 times in backward."
        )
    if setup.precision == "fsdp-mixed":
        sentences.append(
            "MixedPrecisionPolicy(param_dtype=bfloat16): trained shards are float32; they are"
            " gathered,"
            " computed and reduced in bfloat16, as accelerate does under FSDP2."
        )
    sentences += version_words(workload)
    if setup.label_smoothing_factor:
        sentences.append(SMOOTHED)
    if setup.hold_outputs:
        sentences.append(OUTPUTS_HELD)
    if words := loss_words(setup):
        sentences.append(words)
    elif isinstance(plan.forward.chunks, ChunkedHead):
        rows = plan.forward.chunks.rows.evaluate(*at)
        sentences.append(
            f"The {setup.loss} loss makes the logits of {rows:,} tokens at a time, as measuring"
            " does; other code for it may hold other copies."
        )
    sentences += kernel_words(workload, plan.kernels)
    if setup.device == "cuda":
        sentences.append(CUDA_RULES)
    converts = setup.label_smoothing_factor > 0 or loss_facts(setup.loss).of_all_logits
    if setup.autocast_dtype and not converts:
        sentences.append(
            f"Autocast to {setup.autocast_dtype} covers the forward pass alone; logits are not"
            " converted to float32 afterwards."
        )
    return (*sentences, *doubts(plan, setup))
