"""What an answer takes for granted, and what is set that the ledger does not follow to the byte, in
words."""

from lora_profiler.algebra.polynomial import Values
from lora_profiler.analytic.families import unmodelled
from lora_profiler.analytic.losses import ChunkedHead
from lora_profiler.analytic.plan import Plan
from lora_profiler.option_values import GRPO, OVER_ALL_LOGITS, SCORED
from lora_profiler.platform import CUDA_RULES
from lora_profiler.support.engines import omissions, rules_unsupported_reason
from lora_profiler.support.evaluation import evaluation_words, generation_words
from lora_profiler.support.generations import version_words
from lora_profiler.support.liger import ASSUMPTION
from lora_profiler.support.losses import (
    AFTER_FORWARD,
    LOSS_WORDS,
    OUTPUTS_HELD,
    OWN_LOSSES,
    SCORED_WORDS,
    SMOOTHED,
)
from lora_profiler.support.offloading import ON_NVME, PINNED, PINNED_BY_DEEPSPEED
from lora_profiler.support.packing import rows_words
from lora_profiler.support.sdpa import kernel_words
from lora_profiler.support.tensor_parallel import BY_ROWS, STOPPED
from lora_profiler.workload import DEEPSPEED_ZERO, FLAT, FULLY_SHARDED, TrainSetup, Workload

_SHARED = {
    "ddp": (
        "One of several equal ranks under DDP; its buckets are as large as the gradients, which are"
        " no views of them (gradient_as_bucket_view=False)."
    ),
    "zero1": "The rank whose optimizer holds most, under DDP with ZeroRedundancyOptimizer.",
    "zero1-deepspeed": (
        "The rank that holds most under DeepSpeed's ZeRO-1: all weights in the model's format, a"
        " float32 copy of its part among optimizer states, whole gradients until backward is over,"
        " and one bucket through which they go then; a second one with overlap_comm left out."
    ),
    "zero2": (
        "The rank that holds most under DeepSpeed's ZeRO-2: all weights in the model's format, a"
        " float32 copy of its part among optimizer states, one bucket of gradients through"
        " backward, and a copy of what it holds while that is reduced; a second one with"
        " overlap_comm left out."
    ),
    "zero3": (
        "Each rank under DeepSpeed's ZeRO-3 with its defaults: weights of up to 100,000 elements"
        " stay whole, of the others about a billion elements is gathered at once"
        " (stage3_max_live_parameters); a float32 copy of its part is among optimizer states."
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
        "A rank under FSDP1 with torch's defaults, every decoder layer a flat parameter, as is each"
        " tensor of an adapter, the next layer fetched ahead in backward; with --precision amp what"
        " trains in float32 is gathered in bfloat16."
    ),
    "fsdp1-no-prefetch": (
        "A rank under FSDP1 as accelerate wraps it, every decoder layer a flat parameter, as is"
        " each tensor of an adapter, none fetched ahead; with --precision amp what trains in"
        " float32 is gathered in bfloat16."
    ),
    "fsdp-no-reshard": (
        "Rank 0, which holds no less than another, under FSDP2 with every decoder layer a unit,"
        " kept whole from forward to backward; gradients are reduced after every micro-batch."
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
    apply = {
        "torchtune's Gemma 2 asked for 0.09 % more when torchtune itself was rehearsed: its own"
        " attention, and a cap on the hidden state, are answered as transformers' eager.": (
            setup.kernels == "torchtune" and model.model_type == "gemma2"
        ),
        "Activations of LoRA on an embedding are not modelled.": (
            any(a.kind == "Embedding" for a in plan.adapters)
        ),
        "Adapters on packed experts under autocast: saved bytes were off by up to 1 KiB on small"
        " models.": (setup.autocast_dtype and any(a.parameter is not None for a in plan.adapters)),
        # Linear4bit.forward: self.bias.data = self.bias.data.to(x.dtype)
        "Where their format is not that of a 4-bit layer's input, bitsandbytes puts copies in place"
        " of the biases that FSDP gathered, which stay; they are left out (0.1 % of OPT-6.7B's peak"
        " after k-bit preparation).": (
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
        "SDPA's math kernel with a mask, of packed rows, padding or a filled sliding window, is not"
        " followed to the byte.": plan.masks_in_math,
        "Evaluation with this loss is counted as its training pass (a trainer's own) or as the"
        " plain loss (label smoothing), and was held against no trace.": (
            evaluates and (loss in OWN_LOSSES or setup.label_smoothing_factor > 0)
        ),
        "No trace of evaluation under this sharding was held against its rule.": (
            evaluates and setup.sharding in FULLY_SHARDED
        ),
        "Liger's loss with a copied head that trains, over several micro-batches: the one rehearsal"
        " of it asked for 380 bytes more.": (
            loss == "fused" and setup.accumulation > 1 and lora and lora.modules_to_save
        ),
        "Unsloth compiles code of its own for this model, answered as transformers' own: its SFT of"
        " Gemma 3, rehearsed, asked for 1 to 3 % less, and for 18 % less where layers hold the"
        " peak; of Phi-4-mini for 4.5 % more.": loss == "unsloth" and setup.kernels != "unsloth",
        "Unsloth's loss with an embedding and a head that train: the one rehearsal of it asked for"
        " 4 bytes less.": loss == "unsloth" and lora is not None and lora.modules_to_save,
        "What topk takes for itself is as torch's source has it, of many tokens.": (
            loss == "llamafactory-eaft"
        ),
        "What TRL has of a prompt beside the answers, 16 B a token, is left out.": (
            loss in ("axolotl-dpo", "trl-orpo")
        ),
        "Unsloth compiles these layers, each as one region, which are counted as it runs them one"
        " operator at a time.": setup.compiles_layers,
        "Prompts' tokens are counted as if they were scored.": setup.loop_state == "unsloth-dpo",
        "A prompt is counted with each of its completions; where that makes 1.3 times the tokens"
        " Unsloth runs it once for all, but in the first step. Where the model itself has"
        " generated, layers' inputs stay on the card, and a workspace of BLAS more.": (
            setup.loop_state == "unsloth-grpo" and not setup.use_vllm
        ),
        "No run beside vLLM was held against what GRPO keeps for its completions.": (
            setup.use_vllm and setup.loop_state == "trl-grpo"
        ),
        "Between steps GRPO is taken to keep batch x accumulation completions.": (
            setup.loop_state in GRPO and setup.generation_batch_size is not None
        ),
        "The loss was held against traces of transformers' model under FSDP2; torchtune and LitGPT"
        " shard models of their own, LitGPT by FSDP1.": (
            loss in AFTER_FORWARD and setup.sharding in FULLY_SHARDED
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
        "Of words that ranks do not share evenly the last rank's padded copy of logits is counted,"
        " other padding is not.": setup.sharding == "tp" and words % setup.world_size,
        "What lives through the step is DeepSpeed 0.19.8's to the byte; what it holds for a while"
        " follows its source, and was rehearsed with the plain loss alone.": is_dealt,
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
        "Bytes that live tensors ask for; allocator rounding, workspaces and the CUDA context come"
        " on top."
    ]
    if plan.forward is None:
        whose = rules_unsupported_reason(setup) or f"model type {workload.model.model_type}"
        sentences.append(
            f"Activations of {whose} are not known to this engine:"
            " parameters, gradients and optimizer states are exact, the peak is a lower bound. One"
            " real step on a GPU tells the rest: torch.cuda.max_memory_allocated()."
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
            f"torch's context_parallel over {setup.context_parallel_size} ranks, as accelerate and"
            f" transformers' Trainer run it by default: {setup.rank_seq_len:,} tokens of each"
            " sequence a rank, keys and values gathered. It is rank 0; by torch's source another"
            " has up to two and a half times its queries more while attention runs forward, and"
            " with cuDNN's one and a half times in backward."
        )
    if setup.precision == "fsdp-mixed":
        sentences.append(
            "MixedPrecisionPolicy(param_dtype=bfloat16): what trains is float32 on its shards,"
            " gathered, computed and reduced in bfloat16, as accelerate makes it under FSDP2."
        )
    if setup.kernels == "liger":
        sentences.append(ASSUMPTION)
    sentences += version_words(workload)
    if setup.label_smoothing_factor:
        sentences.append(SMOOTHED)
    if setup.hold_outputs:
        sentences.append(OUTPUTS_HELD)
    if setup.loss in LOSS_WORDS:
        is_scored = setup.loss == "unsloth" and setup.loop_state in SCORED
        sentences.append(SCORED_WORDS if is_scored else LOSS_WORDS[setup.loss])
    elif isinstance(plan.forward.chunks, ChunkedHead):
        rows = plan.forward.chunks.rows.evaluate(*at)
        sentences.append(
            f"The {setup.loss} loss makes the logits of {rows:,} tokens at a time, as measuring"
            " does; other code for it may hold other copies."
        )
    sentences += kernel_words(workload, plan.kernels)
    if setup.device == "cuda":
        sentences.append(CUDA_RULES)
    converts = setup.label_smoothing_factor > 0 or setup.loss in OVER_ALL_LOGITS
    if setup.autocast_dtype and not converts:
        sentences.append(
            f"Autocast to {setup.autocast_dtype} covers the forward pass alone; logits are not"
            " converted to float32 afterwards."
        )
    return (*sentences, *doubts(plan, setup))
