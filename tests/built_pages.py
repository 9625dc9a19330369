"""What is broken in pages made of Markdown: a list or a table that ran into a paragraph.

    python tests/built_pages.py SITE

Looks at every page beneath SITE, as `mkdocs build` leaves them, and ends with 1 where one is
broken.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

_ITEM = re.compile(r"([-*+]|\d+[.)]) \S")
_ROW = re.compile(r"\|.+\|\s*$")


class _Paragraphs(HTMLParser):
    """Lines of every paragraph as source had them, without what is code."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._text: list[str] | None = None
        self._code = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "p":
            self._text = []
        elif self._text is not None:
            self._text.append("<")  # "**1. A heading.** Text." is no item
        self._code += tag in ("code", "pre")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre")
        if tag == "p" and self._text is not None:
            self.found += "".join(self._text).split("\n")
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append("x" * len(data) if self._code else data)


def broken_lines(html: str) -> list[str]:
    """Lines within a paragraph that were meant as an item of a list or as a row of a table."""
    parser = _Paragraphs()
    parser.feed(html)
    lines = [line.strip() for line in parser.found]
    return [line for line in lines if _ITEM.match(line) or _ROW.match(line)]


if __name__ == "__main__":
    pages = sorted(Path(sys.argv[1]).rglob("*.html"))
    broken = [(page, line) for page in pages for line in broken_lines(page.read_text("utf-8"))]
    for page, line in broken:
        print(f"{page}: {line[:100]}")
    sys.exit(bool(broken) or not pages)
