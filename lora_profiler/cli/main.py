"""`lora-profile`: parses, asks, prints. Each command imports what it needs when it runs, so that
the answer starts at once."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeVar

import click

from lora_profiler import errors
from lora_profiler._common.packages import __version__
from lora_profiler._common.process import collector_paused, exit_without_search
from lora_profiler.cli import click_support, options
from lora_profiler.cli.option_groups import CARD, OUTPUT, grouped, rare
from lora_profiler.errors import did_you_mean
from lora_profiler.facts.stacks import GUIDE, find_stack
from lora_profiler.question.model_spec import ModelSpec

if TYPE_CHECKING:
    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.planning.answers import Answer
    from lora_profiler.report.blocks import Block, Table
    from lora_profiler.trainer_files.trainer_file import TrainerFile

E = TypeVar("E")
Levers = Literal["none", "best", "all"]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Ends the process with the exit code of the contract (0 done, 1 does not fit, 2 usage, 3 no
    model, 4 not run)."""
    exit_without_search()
    click_support.run(root, args, "lora-profile")


_LAZY = "app bench calibrate compare compile crossover mcp plan read rehearse report verify"


@click.group(
    cls=click_support.DefaultGroup,
    lazy_commands={name: f"lora_profiler.cli.{name}" for name in _LAZY.split()}
    | {"options": "lora_profiler.cli.search"},
    context_settings=click_support.HELP_NAMES,
    invoke_without_command=True,
    epilog="""
Examples:
  lora-profile meta-llama/Llama-3.1-8B     short for: lora-profile predict ...
  lora-profile gpt2 --per-layer            memory of each layer
  lora-profile Qwen/Qwen2.5-7B --method qlora --gpu rtx_4090
  lora-profile qlora.yml --gpu t4          a trainer's file
  lora-profile --gpu t4 trl sft --config sft.yaml    a trainer's command
  lora-profile bench gpt2 -s 512           train it here, and compare
  lora-profile options checkpointing       search all options

Help of a command: lora-profile COMMAND --help
Shell completion, zsh and fish likewise:
  eval "$(_LORA_PROFILE_COMPLETE=bash_source lora-profile)"
""",
)
@click.version_option(__version__, prog_name="lora-profile")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Predict memory and step time of full, LoRA and QLoRA fine-tuning.
    Needs the model's name only: no GPU, no PyTorch, no download of weights."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    if ctx.invoked_subcommand != "predict":
        gc.enable()  # other commands may go on for long
    ctx.default_map = options.own_defaults(ctx.invoked_subcommand)


@click_support.command(
    "predict",
    "Predict memory and step time of fine-tuning a model.",
    """
Options on the command line take precedence over a trainer's file.
A trainer's own command works too; lora-profile's options come before it.

Examples:
  lora-profile predict meta-llama/Llama-3.1-8B --rank 16
  lora-profile predict gpt2 --rank 8 --targets c_attn --per-layer
  lora-profile predict Qwen/Qwen2.5-7B --method qlora --checkpointing -b 4 --gpu rtx_4090
  lora-profile predict ./my-model/config.json --format json -o answer.json
  lora-profile predict gpt2 -b 8 --lengths mean=600,max=4096 --gpu t4 --epochs 3
  lora-profile predict gpt2 -b 8 -s 1024 --data train.jsonl --batching packed
  lora-profile predict qlora.yml --gpu rtx_4090        settings from an axolotl config
  lora-profile --gpu t4 trl sft --model_name_or_path Qwen/Qwen2.5-0.5B --use_peft

Exit: 0 fits, 1 does not or may not, 2 usage, 3 no such model.
""",
    click_support.CommandOrTrainers,
)
@click.argument(
    "models",
    metavar="MODEL...",
    nargs=-1,
    required=True,
    shell_complete=click_support.complete_model,
    cls=click_support.ModelArgument,
)
@options.setup_options(device="cuda", device_help="device to model", trainer=GUIDE)
@options.answer_options
@options.data_options
@grouped(OUTPUT)("--detail", help="every part, overhead, time and caveat")
@options.file_options("model", "MODEL", "a trainer's config, if the run fits")
@rare(OUTPUT)("--per-layer", help="weights, memory and compute of each layer")
@grouped(OUTPUT)("--explain", help="the formula behind each number")
@rare(OUTPUT)("--full", help="all of it, with --format json")
@rare(CARD)(
    "--max-peak", "SIZE", "exit 1 if a peak is above: 22GiB", type=click_support.MemorySize()
)
@options.output_options("table", "json", "csv", "md")
@click.pass_context
@collector_paused()
def predict_command(ctx: click.Context, /, models: tuple[str, ...], **o: Any) -> None:
    """Predict memory and step time of fine-tuning MODEL.
    MODEL: hub name, folder, config.json, or a trainer's YAML, notebook or script."""
    click_support.check_new_file(o["output"], o["force"])
    if ctx.default_map is not None:
        from lora_profiler.cli.read import names_a_trainer, writes_another

        is_named = names_a_trainer(models) or writes_another(ctx)
        options.say_own_defaults(ctx, without=("trainer",) if is_named else ())
        o = {name: ctx.params[name] for name in o}
    detailed = o["detail"] or o["per_layer"] or o["explain"]
    short = o["form"] in ("table", "md") and not detailed
    in_summary = o["form"] == "json" and not o["full"]
    is_whole = o["explain"] or (o["form"] == "json" and o["full"])
    levers: Levers = "all" if is_whole else "none" if short or in_summary else "best"
    try:
        found = answered(ctx, levers)
    except errors.AmbiguousNameError as error:
        if short:
            error.args = (error.saying(_by_choice(error, ctx)),)
        raise
    for one_model in found:
        predictions = [answer.prediction for answer in one_model.answers]
        click_support.warn_of(predictions, one_model.gpu, one_model.answers[0].trainer)
    if short:
        from lora_profiler.report.answer.short_answer import short_blocks
        from lora_profiler.report.blocks import heading

        blocks: list[Block] = []
        for one_model in found:
            answers = one_model.answers
            if len(found) > 1:
                blocks.append(heading(answers[0].prediction.workload.model.id))
            blocks += short_blocks(answers, options.guided(answers, ctx), one_model.subject)
        click_support.print_blocks(blocks, o["form"], o["output"])
    else:
        _print_answers([one_model.answers for one_model in found], ctx)
    enough = ("fits", "tight") if o["allow_tight"] else ("fits",)
    fits = [any(a.fit and a.fit.verdict in enough for a in one.answers) for one in found]
    is_enough = all(fits) if all(one.subject for one in found) else any(fits)
    if _above(found, o["max_peak"]) or (o["gpu"] and not is_enough):
        ctx.exit(1)


def _by_choice(error: errors.AmbiguousNameError, ctx: click.Context) -> str:
    """A line for each of the choices: what it would answer, where it can be answered; then where to
    find those beyond."""
    from lora_profiler.report.answer.short_answer import verdicts

    asked, said = dict(ctx.params), []
    of_gpu = isinstance(error, errors.AmbiguousGpuError)
    for choice in error.choices:
        models = asked["models"] if of_gpu else (choice,)
        gpu = asked["gpu"].replace(error.name, choice) if of_gpu else asked["gpu"]
        # which traces and writes nothing
        ctx.params.update(models=models, gpu=gpu, engine="analytic", write=None)
        words = ""
        with suppress(errors.LoraProfilerError):
            (found,) = answered(ctx, "none", quiet=True)
            by_trainer = options.guided(found.answers, ctx)
            words = _in_a_line(verdicts(found.answers, by_trainer, found.subject))
        said.append(f"\n{choice}{words and f': {words}'}")
    ctx.params.update(asked)
    more = f"\n{error.more}: `lora-profile models {error.name}`" if error.more else ""
    return "".join(said) + more


def _in_a_line(blocks: Iterable["Block"]) -> str:
    """The first of `blocks` that says that something fits; else the last verdict, which is that of
    the lightest method."""
    from lora_profiler.report.terminal import plain

    lines = [" ".join(plain([block], 1000).split()).removeprefix("! ") for block in blocks]
    fitting = [line for line in lines if line.startswith("✓")]
    advised = [line for line in lines if line.startswith("→") and " fits with " in line]
    refused = [line for line in lines if line.startswith("✗")]
    best = next(iter([*fitting, *advised, *reversed(refused), *lines]))
    return best.replace("; ", ", ")  # an error ends its lines at semicolons


def _above(found: Sequence["OfModel"], limit: int | None) -> bool:
    """Whether a peak is above --max-peak, with a sentence on stderr for each that is."""
    if limit is None:
        return False
    from lora_profiler.report.answer.verdicts import method_name, size_text

    answers = [(one, answer) for one in found for answer in one.answers]
    above = [
        (one.subject or f"{method_name(answer)} of {answer.prediction.workload.model.id}", answer)
        for one, answer in answers
        if answer.prediction.peak.total_bytes > limit or not answer.prediction.is_whole
    ]
    for name, answer in above:
        prediction = answer.prediction
        sizes = size_text(prediction.peak.total_bytes), size_text(limit)
        if sizes[0] == sizes[1]:
            sizes = f"{prediction.peak.total_bytes:,} bytes", f"{limit:,} bytes"
        is_ = "of {} is above" if prediction.is_whole else "is not known, at least {};"
        by = f" by {answer.trainer.stack.title}" if answer.trainer else ""
        click.echo(f"{name}{by}: the peak {is_.format(sizes[0])} --max-peak {sizes[1]}.", err=True)
    return bool(above)


class OfModel(NamedTuple):
    """The answers about one model, a method each; `subject` is the file that the question came
    from, '' without one; `gpu` is as it was named, before vLLM takes its share."""

    answers: "list[Answer]"
    subject: str
    gpu: "Gpu | None"


@contextmanager
def _refused_by_keys(file: "TrainerFile | None") -> Iterator[None]:
    """What is refused of a trainer's file names its keys."""
    try:
        yield
    except errors.UsageError as e:
        if file is None:
            raise
        from lora_profiler.trainer_files.trainer_file import by_keys

        raise errors.UsageError(by_keys(file, str(e))) from e


def answered(
    ctx: click.Context,
    levers: Levers,
    *,
    spec: ModelSpec | None = None,
    on: "Gpu | None" = None,
    quiet: bool = False,
    read: "Sequence[tuple[str, TrainerFile | None]] | None" = None,
) -> list[OfModel]:
    """The answers to the parameters of `ctx`, which `predict_command` parsed. `spec` and `on` are
    the model and the GPU where no name leads to them, `read` the models' names with trainers'
    files, where these are read already. Writes the files of --write, and prints how a
    file is read and how far a trace is, but not where `quiet`.

    Raises LoraProfilerError.
    """
    from lora_profiler.cli.read import (
        assume_trainer,
        model_of,
        named,
        print_reading,
        with_images,
        writable,
        write,
    )
    from lora_profiler.facts.catalog import shared_with_vllm
    from lora_profiler.planning.answers import answers
    from lora_profiler.report.progress import shown_traces

    o = dict(ctx.params)  # of which `assume_trainer` changes some
    gpu, network = on or options.gpu_of(o), options.network_of(o)
    platform = options.platform_of(o, gpu)
    questions, subjects = [], list[str]()
    for name, file in named(o["models"], o["framework"]) if read is None else read:
        if o["write"]:
            named_options = options.names_asked(ctx, file)
        if file is None:
            model = spec or options.model_called(name, o)
            if o["write"]:
                assume_trainer(ctx, platform, model.trained_length)
        else:
            model = model_of(file, o["model"], o)
            from lora_profiler.trainer_files.trainer_file import on_model

            file, model = with_images(file, model, is_asked=o["images"] is not None)
            file = (on_model if quiet else print_reading)(file, model)
        with _refused_by_keys(file):
            of_model = options.workloads(model, ctx, platform, file=file)
        share = o["vllm_share"] or (file.vllm_share if file is not None else 0.0)
        card = gpu and shared_with_vllm(gpu, share)
        data = options.training_data(ctx, o, model, file)
        questions.append((of_model, options.trainer(ctx, file), data, card, file))
        subjects.append(file.name if file is not None else "")
    files = None
    if o["write"]:
        every = [workload for of_model, *_ in questions for workload in of_model]
        files = writable(ctx, every, named_options)
        questions = [([files.workload], *questions[0][1:])]
    ask = partial(
        answers,
        engine=o["engine"],
        levers=levers,
        network=network,
        machines=options.machines_of(o),
        given=options.names_given(ctx),
    )
    if o["engine"] == "rehearsed" and not quiet:
        click.echo("Rehearsing on a simulated GPU, some seconds each.", err=True)
    found = []
    with nullcontext() if quiet else shown_traces():
        for (of_model, own, data, card, file), subject in zip(questions, subjects, strict=True):
            with _refused_by_keys(file):
                answer = ask(of_model, card, trainer=own, data=data)
            found.append(OfModel(answer, subject, gpu))
    if files is not None:
        write(ctx, files, found[0].answers[0])
    return found


def _print_answers(answers: Sequence[Sequence["Answer"]], ctx: click.Context) -> None:
    o = ctx.params
    flat = [a for one_model in answers for a in one_model]
    if o["form"] == "json":
        from lora_profiler.report.json.predict import predict_payload, summary

        every = [options.guided(one_model, ctx) for one_model in answers]
        document = predict_payload(flat, [of for of in every if of])
        click_support.print_json(document if o["full"] else summary(document), o["output"])
    elif o["form"] == "csv":
        from lora_profiler.report.json.predict import layer_records, predict_records
        from lora_profiler.report.render import csv_text

        rows = layer_records(flat) if o["per_layer"] else predict_records(flat)
        click_support.write_out(csv_text(rows), o["output"])
    else:
        from lora_profiler.report.answer.guided import guided_blocks

        blocks: list[Block] = []
        for one_model in answers:
            blocks += _detailed_blocks(
                one_model, per_layer=o["per_layer"], explain=o["explain"], engine=o["engine"]
            )
            by_trainer = options.guided(one_model, ctx)
            blocks += guided_blocks(by_trainer) if by_trainer else []
        click_support.print_blocks(blocks, o["form"], o["output"])


def _detailed_blocks(
    answers: Sequence["Answer"], *, per_layer: bool, explain: bool, engine: str
) -> list["Block"]:
    from lora_profiler.report.answer.predictions import model_blocks

    blocks = model_blocks(answers, engine)
    if per_layer:
        from lora_profiler.report.answer.layers import layer_blocks

        blocks += layer_blocks([a.prediction for a in answers])
    if explain:
        from lora_profiler.report.answer.explain import explain_blocks

        blocks += [block for a in answers for block in explain_blocks(a)]
    return blocks


@click_support.command(
    "models",
    "List the bundled models.",
    """
Examples:
  lora-profile models                    all of them
  lora-profile models qwen3              names, aliases and types with this text
  lora-profile models --format json      with the source of every count
""",
)
@click.argument("text", nargs=-1)
@options.output_options("table", "json", "csv", "md")
def models_command(text: tuple[str, ...], form: str, output: str | None, force: bool) -> None:
    """List the bundled models, which need no network.
    TEXT: part of a name, alias or type."""
    click_support.check_new_file(output, force)
    from lora_profiler.facts.catalog import bundled_models
    from lora_profiler.report.catalogues import model_names, model_records, models_table

    _list(text, "model", bundled_models(), model_names, model_records, models_table)


@click_support.command(
    "gpus",
    "List the bundled GPUs.",
    """
Examples:
  lora-profile gpus                      all of them
  lora-profile gpus 4090                 names and architectures with this text
  lora-profile gpus --format csv -o gpus.csv
""",
)
@click.argument("text", nargs=-1)
@options.output_options("table", "json", "csv", "md")
def gpus_command(text: tuple[str, ...], form: str, output: str | None, force: bool) -> None:
    """List the bundled GPUs by the name that --gpu takes; ~ marks an estimate.
    TEXT: part of a name or architecture."""
    click_support.check_new_file(output, force)
    from lora_profiler.facts.catalog import bundled_gpus
    from lora_profiler.report.catalogues import gpu_names, gpu_records, gpus_table

    _list(text, "GPU", bundled_gpus(), gpu_names, gpu_records, gpus_table)


def _list(
    text: Sequence[str],
    what: str,
    entries: "Sequence[E]",
    names: "Callable[[E], tuple[str, ...]]",
    records: "Callable[[Sequence[E]], list[dict[str, Any]]]",
    table: "Callable[[Sequence[E]], Table]",
) -> None:
    """Those of `entries` with every word of `text` in their names; the first is what each is called
    by."""
    from lora_profiler.report.catalogues import csv_records, matching

    words = " ".join(text)
    found = [entry for entry in entries if matching(words, names(entry))]
    if not found:
        meant = did_you_mean(words, (names(entry)[0] for entry in entries))
        click_support.warn(f"no bundled {what} is called {words!r}.{meant}")
    click_support.print_answer(
        lambda: {"schema_version": "1.0", f"{what.lower()}s": records(found)},
        lambda: [table(found)] if found else [],
        lambda: csv_records(records(found)),
    )


@click_support.command("doctor", "Show versions, GPUs, cache and hub settings.")
@options.output_options("table", "json", "md")
def doctor_command(form: str, output: str | None, force: bool) -> None:
    """Show versions, GPUs, cache folder and hub settings of this installation.
    Tokens are never printed."""
    click_support.check_new_file(output, force)
    from lora_profiler._common.own_defaults import config_path, has_config
    from lora_profiler.measuring.harness.doctor import SECTIONS, Diagnosis, diagnosed, missing
    from lora_profiler.report.catalogues import doctor_table, doctor_verdict
    from lora_profiler.report.progress import shown_work

    sections, found, verdict = diagnosed(), list[Diagnosis](), doctor_verdict(missing())
    if form == "table" and output is None:
        click_support.print_blocks(verdict, form, output)
    while True:
        with shown_work("Looking at this installation") as tell:
            if len(found) < len(SECTIONS):
                tell(SECTIONS[len(found)], len(found), len(SECTIONS))
            section = next(sections, None)
        if section is None:
            break
        if form == "table" and output is None:
            click.echo()
            click_support.print_blocks([doctor_table(section)], form, output)
        found.append(section)
    diagnosis = Diagnosis(lines=tuple(line for each in found for line in each.lines))
    if form != "table" or output is not None:
        click_support.print_answer(
            lambda: {"schema_version": "1.0", "lora_profiler": __version__, **diagnosis.as_dict()},
            lambda: [*verdict, doctor_table(diagnosis)],
        )
    if has_config(path := config_path()):
        _check_own_defaults(path)


def _check_own_defaults(path: Path) -> None:
    """Raises UsageError, with the line of the file, for a name that no command would take."""
    from lora_profiler._common.own_defaults import check_names
    from lora_profiler.planning.planned import cluster_of, read_prices

    def gpu(name: str) -> None:
        if name != "auto":  # which may be there on another day
            cluster_of(name)

    def trainer_named(name: str) -> None:
        if name != options.ALL_TRAINERS:
            find_stack(name)

    def price(text: str) -> None:
        read_prices([text])

    check_names(path, {"gpu": gpu, "gpus": gpu, "trainer": trainer_named, "prices": price})


for _verb in (predict_command, models_command, gpus_command, doctor_command):
    root.add_command(_verb)
