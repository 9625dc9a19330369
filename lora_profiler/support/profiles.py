"""Which setups no profile can answer, and why: their memory is no polynomial in the sizes, or not
one process's."""

from lora_profiler.workload import TrainSetup


def why_unprofiled(setup: TrainSetup) -> str | None:
    """The reason and what to do, None where a profile can hold the setup."""
    if setup.loss != "plain":
        return (
            f"no profile knows the {setup.loss} loss: a chunk is a power of two of tokens, and no"
            " polynomial in batch and sequence; take --engine analytic, or traced, which traces"
            " exactly this size."
        )
    if setup.world_size > 1:
        return (
            "a profile is of a process alone; of several ranks the rules answer, or --engine"
            " traced."
        )
    if setup.is_packed:
        return (
            "no profile is of packed rows; take --engine analytic, or traced, which traces exactly"
            " this size."
        )
    if setup.eval_batch_size is not None:
        return (
            "no profile is of evaluation between steps; take --engine analytic, or traced, which"
            " traces exactly this size."
        )
    if setup.transformers != "5":
        return (
            "no profile is of an older version of transformers; take --engine analytic, or traced,"
            " which traces exactly this size."
        )
    if setup.lora is not None and setup.lora.fast_lora:
        return (
            "no profile is of fused adapters; take --engine analytic, or traced, which traces"
            " exactly this size."
        )
    if setup.kernels not in ("transformers", "torchtune"):
        return (
            "no profile is of fused kernels; take --engine analytic, or traced, which traces"
            " exactly this size."
        )
    return None
