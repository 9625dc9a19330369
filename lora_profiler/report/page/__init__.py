"""One HTML page that opens offline, of records and predictions or of the mathematics: first as
plain data, then the page."""

from lora_profiler.report.page.content import Content, report_content
from lora_profiler.report.page.mathematics import mathematics_content
from lora_profiler.report.page.write import check_installed, embedded_data, write_page

__all__ = [
    "Content", "check_installed", "embedded_data", "mathematics_content", "report_content",
    "write_page",
]  # fmt: skip
