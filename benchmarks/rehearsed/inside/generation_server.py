"""Run by `rehearsed.generation` in an environment with a CUDA build of torch and transformers, over
stub libraries: reads a question a line, and generates with transformers' own `generate`."""

import os
from pathlib import Path
from typing import Any

import torch
from rehearsed.settings import Settings
from rehearsed.weights import stand_in

from benchmarks.rehearsed.inside.steps_server import serve
from lora_profiler.rehearsal import __file__ as rehearsal

CATALOGUE = Path(rehearsal).parents[1] / "catalog" / "data" / "models.json"
stand_in(
    Settings(
        folder=Path(os.environ["LORA_PROFILER_RUN"]),
        steps=0,
        models=CATALOGUE,
        snapshot=None,
        pretends_data=False,
    )
)

import peft  # noqa: E402
import transformers  # noqa: E402
from transformers.generation import GenerationMixin  # noqa: E402


def rehearse(question: dict[str, Any]) -> dict[str, Any]:
    """Bytes that were there before, and the most that were asked for while it generated. A
    pretended card tells no sequence's end, so all go on to the last token, as with a model that
    never ends one."""
    tokens = question["completion"]
    left = iter(range(tokens))
    GenerationMixin._has_unfinished_sequences = lambda *_, **__: next(left, None) is not None  # type: ignore[method-assign]
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            question["model"], dtype=question["dtype"]
        ).cuda()
        if question["rank"]:
            config = peft.LoraConfig(
                r=question["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
            )
            model = peft.get_peft_model(model, config)
        ids = torch.ones((question["rows"], question["prompt"]), dtype=torch.int64, device="cuda")
        settings = transformers.GenerationConfig(
            max_new_tokens=tokens, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=1
        )
        model.eval()
        with torch.no_grad():
            model(input_ids=ids[:1, :1], use_cache=False)  # its workspaces
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_stats()["requested_bytes.all.current"]
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )
    except Exception as error:
        return {"status": "error", "error": f"{type(error).__name__}: {error}"[:300]}
    return {
        "status": "done",
        "tokens": made.shape[1],
        "before_bytes": before,
        "requested_bytes": torch.cuda.memory_stats()["requested_bytes.all.peak"],
    }


if __name__ == "__main__":
    serve(rehearse)
