"""Text inside a page that no browser takes for markup: JSON and scripts in elements of their own,
packed where they are large."""

import base64
import json
import zlib
from html.parser import HTMLParser
from typing import Any

PACKED_ABOVE = 50_000
"""Characters: longer texts are deflated (zlib) and written in base64, which browsers undo by
themselves."""
DATA_ID = "data"


def packed(text: str) -> tuple[str, bool]:
    """(what stands in the element, whether it is packed). JSON and base64 alone may stand there as
    they are."""
    if len(text) <= PACKED_ABOVE:
        return text, False
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii"), True


def json_text(document: Any) -> str:
    """Compact JSON in ASCII that ends no script element and begins no comment in one."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def embedded_data(page: str) -> dict[str, Any]:
    """The numbers embedded in a page that `write_page` made, back as they went in. Raises
    ValueError where there are none."""
    reader = _Reader()
    reader.feed(page)
    if reader.text is None:
        raise ValueError("this page holds no data of lora-profiler.")
    text = (
        zlib.decompress(base64.b64decode(reader.text)).decode("utf-8")
        if reader.is_packed
        else reader.text
    )
    document: dict[str, Any] = json.loads(text)
    return document


class _Reader(HTMLParser):
    """Finds the element with the id `DATA_ID`."""

    def __init__(self) -> None:
        super().__init__()
        self.text: str | None = None
        self.is_packed = False
        self._within = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "script" and attributes.get("id") == DATA_ID:
            self._within, self.text, self.is_packed = True, "", "data-packed" in attributes

    def handle_endtag(self, tag: str) -> None:
        self._within = False

    def handle_data(self, data: str) -> None:
        if self._within and self.text is not None:
            self.text += data
