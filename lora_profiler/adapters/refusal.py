"""PEFT's refusals in this program's words, with the nearest names that exist."""

from typing import NoReturn

from lora_profiler.errors import TargetModulesError, nearest
from lora_profiler.model_spec import ModelSpec, Stack


class RefusedTargetsError(TargetModulesError):
    """PEFT would refuse. `peft_error` is the name of its exception, None where the refusal is this
    program's own."""

    def __init__(self, message: str, peft_error: str | None) -> None:
        super().__init__(message)
        self.peft_error = peft_error


def refuse(message: str, peft_error: str | None) -> NoReturn:
    raise RefusedTargetsError(message, peft_error)


def suggestion(spec: ModelSpec, names: tuple[str, ...]) -> str:
    """' Use q_proj, v_proj, ...': the model's own linear layers nearest to `names`, or
    all-linear."""
    known = linear_names(spec)
    close = list(
        dict.fromkeys(
            match for name in names for match in nearest(name.rsplit(".", 1)[-1], known, 2)
        )
    )
    if close:
        return f" Did you mean {', '.join(close[:4])}? all-linear adapts every linear layer."
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return (
        f" Use all-linear, or names out of {listed}."
        if known
        else " This model has no linear layer to adapt."
    )


def linear_names(spec: ModelSpec) -> list[str]:
    """Last parts of the names of all linear layers, in forward order, the output embedding left
    out."""
    names: dict[str, None] = {}
    for part in spec.parts:
        for modules in part.kinds if isinstance(part, Stack) else ((part,),):
            for module in modules:
                if module.is_linear and module.name != spec.output_embedding:
                    names[module.name.rsplit(".", 1)[-1]] = None
    return list(names)
