"""Tensor parallelism: which models' layers can be cut, and by how many ranks. No torch."""

from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.model_types import TENSOR_PARALLEL_TYPES, type_of
from lora_profiler.workload import LoraConfig, Workload

BY_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
BY_ROWS = ("o_proj", "down_proj", "embed_tokens")
HEAD_NORMS = ("q_norm", "k_norm")
"""Modules by the last part of their names, as transformers' plans cut them; norms of heads are
whole."""
STOPPED = (
    "Adapters on row-wise layers (o_proj, down_proj) as PEFT 0.21 trains them with transformers"
    " 5.20. With 5.21 to 5.24 PEFT ends in an error: it gives A the width of one part."
)
_STEPPED = ("adamw", "sgd", "rmsprop")


def check_tensor_parallel(workload: Workload, engine: str) -> None:
    """Raises UsageError for a family whose layers are made otherwise, which a trace may show, for
    sizes that do not divide, for what the libraries refuse on a cut weight, and for what was held
    against no trace."""
    model, setup = workload.model, workload.setup
    if setup.sharding != "tp":
        return
    if not type_of(model).tensor_parallel:
        if engine == "traced":
            return
        raise UsageError(
            f"tensor parallelism is known of {', '.join(TENSOR_PARALLEL_TYPES)}, not of"
            f" {model.model_type}; take --sharding fsdp."
        )
    for refused, reason in (
        (
            setup.quantization is not None,
            "bitsandbytes and PEFT ask a quantised weight for what torch's cut one lacks, and stop;"
            " take --sharding fsdp or ddp.",
        ),
        (
            setup.optimizer not in _STEPPED,
            f"{setup.optimizer} with tensor parallelism is not modelled; use"
            f" --optimizer {' or '.join(_STEPPED)}.",
        ),
        (
            setup.loss != "plain",
            f"the {setup.loss} loss multiplies by the head's weight, of which a rank has a part;"
            " take --loss plain.",
        ),
        (
            setup.kernels != "transformers",
            f"{setup.kernels}'s kernels under tensor parallelism are not known; leave out one of"
            " --kernels and --sharding tp.",
        ),
    ):
        if refused:
            raise UsageError(reason)
    if setup.lora is not None:
        _check_adapters(workload, setup.lora)
    for name, size in divided_sizes(model).items():
        if size % setup.world_size:
            raise UsageError(
                f"{model.id} has {name} {size}, which {setup.world_size} ranks do not divide; take"
                " another --world-size."
            )


def _check_adapters(workload: Workload, lora: LoraConfig) -> None:
    if lora.modules_to_save:
        raise UsageError(
            "PEFT's copies of cut modules are not known; leave out one of --modules-to-save and"
            " --sharding tp."
        )
    for adapter in adapters(workload.model, lora):
        if adapter.module.rpartition(".")[2] not in (*BY_COLUMNS[:-1], *BY_ROWS[:-1]):
            raise UsageError(
                f"PEFT cuts no adapter on {adapter.module}; leave it out of --targets, or take"
                " --sharding fsdp."
            )


def divided_sizes(model: ModelSpec) -> dict[str, int]:
    """Fields of the config that a rank has a part of."""
    config = model.config
    heads = int(config["num_attention_heads"])
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
        "intermediate_size": int(config["intermediate_size"]),
    }
