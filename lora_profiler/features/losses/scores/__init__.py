"""The loss of AutoModelForSequenceClassification with one label, as of a reward model: transformers
5.24, `modeling_layers.py` (GenericForSequenceClassification)."""

from typing import Any

from lora_profiler.question.loss import LossFacts, Spelling

FEATURE = LossFacts(
    title="AutoModelForSequenceClassification's, as of a reward model",
    assumption=(
        "The scores loss is AutoModelForSequenceClassification's with one label, as of a reward"
        " model: a head of one output, and of each row its last token's score; more labels are as"
        " many rows of its weight."
    ),
    one_score=True,
    spelled={
        "axolotl": Spelling(
            switches=("reward_model", "process_reward_model", "num_labels"),
            note="a head of one output; each label more is a row of it",
        )
    },
)


def refusals(workload: Any) -> dict[str, object]:
    model = workload.model
    return {
        f"the scores loss needs a head with one output, and {model.id} has none; use setup_for and"
        " workloads, or leave --loss out.": model.output_embedding != "score"
    }
