"""5,000 damaged config.json files: each gets a model or one of this program's own errors, never a
traceback of another kind."""

import json
import random
import sys
from typing import Any

import pytest

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import config as cfg
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.facts.catalog.bundled import rows
from lora_profiler.question.adapters import adapters
from lora_profiler.question.workload import LoraConfig

SEED = 20261125
FILES = 5_000
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**40, 10**9, 10**30, -(2**63), 0.0, 0.5, -0.5,
    1e308, 1e-320, "", "x", "64", "silu", "llama", "\x00", "é" * 50, [], [1], ["full_attention"],
    [None], {}, {"a": {}}, {"rope_type": None}, {"full_attention": 3}, {"rope_theta": []},
    {"type": ["su"], "factor": "x"},
)  # fmt: skip


def mutate(raw: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One to four changes: a key dropped, renamed, repeated elsewhere, or given an odd, scaled or
    off-by-one value."""
    raw = json.loads(json.dumps(raw))
    for _ in range(rng.randint(1, 4)):
        part = rng.choice([raw, *(value for value in raw.values() if isinstance(value, dict))])
        if not part:
            continue
        key = rng.choice(list(part))
        action = rng.randrange(6)
        if action == 0:
            del part[key]
        elif action == 1:
            renamed = rng.choice(list(part)) + rng.choice(["", "s", "_"])
            part[renamed] = part.pop(key)
        elif action == 2 and isinstance(part[key], int):
            part[key] += rng.choice([-1, 1])
        elif action == 3 and isinstance(part[key], int):
            part[key] *= rng.choice([-1, 0, 2, 1000, 0.5])
        else:
            part[key] = rng.choice(ODD)
    return raw


def damage(text: str, rng: random.Random) -> str:
    """Text that is no longer what it was: cut, one character changed, or a piece repeated."""
    at = rng.randrange(len(text))
    action = rng.randrange(3)
    if action == 0:
        return text[:at]
    if action == 1:
        return text[:at] + rng.choice('{}[]",:0\\\n\x00eN-') + text[at + 1 :]
    return text[:at] + text[rng.randrange(len(text)) :]


def test_damaged_configs_are_answered_or_refused(monkeypatch):
    """Torch is hidden, so that an unknown type ends in advice and every file is judged by this
    program alone."""
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    rng = random.Random(SEED)
    originals = [
        {
            "model_type": row["model_type"],
            "architectures": [row["architecture"]],
            "torch_dtype": row["dtype"],
            **row["config"],
        }
        for row in rows()
    ]
    answered = refused = 0
    for number in range(FILES):
        raw = mutate(rng.choice(originals), rng)
        text = json.dumps(raw)
        if rng.random() < 0.2:
            text = damage(text, rng)
        try:
            spec = model_from_config(cfg.parse(text, "file.json"), id="mutant", source="file.json")
            assert spec.num_parameters > 0 and spec.num_layers > 0
            assert all(adapter.num_parameters(8) > 0 for adapter in adapters(spec, LoraConfig()))
            answered += 1
        except LoraProfilerError as error:
            assert str(error).strip() and error.exit_code in (2, 3)
            refused += 1
        except Exception as error:
            pytest.fail(
                f"seed {SEED}, file {number}: {type(error).__name__}: {error}\n{text[:2000]}"
            )
    print(f"seed {SEED}: {answered} answered, {refused} refused")
    assert answered > FILES / 10 and refused > FILES / 10


def test_damaged_configs_of_types_built_by_transformers_too():
    """The same through the real config classes, which raise what they like."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    rng = random.Random(SEED)
    base = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
    }
    base |= {
        "intermediate_size": 48,
        "pad_token_id": 0,
        "rope_theta": 1e4,
        "layer_types": None,
        "rope_scaling": None,
    }
    for number in range(100):
        raw = mutate(
            {
                "model_type": rng.choice(["cohere2", "granite", "falcon", "mamba", "smollm3"]),
                **base,
            },
            rng,
        )
        if any(isinstance(value, int) and abs(value) > 10**6 for value in raw.values()):
            continue  # sizes that torch would take in earnest on the meta device
        try:
            model_from_config(raw, id="mutant", source="file.json")
        except LoraProfilerError:
            pass
        except Exception as error:
            pytest.fail(f"seed {SEED}, file {number}: {type(error).__name__}: {error}\n{raw}")
