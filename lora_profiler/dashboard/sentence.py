"""The question of a page: as one sentence with its settings in a drawer beside it, or as a
trainer's file: the fields take its values, and what of it nothing is made of is listed."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from lora_profiler.dashboard import export, fields, remembered, widgets
from lora_profiler.dashboard.answered import published_model, similar_models, workloads
from lora_profiler.dashboard.fields import Inputs
from lora_profiler.dashboard.link import mark_changed
from lora_profiler.dashboard.question import (
    SETUP_OPTIONS,
    Question,
    about_model,
    about_of,
    completed,
)
from lora_profiler.dashboard.serving import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.stacks import GUIDE, find_stack
from lora_profiler.planning.setups import DEFAULTS, written_options
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import GROUP_TITLES, Option, flag
from lora_profiler.question.workload import idle_options
from lora_profiler.report.catalogues import matching
from lora_profiler.report.trainer_file import counts_text
from lora_profiler.trainer_files.document import text_of
from lora_profiler.trainer_files.peft_config import PeftConfig, is_peft_config, peft_config_in
from lora_profiler.trainer_files.reading import read_content, resolve_images
from lora_profiler.trainer_files.trainer_file import TrainerFile, gaps, on_model

# --- the drawer of settings -----------------------------------------------------------------------

# The settings at the side of a page: the options that the trainer or the user sets, all of them on
# request, and a search by words.

_SEARCH, ALL = "settings.search", "settings.all"


def show(
    leave_out: Collection[str] = (),
    *,
    with_methods: bool = False,
    with_trainer: bool = False,
    with_epochs: bool = False,
    for_real: bool = False,
) -> UploadedFile | None:
    """Draws them, but for those to `leave_out`; the file that was chosen as the model. `for_real`
    leaves out what is no part of a measurement."""
    with st.container(key="settings", gap="xsmall"):
        text = _head()
        if with_trainer:
            fields.trainer(label="visible")
        if with_methods:
            fields.methods()
        if with_epochs:
            fields.of_run("epochs", "Epochs")
            fields.of_run("price", "Price an hour")
        every = st.session_state.get(ALL, False) or bool(text)
        names = [n for n in _names(text, every=every) if n not in leave_out]
        for group, title in _IN_ORDER.items():
            of_group = [n for n in names if SETUP_OPTIONS[n].declared.group == group]
            if not of_group:
                continue
            widgets.head(title)
            if group == "ranks":
                fields.ranks(network=not for_real)
            else:
                for name in of_group:
                    fields.option(name)
        file = _look_up(for_real=for_real, every=every)
        st.toggle(f"All {len(SETUP_OPTIONS)} settings", key=ALL, persist_state="session")
    return file


_IN_ORDER = {group: GROUP_TITLES[group] for group in sorted(GROUP_TITLES, key="batch".__ne__)}
"""Titles of the groups, what is of the batch first."""


def _head() -> str:
    """Draws the title, Reset, and the search; its text."""
    changed = _changed()
    with st.container(horizontal=True, vertical_alignment="center", key="settings_head"):
        widgets.head("Settings")
        st.button(
            "Reset",
            key="reset",
            type="tertiary",
            on_click=remembered.reset,
            disabled=not changed,
            help="Every setting as the trainer has it.",
        )
    widgets.mark(remembered.key_of(name) for name in changed)
    text: str = st.text_input(
        "Search all settings",
        key=_SEARCH,
        placeholder="Search all settings",
        label_visibility="collapsed",
    )
    return text.strip()


def _changed() -> list[str]:
    """Options that are not left to their default."""
    own = remembered.values()
    explicit = Question(
        model=own["model"],
        trainer=own["trainer"],
        options={n: own[n] for n in ("methods", *SETUP_OPTIONS)},
    ).explicit
    return [name for name in SETUP_OPTIONS if name in explicit]


def _names(text: str, *, every: bool) -> list[str]:
    """Options to draw: what the trainer and guides set, what is most asked for, and what was
    changed; of `every` one those that have the words of `text`."""
    methods = remembered.values()["methods"]
    idle = idle_options(methods)
    able = [option for option in SETUP_OPTIONS.values() if option.name not in idle]
    if every:
        return [option.name for option in able if matching(text, _words(option))]
    stacks = (find_stack(GUIDE), find_stack(remembered.values()["trainer"] or GUIDE))
    usual = {name for s in stacks for method in methods for name in s.defaults[method]}
    usual |= set(_changed())
    return [option.name for option in able if option.declared.common or option.name in usual]


def _words(option: Option) -> tuple[str, ...]:
    return fields.label_of(option), option.name, option.flag, option.declared.help


def _look_up(*, for_real: bool, every: bool) -> UploadedFile | None:
    """Where the model comes from, and who answers."""
    widgets.head("Model and GPU")
    fields.origin()
    by_name = remembered.values()["origin"] == remembered.BY_NAME
    file = None if by_name else fields.config_json()
    if not for_real:
        fields.gpu_memory()
    if every and not for_real:
        fields.engine()
    if every and by_name:
        fields.look_up()
    return file


# --- the sentence ---------------------------------------------------------------------------------

T = TypeVar("T")
Asked = tuple["DeltaGenerator", Inputs]
"""Where the rest of the page is drawn, beside the settings, and what is asked."""
_SIZES = ("batch_size", "seq_len")


def ask() -> Asked:
    """Draws "Fine-tune [model] with [method] by [trainer] on [GPU], [rows] of [tokens]", and beside
    it every other option."""
    main, aside = widgets.beside()
    with main, _sentence():
        _model("Fine-tune")
        widgets.words("with")
        fields.about()
        _trainer_and_gpu()
        fields.of_run("rows", "Rows", 92, "collapsed")
        widgets.words("rows of")
        fields.of_run("mean_length", "Mean length, tokens", 84, "collapsed")
        widgets.words("tokens on average")
    with aside:
        _file_field()
        file = show(with_methods=True, with_epochs=True)
    return _inputs(main, file)


def ask_between() -> Asked:
    """Draws "Between [methods] of [model] by [trainer] on [GPU]", and beside it the options but for
    batch and length, which Crossover asks about all of."""
    main, aside = widgets.beside()
    with main, _sentence():
        widgets.words("Between")
        fields.methods(label="collapsed")
        _model("of")
        _trainer_and_gpu()
    with aside:
        file = show(_SIZES)
    return _inputs(main, file)


def ask_plan(form: Callable[[], None], chosen: Collection[str]) -> Asked:
    """Draws "Train [model] by [methods] at [length] tokens", what `form` draws, and beside it the
    options but for those `chosen` by the plan."""
    main, aside = widgets.beside()
    with main:
        with _sentence():
            _model("Train")
            widgets.words("by")
            fields.methods(label="collapsed")
            widgets.words("at")
            fields.size("seq_len", 92)
            widgets.words("tokens a sequence")
        form()
    with aside:
        file = show((*chosen, *_SIZES), with_trainer=True)
    return _inputs(main, file)


def ask_measured(conditions: Callable[[], T]) -> tuple[Asked, T]:
    """Draws "Train [model] with [methods]", and beside it `conditions` of a measurement and the
    options but for what a real run does not ask about: the GPU, the link, the engine."""
    main, aside = widgets.beside()
    with main, _sentence():
        _model("Train")
        widgets.words("with")
        fields.methods(label="collapsed")
    with aside:
        made = conditions()
        file = show(("device",), with_trainer=True, for_real=True)
    return _inputs(main, file), made


@contextmanager
def _sentence() -> Iterator[None]:
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="sentence"):
        yield


def _model(word: str) -> None:
    if remembered.values()["origin"] == remembered.UPLOAD:
        widgets.words(word, name=fields.config_name() or "a config.json")
    else:
        widgets.words(word)
        fields.model()


def _trainer_and_gpu() -> None:
    widgets.words("by")
    fields.trainer()
    widgets.words("on")
    fields.gpu()


# --- the model that is asked, or what may be meant ------------------------------------------------

_LAST = "last_model"


def _inputs(main: DeltaGenerator, file: UploadedFile | None) -> Asked:
    """Where a name is of no model, the last one stays, below what may be meant."""
    inputs = fields.look_up_model(
        remembered.settle(), file, uploaded=remembered.values()["origin"] == remembered.UPLOAD
    )
    state = st.session_state
    with main:
        widgets.passed_over(remembered.complaints(), "URL parameters")
        show_file_reading()
        if inputs.refusal is not None:
            _suggest(inputs)
        elif inputs.model is None:
            widgets.note(
                "Choose the config.json of any transformers model in the settings.",
                heading="A config.json is needed",
            )
    if inputs.model is not None and not inputs.uploaded:
        state[_LAST] = inputs.question.model, inputs.question.revision, inputs.model
    elif inputs.refusal is not None and not inputs.uploaded and _LAST in state:
        name, revision, model = state[_LAST]
        asked = about_model(inputs.question, name, revision)
        return main, replace(inputs, question=asked, model=model)
    return main, inputs


def _suggest(inputs: Inputs) -> None:
    assert inputs.refusal is not None
    name = inputs.question.model
    widgets.problem(inputs.refusal, heading=f"There is no model {name!r} here")
    if inputs.uploaded:
        return
    with st.container(horizontal=True, gap="xsmall", key="suggestions"):
        for each in similar_models(name):
            st.button(
                each, key=f"suggest.{each}", on_click=remembered.change_one, args=("model", each)
            )
    if _LAST in st.session_state:
        widgets.small(f"Below is still {st.session_state[_LAST][0]}.")


# --- a trainer's file dropped as the question -----------------------------------------------------

_KEY, _READ = "dropped", "dropped.read"
TYPES = ("yaml", "yml", "json", "ipynb", "py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """`lines` say what of a file is not in the question, `refusal` why there is none of it."""

    head: str
    lines: tuple[str, ...] = ()
    refusal: str = ""


def _file_field() -> None:
    with st.popover("Read a trainer's file"):
        st.file_uploader(
            "axolotl, LLaMA-Factory, torchtune, TRL, Unsloth, or PEFT's adapter_config.json",
            type=list(TYPES),
            key=_KEY,
            on_change=_take,
            max_upload_size=UPLOAD_MIB,
        )


def show_file_reading() -> None:
    read: Dropped | None = st.session_state.get(_READ)
    if read is None:
        return
    if read.refusal:
        widgets.problem(read.refusal, heading=read.head)
    else:
        widgets.note(*read.lines, heading=read.head)


def _take() -> None:
    mark_changed()
    state, file = st.session_state, st.session_state[_KEY]
    state.pop(_READ, None)
    if file is None:
        return
    try:
        content = file.getvalue()
        if is_peft_config(file.name, content):
            config = peft_config_in(file.name, text_of(content, file.name))
            requested, state[_READ] = dropped_adapter(file.name, config, remembered.question())
        else:
            read = read_content(file.name, content)
            requested, state[_READ] = dropped(read, remembered.question())
            export.prefer(read.framework)
    except LoraProfilerError as e:
        state[_READ] = Dropped(head="This file is no question", refusal=str(e))
        return
    remembered.values()["origin"] = remembered.BY_NAME
    state.pop("ask.origin", None)
    remembered.change(requested, about_of(requested.options["methods"]))


def dropped(file: TrainerFile, before: Question) -> tuple[Question, Dropped]:
    """The question of a file, on the card of the one `before`, whose model and sizes stand for
    those that the file leaves open. Raises UsageError for a file that contradicts itself."""
    revision = file.revision or "main"
    wanted = replace(before, model=file.model or before.model, revision=revision)
    model, file = None, resolve_images(file, None)  # the page traces nothing
    with suppress(LoraProfilerError):  # the page says that there is no such model
        model = published_model(wanted.model, wanted.revision, wanted.offline)
        file = on_model(file, model)
    open_ones = {n: before.options[n] for n in file.asks if n in SETUP_OPTIONS}
    own = {**open_ones, **file.completing(open_ones)}
    options = completed(file.stack, own, wanted.model)
    wanted = replace(wanted, trainer=file.stack, options=options)
    lines = [f"{gap.text}." for gap in gaps(file)]
    if file.model is None:
        lines.append(f"It names no model of the hub: {wanted.model} is taken.")
    if file.vllm_share:
        lines.append(f"vLLM also takes {file.vllm_share:.0%} of the GPU; no field says so.")
    lines += [
        f"{flag(name)[2:]} depends on the data or the machine: {value} is taken."
        for name, value in open_ones.items()
    ]
    if model is not None:
        lines += _otherwise(model, wanted, own)
    head = f"{file.name}: {file.title}. {counts_text(file)}"
    return wanted, Dropped(head=head, lines=tuple(lines))


def dropped_adapter(name: str, config: PeftConfig, before: Question) -> tuple[Question, Dropped]:
    """The question `before` with the adapter of a file, and on its model where it names one."""
    methods = tuple(method for method in before.options["methods"] if method != "full")
    options = {**before.options, "methods": methods or ("lora",), **config.options}
    wanted = replace(before, options=completed(before.trainer, options, before.model))
    if config.model is not None:
        wanted = about_model(wanted, config.model, config.revision or "main")
    lines = [] if config.model else [f"It names no model of the hub: {wanted.model} is taken."]
    return wanted, Dropped(head=f"{name}: an adapter of PEFT.", lines=tuple(lines))


def _otherwise(model: ModelSpec, wanted: Question, own: Mapping[str, Any]) -> list[str]:
    """What the fields cannot ask as the file does: a default of the trainer's that it sets to what
    would be the default without one."""
    try:
        every = {**DEFAULTS, **own}
        requested = planning_workloads(model, every, set(own), None, wanted.stack)
        made = workloads(model, replace(wanted, gpu=None))
    except LoraProfilerError:  # which the page says
        return []
    texts: dict[str, None] = {}
    for one, other in zip(requested, made, strict=True):
        has = written_options(other.setup)
        for name, value in written_options(one.setup).items():
            if has.get(name) != value:
                texts[f"{flag(name)[2:]} is {value} in the file, {has.get(name)} here."] = None
    return list(texts)
