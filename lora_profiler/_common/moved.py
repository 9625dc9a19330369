"""Public names that are no longer names of the package itself: where each of them is."""

MOVED = {
    "question.batching.batches": "Batches batches_of",
    "question.batching.data": "read_lengths",
    "question.batching.sample_lengths": "SampleLengths",
    "facts.catalog": "bundled_gpus bundled_models",
    "facts.catalog.gpus": "Price",
    "runs.comparison.errors": "Comparison",
    "runs.comparison.throughput": "Throughput throughput",
    "errors": "TargetModulesError UnsupportedModelError",
    "measuring.harness": "MeasurementError",
    "planning.advise": "Remedy advise",
    "planning.answers": "answers",
    "planning.crossover": "Crossover",
    "planning.engine": "peak_bytes",
    "planning.fit": "Fit smallest_cards",
    "planning.memory_savings": "Lever best_lever",
    "planning.over_data": "OverData",
    "planning.plan": "TrainingPlan",
    "planning.planned": "Offer PlannedRun",
    "memory.prediction": "FlopCount LayerCost Moment ParameterCount",
    "measuring.records.record": "Environment Measurement Record",
    "report.json.bench": "bench_payload bench_schema",
    "report.json.plan": "plan_schema",
    "report.json.predict": "answer_dict predict_schema prediction_dict",
}
"""Names by module. `lora_profiler` has them too until 0.6, with a DeprecationWarning."""


def moved(package: str, name: str) -> object:
    """What `name` is, None where it never was a name of the package."""
    home = next((home for home, names in MOVED.items() if name in names.split()), None)
    if home is None:
        return None
    import warnings
    from importlib import import_module

    module = f"{package}.{home}"
    warnings.warn(
        f"{package}.{name} is deprecated and ends with 0.6: from {module} import {name}",
        DeprecationWarning,
        stacklevel=3,
    )
    found: object = getattr(import_module(module), name)
    return found
