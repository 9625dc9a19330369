"""`lora-profile read`: a trainer's file, key by key."""

from contextlib import suppress
from pathlib import Path

import click

from lora_profiler.cli.click_support import NearestChoice, check_new_file, command, print_answer
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import output_options
from lora_profiler.errors import ModelNotFoundError

FRAMEWORK_NAMES = ("axolotl", "torchtune", "llamafactory", "unsloth", "trl", "peft")


@command(
    "read",
    "Show how a trainer's own file is understood, key by key.",
    """
FILE is of axolotl, LLaMA-Factory, torchtune or TRL (YAML, or SFTConfig and TrainingArguments as JSON), an Unsloth notebook, a
script with PEFT and a Trainer, or a text file with a command line of TRL's scripts; accelerate's or DeepSpeed's file may stand behind it. Nothing in a file is run.
Each key is an option, costs nothing, or is not modelled; then the answer is too low, too high, or either way.

Examples:
  lora-profile read qlora.yml                          and `lora-profile qlora.yml` answers it
  lora-profile read sft.yaml zero3.yaml --format json  with the file that accelerate is started with
  lora-profile read -- trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft

Exit code: 0 done; 2 a file that is of no known trainer, contradicts itself, or is none at all.
""",
)
@click.argument("words", metavar="FILE...", nargs=-1, required=True)
@option(
    "--from framework",
    help="Whose file it is. [default: by its keys]",
    type=NearestChoice(FRAMEWORK_NAMES),
)
@output_options("table", "json", "md")
def read_command(
    words: tuple[str, ...], framework: str | None, form: str, output: str | None, force: bool
) -> None:
    """Show each key of a trainer's FILE as understood, and the command that it amounts to."""
    check_new_file(output, force)
    from lora_profiler.cli.trainer_file import model_of, on_model
    from lora_profiler.report.trainer_file import trainer_file_blocks, trainer_file_payload
    from lora_profiler.trainer_files.images import seen_images
    from lora_profiler.trainer_files.reading import read_command as read_words
    from lora_profiler.trainer_files.reading import read_files

    if len(words) > 1 and not Path(words[0]).is_file():
        file = read_words(words, Path())
    else:
        file = read_files([Path(word) for word in words], framework)
    if file.model is not None:
        with suppress(ModelNotFoundError):  # then without what only the model tells
            spec = model_of(file, None, revision=file.revision or "main", offline=True)
            file = on_model(seen_images(file, spec), spec)
    print_answer(
        lambda: {"schema_version": "1.0", **trainer_file_payload(file)},
        lambda: trainer_file_blocks(file),
    )
