"""Regenerates the bundled tables of `lora_profiler/facts/catalog/data` from transformers, on the
meta device.

    python benchmarks/truth/extract_shapes.py defaults
    python benchmarks/truth/extract_shapes.py shapes

Class defaults of every config.json type in the catalogue, into
`lora_profiler/facts/catalog/data/defaults.json`; weights of the catalogue models whose family is
not declared in code, into `lora_profiler/facts/catalog/data/shapes.json`. Needs the [measure]
extra. Nothing is downloaded: the facts of `models.json` are enough to build every model. Run it
when the newest supported transformers changes a class, and read the difference before committing
it.
"""

import dataclasses
import json
import re
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lora_profiler.facts.catalog.architectures import FAMILIES
from lora_profiler.facts.catalog.bundled import encode
from lora_profiler.facts.catalog.meta_build import describe

DATA = Path(__file__).parents[2] / "lora_profiler" / "catalog" / "data"
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
    config = CONFIG_MAPPING[model_type].from_dict(
        deepcopy(
            {**facts["config"], "model_type": model_type, "architectures": [facts["architecture"]]}
        )
    )
    with torch.device("meta"):
        return getattr(transformers, facts["architecture"])(config)


def write(name: str, rows: dict[str, Any]) -> None:
    """One line a key: small files and readable differences."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
        for key, value in rows.items()
    )
    (DATA / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(what: str) -> None:
    warnings.simplefilter("ignore")
    if what == "defaults":
        write("defaults.json", {t: defaults(t) for t in types()})
    elif what == "shapes":
        write(
            "shapes.json",
            {
                m["id"]: encode(describe(build(m)))
                for m in models()
                if m["model_type"] not in FAMILIES
            },
        )
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
