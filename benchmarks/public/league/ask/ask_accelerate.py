from protocol import Question, RefusedError, answer, folder, one_card

DTYPES = {"bf16": "float16", "fp32": "float32"}


def estimate(question: Question) -> float:
    from accelerate import init_empty_weights
    from accelerate.commands import estimate as command
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoConfig, AutoModel

    one_card(question)
    if question["method"] != "full":
        raise RefusedError("no option for adapters")
    config = AutoConfig.from_pretrained(folder(question))
    with init_empty_weights():
        import torch

        model = AutoModel.from_config(config, torch_dtype=torch.float32)
    total, _largest = calculate_maximum_sizes(model)
    used = command.estimate_training_usage(total, DTYPES[question["weights"]])
    return max(used.values())


answer(estimate)
