"""The trainers that `bench --trainer` runs themselves: transformers' Trainer, TRL's SFTTrainer and
DPOTrainer, each given what a setup says and nothing else."""

from collections.abc import Callable, Mapping
from typing import Any

import greenlet
import torch

from lora_profiler._common.packages import installed_version
from lora_profiler.errors import UnbuildableError
from lora_profiler.measuring.harness.case import Case
from lora_profiler.measuring.harness.preflight import name_of, optim_of
from lora_profiler.measuring.harness.process_group import DistributedModel
from lora_profiler.measuring.harness.training import (
    IGNORED_LABEL,
    Enter,
    Training,
    TrainingBatches,
    ballast,
)
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace import modeling
from lora_profiler.trace.modeling import attention_context
from lora_profiler.trace.modeling.third_party import quiet


class TrainerLoop(Training):
    """`trainer`, one of transformers or made of it, as the harness steps through it. Its batches,
    evaluation and clipping are its own, phases of the step that they belong to. `folder` is its
    output's."""

    def __init__(
        self, trainer: Any, setup: TrainSetup, folder: WorkingFolder, ballast_bytes: int = 0
    ) -> None:
        self._folder = folder
        self.setup, self.held, self.of_loop, self.steps_done = setup, None, None, 0
        self.ballast = ballast(setup, ballast_bytes)
        self._trainer, self._losses = trainer, list[torch.Tensor]()
        self._enter: Enter = lambda step, phase: None
        self._follow(trainer)
        self._loop = greenlet.greenlet(trainer.train)
        with attention_context(setup):
            self._loop.switch()  # up to the first batch: by then it has its optimizer
        self.model, self.reference = trainer.model, getattr(trainer, "ref_model", None)
        self.spread = DistributedModel(module=self.model)
        self.optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)

    def step(self, enter: Enter) -> torch.Tensor:
        """One optimizer step with what the trainer does after it; the mean loss of its
        micro-batches."""
        self._enter = enter
        with attention_context(self.setup):
            self._loop.switch()
        if self._loop.dead:
            raise RuntimeError(f"{type(self._trainer).__name__} ended by itself")
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def loss(self) -> torch.Tensor:
        self.model.train()  # which it does itself in a step, and not after evaluation
        batch = self._trainer._prepare_inputs(next(iter(self._trainer.get_train_dataloader())))
        with self._trainer.compute_loss_context_manager():
            loss: torch.Tensor = self._trainer.compute_loss(self.model, batch)
        return loss

    def close(self) -> None:
        """Ends `train()` where it stands: a greenlet that waits is never collected."""
        self._loop.throw(greenlet.GreenletExit)
        self._folder.cleanup()

    def evaluate(self, enter: Enter) -> None:
        """Nothing: the trainer evaluates at the end of its step."""

    def _follow(self, trainer: Any) -> None:
        """Has the trainer tell where it stands, by its own methods and callbacks."""
        from transformers import TrainerCallback

        loop = self

        class Told(TrainerCallback):
            def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
                loop._at("optimizer")

            def on_optimizer_step(self, *_: Any, **__: Any) -> None:
                loop._at("zero")

            def on_step_end(self, *_: Any, **__: Any) -> None:
                loop.steps_done += 1

        trainer.add_callback(Told())
        get_batches, train_on = trainer.get_batch_samples, trainer.training_step

        def get_batch_samples(*args: Any, **kwargs: Any) -> Any:
            self._loop.parent.switch()
            self._at("setup")
            return get_batches(*args, **kwargs)

        def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
            self._at("forward")
            loss: torch.Tensor = train_on(*args, **kwargs)
            self._losses.append(loss)
            return loss

        trainer.get_batch_samples, trainer.training_step = get_batch_samples, training_step
        trainer.evaluate = self._after("evaluation", trainer.evaluate)
        trainer._clip_grad_norm = self._after("clip", trainer._clip_grad_norm)
        trainer.accelerator.backward = self._after("backward", trainer.accelerator.backward)

    def _at(self, phase: Any) -> None:
        number = self.steps_done + (phase != "evaluation")
        self._enter(number, phase)

    def _after(self, phase: Any, method: Callable[..., Any]) -> Callable[..., Any]:
        """`method`, whose call begins `phase`."""

        def told(*args: Any, **kwargs: Any) -> Any:
            self._at(phase)
            return method(*args, **kwargs)

        return told


ENDLESS_STEPS = 1_000_000
"""More than any pass takes: the trainer is left where it stands."""
_ROWS_OF_STEPS = 16
"""Steps until the trainer sees a row again."""
_PAD, _END = "<|pad|>", "<|end|>"
Arguments = dict[str, Any]
"""Of TrainingArguments."""
Base = Callable[[], torch.nn.Module]


def trained_by(
    case: Case, batches: TrainingBatches, on_stage: Callable[[str], None]
) -> TrainerLoop:
    """The trainer that the conditions of `case` name, over the model that the harness' own loop
    would train, up to its first batch. Rows are those of `batches`, and words for DPO."""
    _check_version(case.conditions.trained_by)
    folder = WorkingFolder()
    trainer = make_trainer(case, batches, folder.name, on_stage)
    on_stage("optimizer_build")
    return TrainerLoop(trainer, case.workload.setup, folder, case.conditions.ballast_bytes)


def make_trainer(
    case: Case,
    batches: TrainingBatches,
    folder: str,
    on_stage: Callable[[str], None] = lambda name: None,
) -> Any:
    """The trainer of `trained_by`, before it trains."""
    setup, conditions = case.workload.setup, case.conditions

    def base() -> torch.nn.Module:
        return modeling.build_model(
            case.workload, weights=case.weights, on_stage=on_stage, bare=True
        )

    with quiet():
        arguments = _arguments(setup, conditions, folder)
        trainer = _MAKERS[name_of(conditions.trained_by)](setup, arguments, base, batches)
    for callback in trainer.callback_handler.callbacks[:]:
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    return trainer


def _check_version(trainer: str) -> None:
    """Raises UnbuildableError for another major version than the one that is asked about."""
    library = "transformers" if name_of(trainer) == "transformers" else "trl"
    installed = installed_version(library) or ""
    supported = trainer.partition("@")[2]
    if installed.partition(".")[0] != supported.partition(".")[0]:
        raise UnbuildableError(
            f"{library} {installed} is installed, and --trainer {trainer} is about {supported};"
            " install that one, or add --own-loop."
        )


def _arguments(setup: TrainSetup, conditions: Conditions, folder: str) -> dict[str, Any]:
    """Of TrainingArguments, those that the setup decides; all others are the trainer's own."""
    evaluates = setup.eval_batch_size is not None
    return {
        "output_dir": folder,
        "per_device_train_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "bf16": setup.precision == "amp",
        "fp16": setup.precision == "amp-float16",
        "optim": optim_of(setup),
        "gradient_checkpointing": setup.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        "label_smoothing_factor": setup.label_smoothing_factor,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": 1,
        "per_device_eval_batch_size": setup.eval_batch_size or 1,
        "max_steps": ENDLESS_STEPS,
        "seed": conditions.seed,
        "use_cpu": setup.device == "cpu",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _rows(setup: TrainSetup, batches: TrainingBatches, count: int) -> list[list[int]]:
    """Ids of at least `count` rows, without their padding."""
    length, rows = setup.seq_len - setup.padded_tokens, list[list[int]]()
    while len(rows) < count:
        rows += [ids[:length] for ids in batches.next()["input_ids"].tolist()]
    return rows


def _count(setup: TrainSetup) -> int:
    step = setup.batch_size * setup.accumulation
    return max(_ROWS_OF_STEPS * step, setup.eval_batch_size or 0)


def _by_transformers(
    setup: TrainSetup, arguments: Arguments, base: Base, batches: TrainingBatches
) -> Any:
    import transformers

    rows = _rows(setup, batches, _count(setup))
    padding = setup.padded_tokens
    data: list[Mapping[str, list[int]]] = [
        {
            "input_ids": ids + [0] * padding,
            "labels": ids + [IGNORED_LABEL] * padding,
            "attention_mask": [1] * len(ids) + [0] * padding,
        }
        for ids in rows
    ]
    model = base()
    if setup.lora is not None:
        model = modeling.inject_adapters(model, setup)
        if setup.is_reentrant:
            model.enable_input_require_grads()
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=data,  # a list is a data set to a DataLoader
        eval_dataset=_for_evaluation(data, setup),
        data_collator=transformers.default_data_collator,
    )


def _by_sft(setup: TrainSetup, arguments: Arguments, base: Base, batches: TrainingBatches) -> Any:
    import datasets
    import trl

    rows = _rows(setup, batches, _count(setup))
    model = base()
    data = datasets.Dataset.from_dict({"input_ids": rows})
    return trl.SFTTrainer(
        args=trl.SFTConfig(**arguments, **_lengths(setup)), **_of_trl(setup, model, data)
    )


def _by_dpo(setup: TrainSetup, arguments: Arguments, base: Base, batches: TrainingBatches) -> Any:
    """A pair is two rows. Where the model has no adapters to switch off, a second one is the
    reference."""
    import datasets
    import trl

    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        arguments[name] = max(arguments[name] // 2, 1)
    length = setup.seq_len - setup.padded_tokens
    prompt = max(length // 4, 1)
    answer = " a" * (length - prompt - 1)
    pair = {"prompt": "a" + " a" * (prompt - 1), "chosen": answer, "rejected": answer}
    data = datasets.Dataset.from_list([pair] * _count(setup))
    model = base()
    return trl.DPOTrainer(
        ref_model=base() if setup.lora is None else None,
        args=trl.DPOConfig(**arguments, **_lengths(setup)),
        **_of_trl(setup, model, data),
    )


_MAKERS: Mapping[str, Callable[..., Any]] = {
    "transformers": _by_transformers,
    "trl-sft": _by_sft,
    "trl-dpo": _by_dpo,
}


def _for_evaluation(data: Any, setup: TrainSetup) -> Any:
    """One batch."""
    if setup.eval_batch_size is None:
        return None
    count = setup.eval_batch_size
    return data[:count] if isinstance(data, list) else data.select(range(count))


def _lengths(setup: TrainSetup) -> dict[str, Any]:
    """TRL pads to the longest of a batch, or to a multiple: rows of one length with a padding of
    that share."""
    padded = {"pad_to_multiple_of": setup.seq_len} if setup.is_padded else {}
    return {"max_length": setup.seq_len, **padded}


def _of_trl(setup: TrainSetup, model: torch.nn.Module, data: Any) -> dict[str, Any]:
    """What every trainer of TRL is given."""
    lora = setup.lora
    return {
        "model": model,
        "train_dataset": data,
        "eval_dataset": _for_evaluation(data, setup),
        "processing_class": _tokenizer(),
        "peft_config": None if lora is None else modeling.adapter_config(model, setup),
    }


def _tokenizer() -> Any:
    """Of one word. Weights are random, and TRL asks for a tokenizer all the same."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((_PAD, _END, "a"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END
    )
