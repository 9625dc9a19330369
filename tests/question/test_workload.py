"""What makes no sense is refused in words that PEFT and transformers use."""

from dataclasses import replace

import pytest

from golden_files import Golden
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model
from lora_profiler.measuring.records.serialize import setup_from_dict
from lora_profiler.question import workload
from lora_profiler.question.option import Option
from lora_profiler.question.workload import (
    LoraConfig,
    Quantization,
    TrainSetup,
    Workload,
    setup_dict,
)


def test_reentrant_checkpointing_means_nothing_without_checkpointing() -> None:
    assert not TrainSetup(use_reentrant=True).is_reentrant
    assert TrainSetup(use_reentrant=True, checkpointing=True).is_reentrant


def test_a_key_of_before_the_option_is_that_of_its_default() -> None:
    setup = TrainSetup(lora=LoraConfig(r=4))
    data = {name: value for name, value in setup_dict(setup).items() if name != "use_reentrant"}
    assert setup_from_dict(data) == replace(setup, lora=replace(LoraConfig(r=4), lora_alpha=8))


def test_a_value_out_of_range_is_refused_in_words(golden_file: Golden) -> None:
    def answer(made: str) -> str:
        with pytest.raises(UsageError) as refusal:
            eval(made)
        return str(refusal.value)

    golden_file.compare_answers("values-out-of-range", answer)


@pytest.mark.parametrize("name", ["use_rslora", "modules_to_save", "double_quant", "checkpointing"])
def test_an_option_that_comes_later_leaves_older_keys_as_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of the setup it is of, and whether the setup has that part."""
    model = find_model("gpt2")
    full, lora = TrainSetup(), TrainSetup(lora=LoraConfig())
    qlora = replace(lora, quantization=Quantization())
    others = {
        "use_rslora": replace(lora, lora=LoraConfig(use_rslora=True)),
        "modules_to_save": replace(lora, lora=LoraConfig(modules_to_save=("lm_head",))),
        "double_quant": replace(qlora, quantization=Quantization(double_quant=False)),
        "checkpointing": replace(full, checkpointing=True),
    }
    without = [option for option in workload.STORED_OPTIONS if option.name != name]
    (option,) = set(workload.STORED_OPTIONS) - set(without)

    def keys(options: list[Option], setups: list[TrainSetup]) -> list[str]:
        monkeypatch.setattr(workload, "STORED_OPTIONS", options)
        return [Workload(model=model, setup=setup).key for setup in setups]

    later = [*without, option._replace(declared=option.declared._replace(added=99))]
    before = keys(without, [full, lora, qlora])
    assert keys(later, [full, lora, qlora]) == before
    assert keys(later, [others[name]])[0] not in before


def test_more_ranks_than_there_are_machines_for_are_refused_before_each_gets_its_share() -> None:
    with pytest.raises(
        UsageError, match="world size is 1048577; it must be a whole number from 1 to 1048576"
    ):
        TrainSetup(world_size=2**20 + 1, sharding="zero1")
    assert TrainSetup(world_size=2**20, sharding="zero1").world_size == 2**20
