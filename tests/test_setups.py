"""The options of a setup are the same ones, with the same defaults, whichever face asks for
them."""

import pytest

from lora_profiler.catalog import find_model
from lora_profiler.cli.main import predict_command
from lora_profiler.errors import UsageError
from lora_profiler.planning.setups import DEFAULTS, LORA_OPTIONS, QLORA_OPTIONS, setups
from lora_profiler.workload import LoraConfig, TrainSetup

GPT2 = find_model("gpt2")


def test_the_command_line_has_the_same_options_with_the_same_defaults() -> None:
    """By click's own account of what it hands over when nothing is given."""
    ctx = predict_command.make_context("predict", ["gpt2"])
    names = set(DEFAULTS)
    assert names <= set(ctx.params)
    for name in names - {"methods"}:
        assert ctx.params[name] == DEFAULTS[name], name
    beside = {"models", "revision", "offline", "gpu", "torch", "interconnect", "engine"}
    beside |= {"per_layer", "explain", "form", "output", "force"}
    assert set(ctx.params) - names == beside


def test_defaults_are_those_of_a_setup() -> None:
    full, lora = setups(GPT2, DEFAULTS, ())
    assert full == TrainSetup()
    assert lora == TrainSetup(lora=LoraConfig(r=16))


@pytest.mark.parametrize("name", [*LORA_OPTIONS, *QLORA_OPTIONS])
def test_an_option_that_no_method_reads_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
        setups(GPT2, {**DEFAULTS, "methods": ("full",)}, {name})


def test_lists_are_text_with_commas() -> None:
    options = {
        **DEFAULTS,
        "methods": ("lora",),
        "targets": "c_attn, c_proj",
        "layers_to_transform": "0,2-4,3",
        "modules_to_save": "lm_head",
    }
    (setup,) = setups(GPT2, options, ())
    assert setup.lora is not None
    assert setup.lora.target_modules == ("c_attn", "c_proj")
    assert setup.lora.layers_to_transform == (0, 2, 3, 4)
    assert setup.lora.modules_to_save == ("lm_head",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": "c_attn,,"}, "--targets"),
        ({"layers_to_transform": "3-1"}, "--layers-to-transform"),
        ({"layers_to_transform": "0-999999999"}, "no model has that many"),
        ({"modules_to_save": ","}, "--modules-to-save"),
    ],
)
def test_text_that_is_no_list_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        setups(GPT2, {**DEFAULTS, "methods": ("lora",), **change}, ())
