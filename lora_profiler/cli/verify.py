"""`lora-profile verify`: the mathematics of LoRA, each claim checked on a real model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler._common.packages import require
from lora_profiler.cli import click_support
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import output_options
from lora_profiler.errors import UsageError
from lora_profiler.question.model_spec import ModelSpec

if TYPE_CHECKING:
    from lora_profiler.report.claims.claim import Claim


@click_support.command(
    "verify",
    "Check the mathematics of LoRA on a real model.",
    """
Claims: 1 size of the update, 2 shape and merge, 3 forward path, 4 initialisation;
5 scaling, 6 intrinsic dimension, 7 memory and speed. 2, 3 and 4 must hold exactly.
Everything runs on the CPU, with transformers' models and PEFT's layers.

Examples:
  lora-profile verify
  lora-profile verify small --quick                under two minutes on two cores, no network, no download
  lora-profile verify ./my-model --claims 2,3,4
  lora-profile verify HuggingFaceTB/SmolLM2-135M --weights SmolLM2-135M.gguf --text shakespeare.txt

Exit: 0 done, 1 an exact claim fails, 2 usage, 3 no such model, 4 not run.
""",
)
@click.argument(
    "model", metavar="[MODEL]", required=False, shell_complete=click_support.complete_model
)
@option("--claims", "N,N", "claims to check", show_default="all")
@option("--quick", help="fewer ranks, steps and tokens")
@option("--weights", "PATH", "folder or .gguf file", show_default="of MODEL")
@option("--text", "FILE", "text to train on", show_default="Shakespeare", type=Path)
@option("--seed", "N", "random seed", type=click_support.WholeRange(0, 2**31 - 1), default=0)
@option("--offline", help="use cached files only")
@option(
    "--progress",
    help="progress on stderr; json: a line per event",
    type=click_support.NearestChoice(("auto", "json")),
    default="auto",
)
@output_options("table", "json", "md")
@click.pass_context
def verify_command(ctx: click.Context, /, model: str | None, **o: Any) -> None:
    """Check the mathematics of LoRA, claim by claim, on the weights of MODEL.
    MODEL: hub name, folder, or small: a tiny model trained on the spot.
    Default: HuggingFaceTB/SmolLM2-135M, or small without its weights."""
    click_support.check_new_file(o["output"], o["force"])
    claims = chosen(o["claims"])
    require("checking the mathematics")
    from lora_profiler.measuring.records.locks import WorkingFolder
    from lora_profiler.report.progress import shown_checks

    with (
        WorkingFolder() as work,
        shown_checks(len(claims), as_json=o["progress"] == "json") as watch,
    ):
        tell = watch.prepare()  # before torch is loaded
        from lora_profiler.mathematics.sources import VerifyRequest, open_subject
        from lora_profiler.mathematics.subject import effort_for
        from lora_profiler.mathematics.verify import verify
        from lora_profiler.measuring.harness.environment import environment, public_command
        from lora_profiler.report.claims.document import verify_blocks, verify_payload

        names = ("weights", "text", "offline", "quick", "seed")
        request = VerifyRequest(model=model, **{name: o[name] for name in names})
        subject = open_subject(request, Path(work), tell, lambda spec: _admit(spec, claims))
        effort = effort_for(subject.spec.num_parameters, quick=o["quick"])
        checked = verify(subject, claims, effort, o["seed"], watch)
    document = verify_payload(
        subject.spec,
        environment("cpu", command=public_command(sys.argv)),
        checked,
        weights=subject.weights,
        text=subject.text,
        note=subject.note,
        seed=o["seed"],
        quick=o["quick"],
    )
    click_support.print_answer(lambda: document, lambda: verify_blocks(document))
    if any(each.is_broken for each in checked):
        ctx.exit(1)


def chosen(text: str | None) -> "list[Claim]":
    """The claims of '1,4' in their order, all of them for None. Raises UsageError for what is
    none."""
    from lora_profiler.report.claims import CLAIMS

    if text is None:
        return list(CLAIMS)
    words = [word.strip() for word in text.split(",")]
    known = {str(claim.id): claim for claim in CLAIMS}
    for word in words:
        if word not in known:
            raise UsageError(
                f"--claims {text!r}: {word!r} is no claim; give numbers from 1 to {len(CLAIMS)}, as"
                " in 1,4."
            )
    return [claim for number, claim in known.items() if number in words]


def _admit(spec: ModelSpec, claims: "list[Claim]") -> None:
    from lora_profiler.mathematics.verify import check_memory
    from lora_profiler.measuring.harness.machine import memory_limit_bytes, physical_memory_bytes

    check_memory(spec.num_parameters, claims, memory_limit_bytes() or physical_memory_bytes())
