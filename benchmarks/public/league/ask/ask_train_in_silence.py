from protocol import GIB, Question, answer, heads, llama_shaped, one_card

CONSTANT_GIB = 2.0
"""What the training formula of `tis.planner.estimator` adds at its end."""


def estimate(question: Question) -> float:
    from tis.planner.estimator import ResourceEstimator
    from tis.planner.models import ModelSpec, TrainingSpec, Workload

    one_card(question)
    llama_shaped(question)
    config = question["config"]
    attention, keys = heads(question)
    found = ResourceEstimator().estimate(
        Workload(
            model=ModelSpec(
                name=question["model"],
                params=question["parameters"],
                num_layers=config["num_hidden_layers"],
                num_heads=attention,
                num_kv_heads=keys,
                hidden_dim=config["hidden_size"],
                vocab_size=config["vocab_size"],
                num_experts=config.get("num_local_experts") or 0,
                active_experts=config.get("num_experts_per_tok") or 0,
            ),
            training=TrainingSpec(
                method=question["method"],
                precision=question["weights"],
                batch_size=question["batch_size"],
                seq_len=question["seq_len"],
            ),
        )
    )
    return (found.required_vram_gb - CONSTANT_GIB) * GIB


answer(estimate)
