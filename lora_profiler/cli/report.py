"""`lora-profile report`: records and what is predicted of them as one HTML page that opens
offline."""

from pathlib import Path

import click

from lora_profiler.cli.click_support import check_new_file, command, warn, write_out
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import engine_option
from lora_profiler.errors import UsageError


@command(
    "report",
    "Write records and predictions as one offline HTML page.",
    """
Of several records with one id the newest counts.
The page needs no network. The same records give the same page.

Examples:
  lora-profile report records.jsonl -o report.html
  lora-profile report runs/ other-machine.jsonl -o all.html --title "Two machines" --force
  lora-profile bench gpt2 -s 512 --report first.html        measure, and write the page of these runs

Exit: 0 done, 2 usage, no readable record, or a missing library.
""",
)
@click.argument("records", metavar="RECORDS...", nargs=-1, required=True, type=click.Path())
@option("-o --output", "FILE", "the page: a new file", required=True)
@engine_option("auto|analytic|compiled|traced", "prediction engine; nothing is traced", option)
@option("--title", "TEXT", "title of the page", show_default="from the records")
@option("--force", help="overwrite it")
def report_command(
    records: tuple[str, ...], output: str, engine: str, title: str | None, force: bool
) -> None:
    """Write measured RECORDS and their predictions as one HTML page.
    RECORDS: files of lora-profile bench, or folders of .jsonl files."""
    check_new_file(output, force)
    check_spares(output, [Path(path) for path in records])
    from lora_profiler.measuring.records.load import read_set
    from lora_profiler.report.page import check_installed, report_content, write_page
    from lora_profiler.runs.comparison.errors import scored

    check_installed()
    read = read_set(map(Path, records))
    for message in read.warnings:
        warn(f"passed over: {message}")
    write_out(write_page(report_content(scored(read.records, engine), title=title)), output)
    click.echo(f"Open it in a browser: {Path(output).absolute().as_uri()}", err=True)


def check_spares(output: str, kept: list[Path]) -> None:
    """Raises UsageError where the page would take the place of a file that must stay: records,
    whatever --force says."""
    for path in kept:
        if path.exists() and Path(output).exists() and path.samefile(output):
            raise UsageError(f"{output} holds the records; name another file for the page.")
