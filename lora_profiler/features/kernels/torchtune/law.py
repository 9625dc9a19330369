"""torchtune 0.7: one vector of frequencies, and cosines and sines of all positions."""

from typing import Any


def buffer_bytes(workload: Any, widths: int) -> int:
    """In float32, of positions that the model may have, of half the rotary width or the whole
    (models/{qwen2,phi3}/_position*_embeddings.py). Builders with adapters make them anew for each
    layer, but those of Llama 3.1 and 3.2 (models/*/_component_builders.py)."""
    model, config = workload.model, workload.model.config
    is_whole = model.model_type.startswith("qwen") or model.architecture == "Phi3ForCausalLM"
    of_token = 4 * widths * (2 if is_whole else 1)
    scaled = (config.get("rope_parameters") or {}).get("rope_type")
    is_shared = workload.setup.lora is None or scaled == "llama3"
    copies = 1 if is_shared else int(config["num_hidden_layers"])
    return copies * (2 * widths + of_token * int(config["max_position_embeddings"]))
