from protocol import GIB, Question, answer, one_card


def estimate(question: Question) -> float:
    from hf_vram_calc.calculator import VRAMCalculator
    from hf_vram_calc.config import ConfigManager

    one_card(question)
    calculator = VRAMCalculator(ConfigManager())
    dtype = "int4" if question["method"] == "qlora" else question["weights"]
    weights = calculator.calculate_model_memory(question["parameters"], dtype)
    if question["method"] == "full":
        return calculator.calculate_training_memory(weights) * GIB
    return calculator.calculate_lora_memory(weights, question["parameters"], question["rank"]) * GIB


answer(estimate)
