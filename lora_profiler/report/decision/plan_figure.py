"""The front of a plan, drawn."""

from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.plan_choice import cost_of, hours_of
from lora_profiler.report import charts
from lora_profiler.report.charts import FrontPoint
from lora_profiler.report.decision.plan_words import layout_words, price_words, run_words
from lora_profiler.report.page.parts import Drawing
from lora_profiler.units import count_text


def plan_drawing(name: str, plan: TrainingPlan) -> Drawing | None:
    """Hours against money of the runs that no other one beats; None where no run has both."""
    runs = [run for run in plan.front if run.hours and run.cost and run.cost.middle > 0]
    if not runs:
        return None
    named = (plan.recommended, min(runs, key=hours_of), min(runs, key=cost_of))
    points = [
        FrontPoint(
            name=run_words(run),
            said=f"{price_words(run)}; {layout_words(run.setup)}",
            method=run.setup.method,
            hours=hours_of(run),
            cost=cost_of(run),
            is_named=run in named,
            is_recommended=run is plan.recommended,
        )
        for run in runs
    ]
    said = [f"{point.name}: {point.said}" for point in points if point.is_named]
    return Drawing(
        name=name,
        caption="Hours and money of the runs that no other one beats.",
        description=f"{count_text(len(runs))} runs by hours and cost. {'. '.join(said)}.",
        figure=charts.plan_front(points, runs[0].price.currency if runs[0].price else ""),
    )
