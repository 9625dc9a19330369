"""The instants on which a peak can fall: live bytes of each, by category, as polynomials in batch,
sequence and rank.

Exact by construction: setup, end_of_forward, loss_backward, optimizer_step. What happens inside the
last and the first layers (`layer_moments.py`) is worked out by `liveness.py`, and an estimate.
"""

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.memory.analytic.activations import Activations, loss_of, moved_leaf_bytes
from lora_profiler.memory.analytic.candidates import Moments, candidate, merged, with_communication
from lora_profiler.memory.analytic.cut_layers import parted_bytes
from lora_profiler.memory.analytic.families import Family
from lora_profiler.memory.analytic.layer_moments import inside_layers
from lora_profiler.memory.analytic.loss_moments import loss_candidates
from lora_profiler.memory.analytic.losses import SCALAR, ChunkedHead
from lora_profiler.memory.analytic.optimizers import step_temporary_candidates, total_state_bytes
from lora_profiler.memory.analytic.persistent import adapter_buffer_bytes, stable_embedding_bytes
from lora_profiler.memory.analytic.sharding import ShardState
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.prediction import Category
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.feature import part
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loop import loop_facts, of_loop
from lora_profiler.question.support.bases import base_of
from lora_profiler.question.support.library_memory import (
    batch_columns,
    code_book_bytes,
    copies_adapters,
    has_reference,
    loop_scalar_bytes,
    pass_columns,
    pass_scalar_bytes,
    scaler_holds,
)
from lora_profiler.question.support.offloading import is_offloaded
from lora_profiler.question.support.packing import lengths
from lora_profiler.question.workload import TrainSetup, Workload

_LENGTH_BYTES = 4
"""Of an int32."""
_FLOAT32, _COUNT = 4, 8


def moments(
    forward: ForwardPass, kept: Activations, shards: ShardState, family: Family, workload: Workload
) -> Moments:
    """Steady-state live bytes at every moment; `inputs` are the token ids, which live through the
    step; of packed rows and padded sequences what else
    comes with the batch."""
    setup, state = workload.setup, shards.state
    gradients = state.gradient_bytes
    uncleared = stable_embedding_bytes(workload.model, setup)
    scaler = scaler_holds(setup)
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes * (1 + copies_adapters(setup)),
        "buffers": constant(
            buffer_bytes(family, workload) * (1 + has_reference(setup))
            + code_book_bytes(setup)
            + scaler.lasting
        )
        + checkpoint_buffer_bytes(forward, workload),
        "gradients": (gradients if shards.gradients_stay else ZERO) + uncleared,
        "optimizer_states": total_state_bytes(shards.stepped.trainable, setup) + shards.masters,
        "inputs": ZERO,
    }
    left = forward.scale_bytes + long_frequency_bytes(family, workload)
    if left != ZERO:
        base["activations"] = left
    base = with_communication(base, shards.always)
    held = held_outputs(forward, setup)
    setup_moment = candidate(merged(base, held))
    base["inputs"] = input_bytes(setup) + completion_bytes(setup)
    accumulated = gradients if setup.accumulation > 1 or shards.gradients_stay else ZERO
    summed = constant(SCALAR if setup.accumulation > 1 else 0)  # losses of micro-batches
    output = _logits_held(forward, setup) + summed
    if setup.hold_outputs and setup.accumulation > 1 and not setup.label_smoothing_factor:
        output = output + SCALAR  # the loss before it is divided
    of_pass: dict[Category, Polynomial] = {
        "inputs": constant(pass_scalar_bytes(setup)) + _boundary_bytes(setup) + parted_bytes(setup)
    }
    in_pass = merged(base | {"gradients": accumulated + uncleared}, of_pass)
    beside_batch = _put_together_bytes(setup)
    begun = merged(in_pass | {"logits_and_loss": summed}, {"inputs": beside_batch})
    ahead = merged(begun, held)
    running = merged(in_pass, {"logits_and_loss": output + scaler.backward})
    if pass_columns(setup):  # trained embeddings keep the ids that were put together for the pass
        running = merged(running, {"inputs": kept.ids})

    # the loss lets reentrant checkpoints' arguments go no sooner than itself
    in_graph = kept.held - moved_leaf_bytes(forward, workload) if setup.is_reentrant else ZERO
    returned = begun if kernel_set(setup.kernels).keeps_logits else None
    in_loss = loss_candidates(forward, kept, shards, ahead, running, setup, returned)
    given = gradients if shards.stepped_gradients is None else shards.stepped_gradients
    if setup.optimizer_in_bwd:
        given = ZERO
    step = [
        candidate(
            base | {"gradients": constant(uncleared)},
            gradients=given,
            activations=_leaf_bytes(forward, setup) + in_graph,
            logits_and_loss=output + SCALAR + scaler.step,
            temporaries=t,
        )
        for t in step_temporary_candidates(shards.at_once or shards.stepped, setup)
    ]
    return {
        "setup": (setup_moment,),
        "end_of_forward": in_loss[0],
        "loss_backward": in_loss[1],
        "optimizer_step": tuple(step),
        **inside_layers(forward, kept, shards, ahead, running, workload),
    }


def checkpoint_buffer_bytes(forward: ForwardPass, workload: Workload) -> Polynomial:
    """Two buffers, to which layers' inputs come back from the host; each as long as one of them,
    those of GRPO's scoring pass over a whole step too, and made when the first is moved."""
    if not is_offloaded(workload):
        return ZERO
    size, setup = forward.layers[0].run.input.bytes * 2, workload.setup
    return size.of_batches(setup.accumulation) if setup.scores_at_once else size


def held_outputs(forward: ForwardPass, setup: TrainSetup) -> dict[Category, Polynomial]:
    """What a loop that holds the output of the last forward pass still has of it, until the next
    one has returned. No dropped loss lets its leaf go."""
    if not setup.hold_outputs:
        return {}
    loss = 0 if setup.label_smoothing_factor else SCALAR  # which is not the model's then
    return {
        "activations": _leaf_bytes(forward, setup) + _kept_inputs(forward, setup),
        "logits_and_loss": _logits_held(forward, setup) + loss,
    }


def _kept_inputs(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """Of packed products whose nodes keep their inputs past backward, and live as long as the
    logits that come of them."""
    base = base_of(setup)
    if base is None or not base.keeps_past_backward:
        return ZERO
    size = forward.layers[0].run.output.bytes  # the head's
    for layer in forward.layers:
        kept = {t for node in layer.run.nodes if node.op == "packed" for t in node.saved}
        size = size + total(storage.bytes for storage in kept) * len(layer.indices)
    return size


def _logits_held(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """Bytes of the logits in the output that the loop holds; in chunks there are never all of
    them."""
    if not setup.hold_outputs:
        return ZERO
    loss = loss_of(forward, setup)
    return ZERO if isinstance(loss, ChunkedHead) else loss.output


def _leaf_bytes(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """The gradient of a leaf that is no parameter stays, and with it the leaf, until the loss is
    dropped."""
    if forward.leaf is None or not kernel_set(setup.kernels).makes_leaf:
        return ZERO
    return forward.leaf.bytes * 2


def input_bytes(setup: TrainSetup) -> Polynomial:
    """Token ids; of padded sequences labels and attention mask too, of packed rows labels and
    position ids; and what else the trainer's loop keeps; of rows that Unsloth lays end to end the
    length of each."""
    columns = batch_columns(setup) * setup.context_parallel_size
    size = TOKENS * (8 * columns) + loop_scalar_bytes(setup)
    loop = loop_facts(setup.loop_state)
    size = size + B * (loop.row_bytes * setup.accumulation)
    if not setup.is_padding_free or loop.generates:
        return size
    return size + B * (_LENGTH_BYTES * len(lengths(setup)) * setup.accumulation)


def completion_bytes(setup: TrainSetup) -> Polynomial:
    """What GRPO has of a step's completions beside ids and masks: an advantage each, how many
    tokens count, log-probabilities of the reference, and with vLLM its own; those of the policy and
    a ratio each where these correct the loss, which Unsloth switches off (TRL 1.16
    `grpo_trainer.py`, _generate_and_score_completions; Unsloth 2026.10.9 `models/rl.py`)."""
    loop = loop_facts(setup.loop_state)
    if not loop.generates:
        return ZERO
    corrects = setup.use_vllm and loop.corrects_generated
    figure_bytes = _FLOAT32 * ((setup.beta > 0) + setup.use_vllm + corrects)
    each = _scored(setup) * figure_bytes + _FLOAT32 * (1 + corrects)
    return B * each * setup.accumulation + _COUNT


def _scored(setup: TrainSetup) -> Polynomial:
    """Tokens of a row that are a completion's."""
    completion = setup.max_completion_length
    return S if completion is None else constant(completion)


def _put_together_bytes(setup: TrainSetup) -> Polynomial:
    """What a loop makes of a micro-batch for its pass, and lets go with it: columns of all tokens,
    and what else it has."""
    own = of_loop(setup.loop_state, "put_together_bytes")
    size = TOKENS * (8 * pass_columns(setup))
    return size + own(setup) if own else size


def _boundary_bytes(setup: TrainSetup) -> Polynomial:
    """Where sequences begin, as attention is told: made in the first layer of a pass (Unsloth
    2026.10.9, `utils/packing.py`, get_packed_info_from_kwargs)."""
    if not setup.is_padding_free:
        return ZERO
    return B * (_LENGTH_BYTES * len(lengths(setup))) + _LENGTH_BYTES


def batch_kept_bytes(setup: TrainSetup) -> Polynomial:
    """Of a step's batch, between steps: a trainer's loop gives it up when the next one is there."""
    if setup.loop_state == "none":
        return ZERO
    columns = batch_columns(setup) * setup.context_parallel_size
    return TOKENS * (8 * columns) + completion_bytes(setup)


def persistent_only(
    shards: ShardState, workload: Workload, adapters: tuple[Adapter, ...]
) -> Moments:
    """The moments that need no activations: what is known of a family, or of adapters, without a
    ledger."""
    state = shards.state
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes,
        "gradients": ZERO,
        "optimizer_states": total_state_bytes(shards.stepped.trainable, workload.setup)
        + shards.masters,
    }
    frozen = adapter_buffer_bytes(adapters, workload.setup)
    if frozen != ZERO:
        base["buffers"] = frozen
    base = with_communication(base, shards.always)
    given = shards.stepped_gradients or state.gradient_bytes
    step = base | {"gradients": given, "inputs": input_bytes(workload.setup)}
    temporaries = step_temporary_candidates(shards.at_once or shards.stepped, workload.setup)
    return {
        "setup": (candidate(base),),
        "optimizer_step": tuple(candidate(step, temporaries=t) for t in temporaries),
    }


def buffer_bytes(family: Family, workload: Workload) -> int:
    """Two float32 vectors of half the rotary width per rotary set, and what else the family
    registers; or what other kernels have of both. accelerate has FSDP1 hold all in bfloat16
    (`utils/dataclasses.py`, set_mixed_precision)."""
    setup = workload.setup
    widths = sum(size for _, size in family.rotary_sets(workload.model.config))
    own = part("kernels", setup.kernels, "law", "buffer_bytes")
    if own and widths:
        return own(workload, widths)  # type: ignore[no-any-return]
    size = 2 if setup.has_flat_units and setup.precision == "amp" else 4
    return size * widths + family.buffer_bytes(setup.dtype)


def long_frequency_bytes(family: Family, workload: Workload) -> int:
    """Frequencies for long sequences, a float32 vector of half the rotary width, that LongRoPE
    works out in each forward pass and keeps until the next: transformers `modeling_rope_utils.py`,
    longrope_frequency_update."""
    config = workload.model.config
    if (config.get("rope_parameters") or {}).get("rope_type") != "longrope":
        return 0
    return sum(2 * size for _, size in family.rotary_sets(config))
