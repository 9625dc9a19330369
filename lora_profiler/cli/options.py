"""The options that say how a model is trained, shared by every command that needs a setup, and the
setups they mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

from lora_profiler.cli.click_support import NearestChoice, complete_gpu
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.setups import SetupOptions
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.platform import (
    NEWEST_TORCH,
    OLDEST_TORCH,
    TORCH,
    Platform,
    parse_torch,
    version_text,
)
from lora_profiler.workload import (
    Attention,
    Device,
    Dtype,
    Kernels,
    Loss,
    Method,
    Optimizer,
    OptimizerImpl,
    Precision,
    Recipe,
    Sharding,
    Workload,
)

if TYPE_CHECKING:
    from lora_profiler.catalog import Gpu

F = TypeVar("F", bound=Callable[..., Any])


def _literal(alias: Any) -> NearestChoice:
    return NearestChoice(get_args(alias))


_SETUP_OPTIONS = [
    click.option(
        "--method",
        "methods",
        multiple=True,
        type=_literal(Method),
        help="Repeat for several. [default: full and lora]",
    ),
    click.option(
        "-r", "--rank", type=int, default=16, show_default=True, help="Rank of the LoRA matrices."
    ),
    click.option("--alpha", type=float, help="LoRA's scale; costs nothing. [default: 2 x rank]"),
    click.option(
        "--dropout", type=float, default=0.0, help="Dropout on the adapters' inputs. [default: 0]"
    ),
    click.option(
        "--targets",
        default="all-linear",
        metavar="all-linear|default|attention|NAME,...|re:PATTERN",
        show_default=True,
        help=(
            "Layers to adapt: every linear layer, PEFT's default for the model, the attention"
            " projections, names matched by suffix, or a pattern matched in full."
        ),
    ),
    click.option(
        "--layers-to-transform",
        metavar="N,N-N",
        help="Adapt only these layers, by number; with a list of names.",
    ),
    click.option(
        "--modules-to-save", metavar="NAME,...", help="Modules trained in full beside the adapters."
    ),
    click.option(
        "--adapter-dtype",
        type=_literal(Dtype),
        default="float32",
        help="[default: float32, as PEFT does]",
    ),
    click.option("--use-dora", is_flag=True, hidden=True),
    click.option(
        "-b",
        "--batch-size",
        type=int,
        default=1,
        show_default=True,
        help="Sequences in one micro-batch.",
    ),
    click.option(
        "-s",
        "--seq-len",
        type=int,
        default=2048,
        show_default=True,
        help="Tokens in each sequence.",
    ),
    click.option(
        "--packed",
        type=int,
        metavar="TOKENS",
        help=(
            "Rows of --seq-len hold sequences of so many tokens; --attention flash is then"
            " FlashAttention 2's kernel for them."
        ),
    ),
    click.option(
        "--accumulation",
        type=int,
        default=1,
        show_default=True,
        help="Micro-batches per optimizer step.",
    ),
    click.option(
        "--dtype",
        type=_literal(Dtype),
        default="bfloat16",
        show_default=True,
        help="Of the base weights.",
    ),
    click.option(
        "--precision",
        type=_literal(Precision),
        default="pure",
        show_default=True,
        help="amp: bfloat16 autocast.",
    ),
    click.option(
        "--double-quant/--no-double-quant",
        default=True,
        help="QLoRA: quantise the scales too. [default: on]",
    ),
    click.option(
        "--recipe",
        type=_literal(Recipe),
        default="stock",
        show_default=True,
        help=(
            "QLoRA: stock, PEFT's k-bit preparation (norms, embeddings and head to float32), or"
            " TRL's (bfloat16 adapters)."
        ),
    ),
    click.option("--optimizer", type=_literal(Optimizer), default="adamw", show_default=True),
    click.option(
        "--optimizer-impl",
        type=_literal(OptimizerImpl),
        default="foreach",
        show_default=True,
        help="foreach is what torch takes on CUDA.",
    ),
    click.option(
        "--checkpointing/--no-checkpointing",
        default=False,
        help="Recompute each layer in backward. [default: off]",
    ),
    click.option("--use-reentrant", is_flag=True, hidden=True),
    click.option(
        "--attention",
        type=_literal(Attention),
        default="auto",
        show_default=True,
        help="auto is SDPA with the kernel that torch would take.",
    ),
    click.option(
        "--loss",
        type=_literal(Loss),
        default="plain",
        show_default=True,
        help=(
            "plain: all logits at once, as transformers; chunked: a few tokens at a time; fused: as"
            " Liger's kernel."
        ),
    ),
    click.option(
        "--kernels",
        type=_literal(Kernels),
        default="transformers",
        show_default=True,
        help=(
            "liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding; use_liger_kernel=True adds"
            " --loss fused."
        ),
    ),
    click.option(
        "--world-size",
        type=int,
        default=1,
        show_default=True,
        help="Ranks that train together, a batch each.",
    ),
    click.option(
        "--sharding",
        type=_literal(Sharding),
        default="none",
        show_default=True,
        help="What the ranks share of the model.",
    ),
]
"""Hidden ones are refused with the reason: people who come from PEFT and transformers know them."""

_LOOKUP_OPTIONS = [
    click.option(
        "--revision", default="main", show_default=True, help="Branch, tag or commit on the hub."
    ),
    click.option("--offline", is_flag=True, help="Never ask the hub."),
]

TORCH_OPTION = click.option(
    "--torch",
    metavar="VERSION",
    help=(
        f"Whose kernels hold, {version_text(OLDEST_TORCH)} to {version_text(NEWEST_TORCH)}."
        f" [default: {version_text(TORCH)}]"
    ),
)

_ANSWER_OPTIONS = [
    click.option(
        "--gpu",
        metavar="KEY|auto|custom:24GiB",
        shell_complete=complete_gpu,
        help=(
            "Judge a card, take its kernels, and time a step on it; `lora-profile gpus` lists them."
        ),
    ),
    TORCH_OPTION,
    click.option(
        "--interconnect",
        metavar="nvlink4|pcie5|ndr|25GB/s|...",
        help="The link among --world-size ranks, to tell how long sending takes.",
    ),
    click.option(
        "--engine",
        default="auto",
        metavar="auto|analytic|compiled|traced",
        show_default=True,
        help="What answers.",
    ),
]


def setup_options(*, device: str | None, device_help: str) -> Callable[[F], F]:
    """Adds the options of a training setup and of the model look-up. `device` is the default of
    --device, None to find it out."""
    of_device = click.option(
        "--device",
        type=_literal(Device),
        default=device,
        show_default=device or False,
        help=device_help,
    )

    def add(command: F) -> F:
        return _with_options(command, [*_SETUP_OPTIONS, of_device, *_LOOKUP_OPTIONS])

    return add


def answer_options(command: F) -> F:
    """Adds the options of the card to judge and of the engine."""
    return _with_options(command, _ANSWER_OPTIONS)


def output_options(*formats: str) -> Callable[[F], F]:
    """Adds --format (the first is the default), -o and --force."""

    def add(command: F) -> F:
        return _with_options(
            command,
            [
                click.option(
                    "--format",
                    "form",
                    type=NearestChoice(formats),
                    default=formats[0],
                    show_default=True,
                ),
                click.option(
                    "-o", "--output", metavar="FILE", help="Write to a new file instead of stdout."
                ),
                click.option("--force", is_flag=True, help="Let -o replace a file."),
            ],
        )

    return add


def _with_options(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def platform_of(o: Mapping[str, Any], gpu: "Gpu | None") -> Platform:
    """The card's compute capability and the torch that --torch names. Raises UsageError for a
    version without rules."""
    return Platform(
        capability=gpu.capability if gpu else None,
        torch=parse_torch(o["torch"]) if o["torch"] else TORCH,
    )


def workloads(
    model: ModelSpec, ctx: click.Context, platform: Platform, device: Device | None = None
) -> list[Workload]:
    """One workload for each asked method, in the order asked; on `device` where that is not left to
    --device.

    Raises UsageError for options that contradict each other.
    """
    o = {f.name: ctx.params[f.name] for f in fields(SetupOptions)}
    o["methods"] = tuple(o["methods"])
    if device is not None:
        o["device"] = device
    return planning_workloads(
        model, SetupOptions(**o), {name for name in o if given(ctx, name)}, platform
    )


def given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave the option, by its parameter's name; its default is not given."""
    return ctx.get_parameter_source(name) not in (
        ParameterSource.DEFAULT,
        ParameterSource.DEFAULT_MAP,
        None,
    )
