"""Regenerates the bundled tables of transformers' and PEFT's classes, on the meta device.

    python benchmarks/truth/extract_shapes.py defaults
    python benchmarks/truth/extract_shapes.py shapes
    python benchmarks/truth/extract_shapes.py peft

Class defaults of every config.json type in the catalogue, into
`lora_profiler/facts/catalog/data/defaults.json`; weights of the catalogue models whose family is
not declared in code, into `lora_profiler/facts/catalog/data/shapes.json`; the methods of PEFT that
train layers of a model without values, and the arguments of their config classes, into
`lora_profiler/question/adapters/peft_types.json`. Needs the [measure] extra. Nothing is downloaded:
the facts of `models.json` are enough to build every model. Run it when the newest supported
transformers or PEFT changes a class, and read the difference before committing it.
"""

import dataclasses
import json
import re
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lora_profiler.facts.catalog import meta_build
from lora_profiler.facts.catalog.architectures import FAMILIES
from lora_profiler.facts.catalog.bundled import encode
from lora_profiler.facts.catalog.meta_build import describe

PACKAGE = Path(__file__).parents[2] / "lora_profiler"
DATA = PACKAGE / "facts" / "catalog" / "data"
IRRELEVANT = re.compile(
    r"transformers_version|architectures|output_hidden_states|return_dict|dtype|chunk_size_feed_forward|is_encoder_decoder|"
    r"id2label|label2id|problem_type|initializer_\w+|use_cache|\w*_token_id|\w*_token_index|init_std|init_xavier_std|summary_\w+|"
    r"classifier_dropout\w*|router_aux_loss_coef|pretraining_tp|rope_parameters|\w+_config"
)
"""Fields that change neither weights nor what a training step keeps: token ids, initialisation,
generation, output flags."""


def plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, list) and all(map(plain, value)))
    )


def defaults(model_type: str) -> dict[str, Any]:
    """Class defaults of one config class: fields, old spellings, rope, and its causal language
    model."""
    cls = CONFIG_MAPPING[model_type]
    fields = {}
    for field in dataclasses.fields(cls):
        value = (
            field.default_factory()
            if field.default_factory is not dataclasses.MISSING
            else field.default
        )
        if (
            not IRRELEVANT.fullmatch(field.name)
            and value is not dataclasses.MISSING
            and plain(value)
        ):
            fields[field.name] = value
    rope = getattr(cls(), "rope_parameters", None)
    weightless = []
    if model_type in FAMILIES:
        mixed = (
            {"mlp_only_layers": [0]} if "mlp_only_layers" in fields else {}
        )  # one dense layer, one of experts
        with torch.device("meta"):
            weightless = list(
                describe(AutoModelForCausalLM.from_config(cls(num_hidden_layers=2, **mixed)))[2]
            )
    return {
        "architecture": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type),
        "renamed": {own: name for name, own in cls.attribute_map.items()},
        "rope": rope,
        "weightless": weightless,
        "fields": fields,
    }


def types() -> Iterator[str]:
    """Every model type in the catalogue, those of nested language models and vision towers
    included."""
    seen = set()
    for facts in models():
        seen.add(facts.get("transformers_model_type") or facts["model_type"])
        seen |= {
            nested["model_type"]
            for nested in facts["config"].values()
            if isinstance(nested, dict) and "model_type" in nested
        }
    return iter(sorted(seen & set(CONFIG_MAPPING)))


def models() -> list[dict[str, Any]]:
    return json.loads((DATA / "models.json").read_text())["models"]


def build(facts: dict[str, Any]) -> PreTrainedModel:
    model_type = facts.get("transformers_model_type") or facts["model_type"]
    named = {"model_type": model_type, "architectures": [facts["architecture"]]}
    return meta_build.build({**facts["config"], **named}, facts["id"])


# --- PEFT -----------------------------------------------------------------------------------------

_WRITTEN_BY_PEFT = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}
_OF_QUESTION = {"target_modules", "modules_to_save"}
"""Fields of PEFT's configs that the question names itself, whatever the method is."""
_KINDS: dict[str, Any] = {
    "Linear": lambda: torch.nn.Linear(512, 512),
    "Conv1D": lambda: transformers.pytorch_utils.Conv1D(512, 512),
    "Embedding": lambda: torch.nn.Embedding(512, 512),
    "Conv1d": lambda: torch.nn.Conv1d(512, 512, 3),
    "Conv2d": lambda: torch.nn.Conv2d(512, 512, 3),
    "Conv3d": lambda: torch.nn.Conv3d(512, 512, 3),
}
"""Of the kinds of modules that a question knows, a module of each."""


def peft_types() -> dict[str, Any]:
    """Methods of PEFT that wrap layers, and train a step of a small model on the meta device with
    their own defaults: the config class, its arguments and their defaults, which of them stands for
    a field of the question, the kinds of modules that it adapts, and default targets where these
    are not LoRA's. For the others, why a step cannot be traced."""
    found = {}
    for kind in peft.PeftType:
        config, tuner = PEFT_TYPE_TO_CONFIG_MAPPING[kind], PEFT_TYPE_TO_TUNER_MAPPING.get(kind)
        if not isinstance(getattr(tuner, "prefix", None), str):
            continue  # a prompt, not a method of layers
        if reason := untraceable(config):
            found[kind.lower()] = {"config": config.__name__, "untraceable": reason}
            continue
        fields = {
            f.name: f.default if f.default is not dataclasses.MISSING else None
            for f in dataclasses.fields(config)
            if f.name not in _WRITTEN_BY_PEFT | _OF_QUESTION
        }
        found[kind.lower()] = {
            "config": config.__name__,
            "adapts": [name for name, make in _KINDS.items() if adapts(config, make)],
            "arguments": {name: v if plain(v) else None for name, v in fields.items()},
            "targets": own_targets(tuner),
            "on_quantized": find_spec(f"{tuner.__module__.rpartition('.')[0]}.bnb") is not None,
        }
    return found


def untraceable(config: type) -> str:
    """What a step of the method raises on tensors without values; "" where it runs."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "vocab_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    try:
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
            targets = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
            adapted = peft.get_peft_model(model, config(**targets, task_type="CAUSAL_LM"))
        ids = torch.zeros(2, 16, dtype=torch.long, device="meta")
        adapted.train()(input_ids=ids, labels=ids).loss.backward()
    except Exception as e:  # of any library, on purpose: the row says what it was
        return type(e).__name__ + ": " + " ".join(str(e).split()).partition(". ")[0][:120]
    trained = [p for p in adapted.parameters() if p.requires_grad]
    return "" if trained and any(p.grad is not None for p in trained) else "nothing is trained"


def adapts(config: type, make: Any) -> bool:
    """Whether PEFT wraps such a module."""
    try:
        with torch.device("meta"):
            peft.get_peft_model(
                torch.nn.ModuleDict({"layer": make()}), config(target_modules=["layer"])
            )
    except Exception:  # of any library: a refusal
        return False
    return True


def own_targets(tuner: Any) -> dict[str, Any]:
    """Default targets by model type; of a method but LoRA where LoRA has others or none."""
    of_lora = PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType.LORA].target_module_mapping
    if tuner is PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType.LORA]:
        return dict(of_lora)
    own = getattr(tuner, "target_module_mapping", None) or of_lora
    return {
        model_type: own.get(model_type)
        for model_type in {**of_lora, **own}
        if own.get(model_type) != of_lora.get(model_type)
    }


def write(path: Path, rows: dict[str, Any]) -> None:
    """One line a key: small files and readable differences."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
        for key, value in rows.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(what: str) -> None:
    warnings.simplefilter("ignore")
    if what == "defaults":
        write(DATA / "defaults.json", {t: defaults(t) for t in types()})
    elif what == "shapes":
        write(
            DATA / "shapes.json",
            {
                m["id"]: encode(describe(build(m)))
                for m in models()
                if m["model_type"] not in FAMILIES
            },
        )
    elif what == "peft":
        write(PACKAGE / "question" / "adapters" / "peft_types.json", peft_types())
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
