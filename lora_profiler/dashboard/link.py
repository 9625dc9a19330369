"""The address of the window: which page it shows and what is asked there, read when it changes from
outside, else written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import streamlit as st

from lora_profiler.dashboard import plan_question
from lora_profiler.dashboard.plan_question import PlanQuestion
from lora_profiler.dashboard.question import (
    FIRST_MODEL,
    METHODS,
    NUMBERS,
    PARAMETERS,
    Question,
    Shown,
    changed,
    completed,
    from_params,
    parameter,
    pop_params,
    read_choice,
    shown_from_params,
    shown_to_params,
    to_params,
)
from lora_profiler.errors import LoraProfilerError, did_you_mean
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.report.learn import LoraLayer

PAGES = (
    "Predict", "Plan", "Crossover", "Compare", "Measure", "Learn", "Evidence", "Catalogue", "Docs",
)  # fmt: skip
PAGE_KEY = "page"
USUAL_CARD = "rtx_4090"
_STARTED_WITH = "Files are named when the dashboard is started: lora-profile app --records PATH."

Params = dict[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What an address says: a page, a question, what Predict shows of its answer, what Plan asks
    beside, one record, a layer; `complaints` are sentences on what was passed over."""

    page: str
    question: Question
    shown: Shown = field(default_factory=Shown)
    plan: PlanQuestion = field(default_factory=PlanQuestion)
    record: str | None = None
    layer: LoraLayer = field(default_factory=LoraLayer)
    complaints: tuple[str, ...]


def first_question() -> Question:
    """What is asked where nobody has asked, so that a page opens on an answer: every method of the
    first model on this machine's card, or the usual one."""
    return Question(options=completed(None, {"methods": METHODS}, FIRST_MODEL), gpu=_card())


@cache
def _card() -> str:
    try:
        return find_gpu("auto").key
    except LoraProfilerError:  # no driver, no card, or several kinds
        return USUAL_CARD


def parsed(params: Mapping[str, Sequence[str]]) -> Link:
    """The meaning of query parameters, whoever wrote them. No path is ever taken from them."""
    rest = {name: list(values) for name, values in params.items()}
    complaints: list[str] = []
    page = _page(rest.pop("page", [PAGES[0]])[-1], complaints)
    own = {"Learn": set(LAYER_STEPS), "Compare": {"record"}}.get(page, _OF_QUESTION | _more(page))
    known = _OF_QUESTION | _more("Plan") | {"record", *LAYER_STEPS}
    rest = {n: values for n, values in rest.items() if n in own or n not in known}
    if page == "Learn":
        layer, ignored = layer_from(rest)
        return Link(page=page, question=Question(), layer=layer, complaints=(*complaints, *ignored))
    if page == "Compare":
        record = rest.pop("record", [""])[-1] or None
        for name in rest:
            text = _no_option("Compare", name, ("record",))
            complaints.append(f"{text} {_STARTED_WITH}" if name == "records" else text)
        return Link(page=page, question=Question(), record=record, complaints=tuple(complaints))
    if page == PAGES[0] and not rest:
        return Link(page=page, question=first_question(), complaints=tuple(complaints))
    plan, shown = PlanQuestion(), Shown()
    if page == "Plan":  # whose prices are others than Predict's
        plan, ignored = plan_question.from_params(rest)
        complaints += ignored
    if page in ("Plan", PAGES[0]):
        shown, ignored = shown_from_params(rest)
        complaints += ignored
    question, ignored = from_params(rest)
    problems = (*complaints, *ignored)
    return Link(page=page, question=question, shown=shown, plan=plan, complaints=problems)


_OF_QUESTION, _OF_SHOWN = {*PARAMETERS, "method"}, {"about", *map(parameter, NUMBERS)}


def _more(page: str) -> set[str]:
    """What an address says on this page beside the question."""
    of_plan = set(map(parameter, plan_question.FIELDS))
    return {PAGES[0]: _OF_SHOWN, "Plan": _OF_SHOWN | of_plan}.get(page, set())


def _no_option(page: str, name: str, known: Iterable[str]) -> str:
    return f"The page {page} has no option {name[:60]!r}.{did_you_mean(name[:60], known)}"


def _page(name: str, complaints: list[str]) -> str:
    match = next((page for page in PAGES if page.lower() == name.lower()), None)
    if match is None:
        known = [page.lower() for page in PAGES]
        complaints.append(
            f"There is no page {name[:60]!r}; there are"
            f" {', '.join(known)}.{did_you_mean(name[:60], known)}"
        )
    return match or PAGES[0]


def written(
    page: str,
    question: Question | None = None,
    record: str | None = None,
    layer: LoraLayer | None = None,
    shown: Shown | None = None,
    plan: PlanQuestion | None = None,
) -> Params:
    """The query parameters of a page; without `question` where no link could hold it."""
    params: Params = {} if page == PAGES[0] else {"page": [page.lower()]}
    if question is not None:
        params |= to_params(question)
        if shown is not None:
            params |= shown_to_params(shown, question.options["methods"])
    if plan is not None:
        params |= plan_question.to_params(plan)
    if layer is not None:
        params |= changed(layer, LoraLayer(), LAYER_STEPS)
    return params | ({"record": [record]} if record else {})


# --- the address of this window -------------------------------------------------------------------


def new_link() -> Link | None:
    """What the address says where it was changed from outside, as by a link or by going back; None
    where it was not.

    A change of a widget goes before: the address that came with it may be the one before the last
    was written.
    """
    state, params = st.session_state, _params()
    changed_here = state.pop("changed_here", False)
    if params == state.get("written_params") or (changed_here and "written_params" in state):
        return None
    state["written_params"] = params
    return parsed(params)


def mark_changed() -> None:
    """For every widget of the question, when it changes."""
    st.session_state["changed_here"] = True


def write(params: Params) -> None:
    if _params() != params:
        st.query_params.from_dict(params)
    st.session_state["written_params"] = params


def _params() -> Params:
    return {name: st.query_params.get_all(name) for name in st.query_params}


# --- the layer of the page Learn: only sizes that its sliders have --------------------------------

_POWERS = tuple(2**n for n in range(15))
_WIDTHS = tuple(sorted({2**n for n in range(6, 15)} | {3 * 2**n for n in range(5, 13)}))
LAYER_STEPS: Mapping[str, tuple[int, ...]] = {
    "d": _WIDTHS,
    "k": _WIDTHS,
    "r": _POWERS,
    "alpha": _POWERS,
}
"""What each slider can be set to: powers of two up to 16,384, widths one more between two of them,
as models have."""


def layer_from(params: Params) -> tuple[LoraLayer, tuple[str, ...]]:
    """The layer that a link shows, and a sentence for whatever is passed over."""
    steps = {name: tuple(map(str, of)) for name, of in LAYER_STEPS.items()}
    readers = {name: partial(read_choice, name, of) for name, of in steps.items()}
    values, complaints = pop_params(params, readers)
    complaints += [_no_option("Learn", name, LAYER_STEPS) for name in params]
    layer = LoraLayer(**{name: int(text) for name, text in values.items()})
    return layer, tuple(complaints)
