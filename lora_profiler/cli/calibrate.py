"""`lora-profile calibrate`: this machine's own constants of the step-time model, measured and
kept."""

from lora_profiler._common.packages import TRACING, require
from lora_profiler.cli.click_support import (
    NearestChoice,
    check_new_file,
    command,
    print_answer,
    warn,
)
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import device_here, output_options
from lora_profiler.errors import UsageError
from lora_profiler.question.workload import Device


@command(
    "calibrate",
    "Measure this machine, for predictions of its step times.",
    """
Probes measure large sums, products, attention and 4-bit weights.
Then six training steps run, and two constants are fitted to them.

Examples:
  lora-profile calibrate                    the accelerator, else the CPU
  lora-profile calibrate --device cpu --format json

Exit: 0 done, 2 usage, 4 not measured.
""",
)
@option(
    "--device", help="cuda, cpu", show_default="cuda, else cpu", type=NearestChoice(("cuda", "cpu"))
)
@output_options("table", "json", "md")
def calibrate_command(device: Device | None, form: str, output: str | None, force: bool) -> None:
    """Measure this machine's own constants for step times, and store them.
    Takes two or three minutes on an idle machine; nothing is downloaded."""
    check_new_file(output, force)
    require("calibrating", (*TRACING, "accelerate"))
    from lora_profiler.report.catalogues import calibration_blocks, calibration_payload
    from lora_profiler.report.progress import shown_work
    from lora_profiler.steptime.calibration.calibrate import calibrate
    from lora_profiler.steptime.fit import keep

    chosen = device_here(device)
    if chosen not in ("cuda", "cpu"):
        raise UsageError(f"calibrate knows cuda and cpu, not {chosen}; take --device cpu.")
    with shown_work("Calibrating") as progress:
        calibration = calibrate(chosen, progress)
    path = keep(calibration.local)
    if calibration.was_disturbed:
        warn(
            "other programs took processor time while steps were measured; calibrate again when the"
            " machine is idle."
        )
    if path is None:
        warn("there is no place to keep what was measured; name a folder in LORA_PROFILER_CACHE.")
    print_answer(
        lambda: calibration_payload(calibration, path),
        lambda: calibration_blocks(calibration, path),
    )
