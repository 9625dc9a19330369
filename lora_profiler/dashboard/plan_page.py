"""Plan: which way to train on which cards, searched as `lora-profile plan` does: the run to take in
large words, and the front that it was taken from."""

from dataclasses import replace
from typing import Any

import streamlit as st

from lora_profiler.dashboard import (
    export,
    fields,
    link,
    plan_question,
    remembered,
    sentence,
    widgets,
)
from lora_profiler.dashboard.answered import asking
from lora_profiler.dashboard.fields import Inputs
from lora_profiler.dashboard.link import mark_changed
from lora_profiler.dashboard.plan_question import DataFile, Field, PlanQuestion
from lora_profiler.dashboard.question import MOST, Question, Shown
from lora_profiler.dashboard.remembered import shown
from lora_profiler.dashboard.serving import UPLOAD_MIB
from lora_profiler.dashboard.widgets import once
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.planned import PlannedRun, cost_of, hours_of
from lora_profiler.question.batching.batches import BATCHINGS
from lora_profiler.question.batching.sample_lengths import SampleLengths
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.report.blocks import Drawing, Paragraph, VerdictLine
from lora_profiler.report.charts.dots import FrontPoint, plan_front
from lora_profiler.report.decision import plan as plan_words
from lora_profiler.report.first_screen import LargeNumber
from lora_profiler.units import bytes_text, count_text

_KEY, _ASKED, _FILE = "plan.", "plan.asked", "plan.file"


def seed(question: PlanQuestion) -> None:
    st.session_state[_ASKED] = question
    for name in plan_question.FIELDS:
        st.session_state.pop(_KEY + name, None)


def show() -> None:
    main, inputs = sentence.ask_plan(_form, plan_question.CHOSEN)
    with main:
        _show(inputs)


def _show(inputs: Inputs) -> None:
    plan_inputs: PlanQuestion = st.session_state[_ASKED]
    file: DataFile | None = st.session_state[_FILE]
    question = plan_question.open_question(inputs.question)
    run = replace(shown().run, price=None)
    linked = None if inputs.uploaded else question
    params = link.written("Plan", linked, shown=Shown(run=run), plan=plan_inputs)
    link.write(params)
    if inputs.model is None:
        return
    model = inputs.model
    try:
        lengths = _lengths(file, model, has_name=not inputs.uploaded)
        plan = once(
            "plan",
            (question, plan_inputs, run, model.fingerprint, file and file.identity),
            lambda: plan_question.planned(model, question, plan_inputs, run, lengths),
            "Searching all ways to train",
        )
    except LoraProfilerError as e:
        widgets.problem(plan_question.in_words(str(e)), heading="This plan cannot be made")
        return
    with st.container(key="plan"):
        _answer(plan, question)
    if plan.recommended is not None:
        _actions(plan, plan.recommended, inputs, question, plan_inputs, file, params)
    _front(plan)


# --- the form -------------------------------------------------------------------------------------


def _form() -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xsmall", key="plan_form"):
        fields.of_run("rows", "Rows", 100)
        fields.of_run("mean_length", "Tokens a row", 100)
        fields.of_run("epochs", "Epochs", 76)
        said = {
            name: _field(name, field)
            for name, field in plan_question.FIELDS.items()
            if name not in plan_question.OF_DATA
        }
        with st.popover(plan_question.DATA_LABEL):
            st.session_state[_FILE] = _data_file()
            of_data = plan_question.OF_DATA
            said |= {name: _field(name, plan_question.FIELDS[name]) for name in of_data}
    st.session_state[_ASKED] = PlanQuestion(**said)


def _data_file() -> DataFile | None:
    upload = st.file_uploader(
        "Samples: JSONL, JSON, Parquet, Arrow, text; or a CSV of length,count",
        type=list(plan_question.TYPES),
        key=_KEY + "upload",
        on_change=mark_changed,
        max_upload_size=UPLOAD_MIB,
    )
    column = st.text_input(
        "Column", placeholder="by its name", key=_KEY + "column", on_change=mark_changed
    )
    if upload is None:
        return None
    return DataFile(
        name=upload.name,
        file_id=upload.file_id,
        content=upload.getvalue(),
        column=column.strip() or None,
    )


def _lengths(file: DataFile | None, model: ModelSpec, *, has_name: bool) -> SampleLengths | None:
    """What `file` holds, in tokens of the tokenizer of a model that `has_name` on the hub."""
    if file is None:
        return None
    own = model if has_name else None
    return once(
        "plan.lengths",
        (file.identity, own and own.fingerprint),
        lambda: file.lengths(own),
        "Reading the data",
    )


def _field(name: str, field: Field) -> Any:
    key, value = _KEY + name, getattr(st.session_state[_ASKED], name)
    if key not in st.session_state:
        st.session_state[key] = (value or "") if field.kind == "text" else value
    looks: dict[str, Any] = {
        "placeholder": field.placeholder,
        "help": field.tip or None,
        "width": field.width_px,
        "key": key,
        "on_change": mark_changed,
    }
    if field.kind == "text":
        text: str = st.text_input(field.label, **looks)
        return text.strip() or None
    if field.kind == "batching":
        return st.selectbox(field.label, BATCHINGS, index=None, **looks)
    looks["value"] = None
    if field.kind == "size":
        return st.number_input(field.label, 1, plan_question.LARGEST_SIZE, step=1, **looks)
    return st.number_input(field.label, 1e-3, float(MOST), step=1.0, format="%g", **looks)


# --- the answer -----------------------------------------------------------------------------------


def _answer(plan: TrainingPlan, question: Question) -> None:
    """What the command says of it, with the fields of the form in place of its options."""
    run, price = plan.recommended, f"the field {plan_question.FIELDS['price'].label}"
    head, *blocks = plan_words.plan_blocks(
        plan, trainer=question.trainer_defaults, detail=True, price_from=price
    )
    assert isinstance(head, VerdictLine)
    head = head._replace(words=head.words.removesuffix(":"), rest="") if run else head
    with st.container(key="verdict"):
        widgets.piece("verdict", head, _numbers(run) if run else ())
    for block in blocks:
        if not isinstance(block, Paragraph):
            widgets.blocks([block])
        elif block.kind != "command":
            lines = tuple(map(plan_question.in_words, block.lines))
            widgets.blocks([replace(block, lines=lines)])


def _numbers(run: PlannedRun) -> tuple[LargeNumber, ...]:
    numbers = [LargeNumber("a GPU", bytes_text(run.peak_bytes), plan_words.room_words(run))]
    if run.hours and run.time:
        note = f"{plan_words.interval_words(run.hours)}; {plan_words.basis_words(run.time)}"
        numbers.append(LargeNumber("", plan_words.hours_text(run.hours.middle), note))
    if run.cost and run.price:
        cost = plan_words.money_text(run.cost.middle, run.price.currency)
        numbers.append(LargeNumber("", cost, plan_words.cost_interval_words(run)))
    return tuple(numbers)


def _actions(
    plan: TrainingPlan,
    run: PlannedRun,
    inputs: Inputs,
    question: Question,
    plan_inputs: PlanQuestion,
    file: DataFile | None,
    params: link.Params,
) -> None:
    amount = shown().run
    more = plan_question.data_arguments(plan_inputs, amount, file)
    st.code(plan_words.run_command(run, more), language=None, wrap_lines=True)
    if inputs.uploaded:
        question = replace(question, model=f"{run.workload.model.id}.json")
    with st.container(horizontal=True, gap="small", key="actions"):
        export.show(
            None if inputs.uploaded or file else params,
            plan_question.plan_arguments(question, plan_inputs, amount, file),
            run.workload,
            export.of_plan(plan, question.trainer_defaults, more),
        )
        network = run.network.key if run.network and run.cluster.cards > 1 else None
        on_card = replace(question, gpu=run.cluster.gpu.key, interconnect=network)
        wanted = asking(run.workload, on_card)
        if wanted is not None and not inputs.uploaded:
            st.button("See it in Predict", on_click=_see, args=(wanted,))


def _see(wanted: Question) -> None:
    mark_changed()
    remembered.seed(wanted, shown=shown())
    st.session_state[link.PAGE_KEY] = link.PAGES[0]


def _front(plan: TrainingPlan) -> None:
    if plan.front:
        widgets.section("What no other run beats")
        nothing = ("No time or price of these runs is known: there is nothing to draw.",)
        widgets.drawing(plan_drawing("front", plan), "front", nothing=nothing)
    if (data := plan.amount.data) is not None:
        widgets.small(f"{data.lengths.source}.", *data.lengths.notes)


def plan_drawing(name: str, plan: TrainingPlan) -> Drawing | None:
    runs = [run for run in plan.front if run.hours and run.cost and run.cost.middle > 0]
    if not runs:
        return None
    names = plan_words.names_of(plan)
    named = (plan.recommended, min(runs, key=hours_of), min(runs, key=cost_of))
    points = [
        FrontPoint(
            name=plan_words.run_words(run, names),
            said=f"{plan_words.price_words(run)}; {plan_words.layout_words(run.setup)}",
            method=run.setup.method,
            hours=hours_of(run),
            cost=cost_of(run),
            is_named=run in named,
            is_recommended=run is plan.recommended,
        )
        for run in runs
    ]
    labels = [f"{point.name}: {point.said}" for point in points if point.is_named]
    return Drawing(
        name=name,
        caption="Hours and money of the runs that no other one beats.",
        description=f"{count_text(len(runs))} runs by hours and cost. {'. '.join(labels)}.",
        figure=plan_front(points, runs[0].price.currency if runs[0].price else ""),
    )
