"""One HTML page of records and predictions that opens offline: first its content as plain data, then the page."""

from lora_profiler.report.page.content import Content, report_content
from lora_profiler.report.page.embedded import embedded_data
from lora_profiler.report.page.write import check_installed, write_page

__all__ = ["Content", "check_installed", "embedded_data", "report_content", "write_page"]
