"""The options that say how a model is trained, shared by every command that needs a setup, and the
setups they mean."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

from lora_profiler.cli.click_support import (
    FiniteRange,
    NearestChoice,
    NearestChoices,
    SpelledChoice,
    WholeNumber,
    WholeRange,
    complete_gpu,
    complete_trainer,
    flattened,
)
from lora_profiler.cli.option_groups import CARD, DATA, OUTPUT, SUBJECT, grouped, rare, together
from lora_profiler.errors import UsageError
from lora_profiler.facts.stacks import BARE, GUIDE, Stack, Trainer, find_stack, spelled
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.question.gpu_platform import (
    NEWEST_TORCH,
    OLDEST_TORCH,
    TORCH,
    Platform,
    parse_torch,
    version_text,
)
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import (
    GROUP_TITLES,
    MAX_SIZE,
    Kind,
    Option,
    flag,
    invalid_value_hint,
    method_hint,
)
from lora_profiler.question.workload import OPTIONS, Device, Method, Sharding, Workload

if TYPE_CHECKING:
    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.planning.answers import Answer
    from lora_profiler.planning.guided import Guided
    from lora_profiler.planning.over_data import TrainingData
    from lora_profiler.planning.placement import Cluster, Network
    from lora_profiler.trainer_files.peft_config import PeftConfig
    from lora_profiler.trainer_files.trainer_file import TrainerFile

SHARDING_OF_SEVERAL: Sharding = "fsdp"
"""Of several cards that --gpu names, where nothing says how they share the model."""
F = TypeVar("F", bound=Callable[..., Any])


def _method_option(default: str) -> Callable[[F], F]:
    return grouped(SUBJECT)(
        "--method methods",
        help="full, lora, qlora; several with commas",
        show_default=default,
        multiple=True,
        callback=flattened,
        type=NearestChoices(get_args(Method), method_hint),
    )


ALL_TRAINERS = "all"
"""--trainer all: each trainer with its own defaults."""


def _trainer_option(default: str | None) -> Callable[[F], F]:
    return grouped(SUBJECT)(
        "--trainer",
        "NAME[@VERSION]",
        "its defaults: trl, axolotl, ..., or all",
        show_default=default or BARE,
        shell_complete=complete_trainer,
        default=default,
    )


_TYPES: Mapping[Kind, Any] = {"switch": bool, "size": WholeNumber(), "number": float, "text": str}


def _click_option(option: Option, **changes: Any) -> Callable[[F], F]:
    declared = option.declared
    flags = [declared.short] if declared.short else []
    is_switch = option.kind == "switch"
    flags.append(f"{option.flag}/{flag(f'no_{option.name}')}" if is_switch else option.flag)
    default: str | bool = declared.default_text or option.default is not None
    if option.kind == "number" and option.default is not None:
        default = f"{option.default:g}"
    settings: dict[str, Any] = {
        "type": (
            SpelledChoice(option.choices, partial(invalid_value_hint, option))
            if option.choices
            else _TYPES[option.kind]
        ),
        "default": option.default,
        "metavar": declared.metavar,
        "help": declared.help,
        "show_default": default,
        "rare": not declared.common,
    }
    return grouped(GROUP_TITLES[declared.group])(" ".join(flags), **(settings | changes))


_LOOKUP_OPTIONS = [
    rare(SUBJECT)("--revision", type=str, default="main", help="branch, tag or commit on the hub"),
    rare(SUBJECT)("--offline", help="use bundled and cached models only"),
]


def _read_peft_config(
    ctx: click.Context, param: click.Parameter, name: str | None
) -> "PeftConfig | None":
    if name is None or ctx.resilient_parsing:
        return None
    from lora_profiler.trainer_files.peft_config import read_peft_config

    return read_peft_config(name)


def _take_peft_config(ctx: click.Context) -> None:
    """The options of --peft-config as if they were given; its model's revision where the model is
    its own. Raises UsageError where an option that the file decides is given too."""
    from lora_profiler.trainer_files.peft_config import DECIDED

    config: PeftConfig = ctx.params["peft_config"]
    decided = {**dict.fromkeys(DECIDED), **config.options}
    if other := next((name for name in decided if given(ctx, name)), None):
        raise UsageError(f"{flag(other)} and --peft-config exclude each other; leave out one.")
    if given(ctx, "methods") and {*ctx.params["methods"]} <= {"full"}:
        raise UsageError("--peft-config needs LoRA; add --method lora, or leave it out.")
    taken = dict(config.options)
    if config.revision and not given(ctx, "revision"):
        named = ctx.params.get("models") or (ctx.params.get("model"),)
        taken |= {"revision": config.revision} if [*named] == [config.model] else {}
    for name, value in taken.items():
        ctx.params[name] = value
        ctx.set_parameter_source(name, ParameterSource.COMMANDLINE)


_PEFT_CONFIG = grouped(GROUP_TITLES["adapter"])(
    "--peft-config",
    "FILE",
    "adapter from PEFT's adapter_config.json",
    callback=_read_peft_config,
    settle=_take_peft_config,
)


TORCH_OPTION = rare(CARD)(
    "--torch",
    "VERSION",
    f"PyTorch version to model, {version_text(OLDEST_TORCH)} to {version_text(NEWEST_TORCH)}",
    show_default=version_text(TORCH),
)


def engine_option(
    engines: str, text: str, declared: Callable[..., Any] | None = None
) -> Callable[[F], F]:
    make: Callable[..., Callable[[F], F]] = declared or rare(CARD)
    return make("--engine", engines, text, default="auto")


# fmt: off
answer_options = together(
    grouped(CARD)("--gpu", "KEY|8xKEY|auto|custom:24GiB",
        "check the fit, estimate step time: rtx_4090",
        shell_complete=complete_gpu),
    rare(CARD)("--allow-tight", help="exit 0 also if it may run out of memory"),
    rare(CARD)("--vllm-share", "SHARE",
        "share of GPU memory that vLLM reserves", show_default="0",
        type=FiniteRange(min=0, max=1, max_open=True), default=0.0),
    TORCH_OPTION,
    rare(CARD)("--interconnect", "nvlink4|pcie5|ndr|25GB/s|...",
        "link between the GPUs of --world-size", show_default="the GPU's"),
    engine_option("auto|analytic|compiled|traced|rehearsed",
        "prediction engine; rehearsed: on a simulated GPU"),
)
# fmt: on
"""Adds the options of the GPU to check and of the engine."""


def setup_options(
    *,
    device: str | None,
    device_help: str,
    unlisted: Collection[str] = (),
    searched: Collection[str] = (),
    trainer: str | None = None,
) -> Callable[[F], F]:
    """Adds the options of a training setup and of the model look-up. `device` is the default of
    --device, None to find it out; the `unlisted` are in no help: the command has others in their
    place. The command searches over the `searched` and the methods. `trainer` is the default of --trainer, None for the bare loop."""
    changes: dict[str, dict[str, Any]] = {name: {"hidden": True} for name in unlisted}
    changes |= {name: {"show_default": "searched"} for name in searched}
    changes["device"] = {"default": device, "help": device_help}
    if device is None:
        changes["device"]["show_default"] = "accelerator, else cpu"
    setup = [_click_option(option, **changes.get(option.name, {})) for option in OPTIONS]
    method = _method_option("all" if searched else "full, lora")
    return together(method, _trainer_option(trainer), *setup, _PEFT_CONFIG, *_LOOKUP_OPTIONS)


def output_options(*formats: str) -> Callable[[F], F]:
    in_output, kind = grouped(OUTPUT), NearestChoice(formats)
    return together(
        in_output("--format form", help=", ".join(formats), type=kind, default=formats[0]),
        in_output("-o --output", "FILE", "write to a new file"),
        in_output("--force", help="overwrite it"),
    )


def file_options(model: str, file: str, written: str) -> Callable[[F], F]:
    """Adds what can be said of a trainer's file; `model` is the parameter of --model."""
    other_model = "model for a trainer's file, in place of its own"
    formats = "axolotl|trl|llamafactory|torchtune|peft FILE"
    whose = f"trainer that {file} is written for"
    return together(
        rare(SUBJECT)(f"--model {model}", "ID", other_model),
        rare(OUTPUT)("--write", formats, f"write {written}", nargs=2),
        rare(SUBJECT)("--from framework", "NAME", whose, show_default="by its keys"),
    )


def gpu_of(o: Mapping[str, Any]) -> "Gpu | None":
    """The card that --gpu names, or one of several as in 8xh100. Raises UsageError."""
    from lora_profiler.facts.catalog import find_gpu

    cluster = _cluster(o)
    if cluster is not None:
        return cluster.gpu
    if o["gpu"] and "," in o["gpu"]:
        model = (click.get_current_context().params.get("models") or ["MODEL"])[0]
        raise UsageError(f"--gpu takes one GPU. Try: `lora-profile plan {model} --gpus {o['gpu']}`")
    return find_gpu(o["gpu"]) if o["gpu"] else None


def _cluster(o: Mapping[str, Any]) -> "Cluster | None":
    name = o.get("gpu") or ""
    if "x" not in name.lower() or not name[:1].isdecimal():
        return None
    from lora_profiler.planning.placement import find_cluster, is_cluster

    return find_cluster(name) if is_cluster(name) else None


def machines_of(o: Mapping[str, Any]) -> int | None:
    """That --gpu names, as in 2x8xh100; None where it names none."""
    cluster = _cluster(o)
    return cluster.machines if cluster else None


def network_of(o: Mapping[str, Any]) -> "Network | None":
    if not o["interconnect"]:
        return None
    from lora_profiler.planning.placement import find_network

    return find_network(o["interconnect"])


def device_here(asked: Device | None) -> Device:
    """The device asked for, else the accelerator that is there, else the CPU. Raises
    MeasurementError for one that this installation cannot train on."""
    from lora_profiler.measuring.harness.capabilities import check_device, present_device

    if asked is None:
        return present_device()
    check_device(asked)
    return asked


def model_called(name: str, o: Mapping[str, Any]) -> ModelSpec:
    from lora_profiler.facts.catalog import find_model

    return find_model(name, revision=o["revision"], offline=o["offline"])


def platform_of(o: Mapping[str, Any], gpu: "Gpu | None") -> Platform:
    """The card's compute capability and the torch that --torch names. Raises UsageError for a
    version without rules."""
    torch = parse_torch(o["torch"]) if o["torch"] else TORCH
    return gpu.platform(torch) if gpu else Platform(torch=torch)


def workloads(
    model: ModelSpec,
    ctx: click.Context,
    platform: Platform,
    device: Device | None = None,
    file: "TrainerFile | None" = None,
) -> list[Workload]:
    """One workload for each asked method, in the order asked; on `device` where that is not left to
    --device. What `file` says goes before the defaults.

    Raises UsageError for options that contradict each other, or that the trainer cannot do.
    """
    options, names = _asked(ctx, file)
    if device is not None:
        options["device"] = device
    stack = stack_of(ctx, file)
    if ctx.params.get("vllm_share") and stack is not None and stack.generates:
        options["use_vllm"], names = True, {*names, "use_vllm"}
    return planning_workloads(model, options, names, platform, stack)


def guided(answers: "Sequence[Answer]", ctx: click.Context) -> "Guided | None":
    """The same question under each trainer, as its guides pass it, or with the trainer's own
    defaults under --trainer all; None where --trainer or a file names one."""
    whose, is_all = answers[0].trainer, ctx.params["trainer"] == ALL_TRAINERS
    if (given(ctx, "trainer") and not is_all) or whose is None or whose.stack.name != GUIDE:
        return None
    from lora_profiler.planning.guided import guided as planning_guided
    from lora_profiler.planning.guided import has_lines

    options, names = _asked(ctx, None)
    if not has_lines(answers, names):
        return None
    return planning_guided(answers, options, names, own_defaults=is_all)


def trainer(ctx: click.Context, file: "TrainerFile | None" = None) -> Trainer | None:
    """What --trainer or `file` names, with the options given beside it. Raises UsageError."""
    stack = stack_of(ctx, file)
    if stack is None:
        return None
    _, names = spelled(stack, *_asked(ctx, file))
    name = ctx.params["trainer"] or (file.stack if file else "")
    own: frozenset[str] = frozenset()
    if file is not None:
        from lora_profiler.trainer_files.trainer_file import with_gaps

        stack = with_gaps(stack, file)
        own = names - names_given(ctx)
    return Trainer(stack=stack, explicit=names, is_pinned="@" in name, file_options=own)


def _asked(ctx: click.Context, file: "TrainerFile | None") -> tuple[dict[str, Any], set[str]]:
    """Values of all options, and the names of those that the command line or `file` gives."""
    options = {name: ctx.params[name] for name in DEFAULTS}
    names = names_given(ctx)
    cluster = _cluster(ctx.params)
    if cluster is not None:
        ranks = cluster.cards
        if "world_size" in names and options["world_size"] != ranks:
            raise UsageError(
                f"--gpu {ctx.params['gpu']} is {ranks} GPUs, and --world-size says"
                f" {options['world_size']}; leave one of them out."
            )
        options["world_size"] = ranks
        names.add("world_size")
    if file is not None:
        own = file.completing({name: options[name] for name in names})
        options |= own
        names |= own.keys()
    is_open = "sharding" not in names and (cluster is not None or file is not None)
    if is_open and options["world_size"] > 1:
        options["sharding"] = file.sharding_of_several if file else _sharding_of_several(ctx)
        names.add("sharding")
    return options, names


def _sharding_of_several(ctx: click.Context) -> Sharding:
    """What a trainer does on several GPUs: FSDP, unless its files name none of it."""
    stack, write = stack_of(ctx), ctx.params.get("write")
    name = write[0] if write else stack.name.partition("-")[0] if stack else ""
    if not name:
        return SHARDING_OF_SEVERAL
    from lora_profiler.trainer_files.writing import shardings_of, writers

    known = shardings_of(name) if name in writers() else (SHARDING_OF_SEVERAL,)
    return SHARDING_OF_SEVERAL if SHARDING_OF_SEVERAL in known else known[0]


def stack_of(ctx: click.Context, file: "TrainerFile | None" = None) -> Stack | None:
    """What --trainer names, or the stack of `file`. Raises UsageError."""
    name = ctx.params["trainer"]
    if file is not None and not given(ctx, "trainer"):
        name = file.stack or name
    return None if name is None else find_stack(GUIDE if name == ALL_TRAINERS else name)


def names_asked(ctx: click.Context, file: "TrainerFile | None" = None) -> set[str]:
    return _asked(ctx, file)[1]


def own_defaults(command: str) -> dict[str, Any] | None:
    """The user's own defaults for a command, for click; None without a file of them. Raises
    UsageError."""
    from lora_profiler._common.own_defaults import COMMANDS, config_path, has_config, read_config

    path = config_path()
    if command not in COMMANDS or not has_config(path):
        return None
    values = read_config(path)
    return {command: {name: values[k] for name, k in COMMANDS[command].items() if k in values}}


def say_own_defaults(ctx: click.Context, without: Collection[str] = ()) -> None:
    """Names on stderr what comes from the user's own defaults. Those of `without` are not taken,
    and a GPU is no default of a training on another device."""
    from lora_profiler._common.own_defaults import COMMANDS, config_path

    if ctx.default_map is None:
        return
    o, params = ctx.params, {each.name: each for each in ctx.command.params}
    if o["device"] not in (None, "cuda"):
        without = {*without, "gpu"}
    words = []
    for name in COMMANDS[ctx.command.name or ""]:
        if ctx.get_parameter_source(name) != ParameterSource.DEFAULT_MAP or not o[name]:
            continue
        if name in without:
            o[name] = GUIDE if name == "trainer" else None
            continue
        text = o[name] if isinstance(o[name], str) else ", ".join(o[name])
        words.append(f"{max(params[name].opts, key=len)} {text}")
    if words:
        click.echo(f"From {config_path()}: {'; '.join(words)}", err=True)


def names_given(ctx: click.Context) -> set[str]:
    return {name for name in DEFAULTS if given(ctx, name)}


def given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave the option, by its parameter's name; its default is not given."""
    return ctx.get_parameter_source(name) not in (
        ParameterSource.DEFAULT,
        ParameterSource.DEFAULT_MAP,
        None,
    )


# --- options that come from a program ----------------------------------------------------------


_WITHOUT_NEGATIVE = ("offline",)
"""Switches that are only ever set."""
_PRINTING = (
    *("format", "full", "output", "force", "write", "detail", "per_layer", "explain", "help"),
    *("max_peak", "allow_tight"),
)


def words_of(option: str, value: Any) -> Iterator[str]:
    """`batch_size=4` as the command line has it. Raises UsageError for what only prints."""
    if not option.isidentifier():
        raise UsageError(f"{option!r} is no option; write it as in batch_size.")
    if option in _PRINTING:
        raise UsageError(f"{option} is about what the command prints or ends with; leave it out.")
    flag = f"--{option.replace('_', '-')}"
    if value is None:
        return
    if isinstance(value, bool):
        if value or option not in _WITHOUT_NEGATIVE:
            yield flag if value else f"--no-{flag.removeprefix('--')}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield f"{flag}={','.join(map(str, value))}"
    else:
        yield f"{flag}={value}"


# --- how long samples are, and how batches are made of them ---------------------------------------


BATCHINGS = ("random", "grouped", "packed", "packed-split", "packed-wrapped", "packed-axolotl")
"""As `question.batching.batches` has them, which is loaded for questions about data alone."""
_ABOUT_DATA = ("batching", "pad_to_multiple_of", "epochs")

_option = grouped(DATA)
# fmt: off
data_options = together(
    _option("--data", "FILE[#COLUMN]",
        "your samples; the longest sets the peak"),
    _option("--lengths", "mean=N,max=N|FILE",
        "sample lengths in tokens: two of mean=, median=, p95=, sigma=; then min=, max=, samples=; or a CSV file", rare=True),
    _option("--rows", "NUMBER", "number of samples, with --mean-length",
        type=WholeRange(1, MAX_SIZE)),
    _option("--samples samples", "NUMBER", "same as --rows", rare=True, type=WholeRange(1, MAX_SIZE)),
    _option("--mean-length", "TOKENS", "mean tokens per sample", type=WholeRange(1, MAX_SIZE)),
    _option("--batching",
        help="how batches are made; packed: TRL's bfd", rare=True, type=NearestChoice(BATCHINGS),
        default="random"),
    _option("--pad-to-multiple-of", "TOKENS", "pad batches to a multiple of this length",
        rare=True, type=WholeRange(1, MAX_SIZE)),
    _option("--epochs", "NUMBER", "epochs to time, with --rows, --lengths or --data", rare=True,
        type=FiniteRange(0, min_open=True)),
)
# fmt: on


def lengths_of(o: Mapping[str, Any]) -> str | None:
    """What --lengths says, or --rows and --mean-length in its place. Raises UsageError."""
    rows = o["rows"] or o["samples"]
    if rows is None and o["mean_length"] is None:
        text: str | None = o["lengths"]
        return text
    if o["lengths"] is not None:
        raise UsageError(
            "--lengths and --mean-length both say how long samples are; leave one out."
        )
    if o["mean_length"] is None:
        raise UsageError("--rows says how many samples there are; add --mean-length TOKENS.")
    return f"mean={o['mean_length']}" + (f",samples={rows}" if rows else "")


def training_data(
    ctx: click.Context, o: Mapping[str, Any], model: "ModelSpec", file: "TrainerFile | None" = None
) -> "TrainingData | None":
    """What --data or --lengths say, None without them. Samples are cut where --seq-len, `file` or
    the trainer's own default says.

    Raises UsageError for both, for options that only data give a meaning, and for data that cannot
    be read.
    """
    lengths_text = lengths_of(o)
    if o["data"] is None and lengths_text is None:
        if idle := [name for name in _ABOUT_DATA if given(ctx, name)]:
            raise UsageError(
                f"{flag(idle[0])} is about the samples; add --rows and --mean-length, --lengths or"
                " --data, or leave it out."
            )
        return None
    if o["data"] is not None and lengths_text is not None:
        raise UsageError("--data and --lengths both say how long samples are; leave one out.")
    from lora_profiler.planning.over_data import TrainingData

    if o["data"] is not None:
        from lora_profiler.question.batching.files import read_data
        from lora_profiler.report.progress import shown_work

        with shown_work("Reading the data", "rows") as tell:
            lengths = read_data(o["data"], model, tell)
    else:
        from lora_profiler.question.batching.data import lengths_from

        assert lengths_text is not None
        lengths = lengths_from(lengths_text)
    return TrainingData(
        lengths=lengths,
        batching=o["batching"],
        max_length=_max_length(ctx, file),
        pad_to_multiple_of=o["pad_to_multiple_of"],
        epochs=o["epochs"],
    )


def _max_length(ctx: click.Context, file: "TrainerFile | None") -> int | None:
    options, names = _asked(ctx, file)
    if "seq_len" in names:
        return int(options["seq_len"])
    stack = stack_of(ctx, file)
    return stack.max_length if stack else None
