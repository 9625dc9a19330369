"""One runner for the benchmarks: their options, progress, going on where one was cut off, and what
is left in `results/`. `Rows` asks questions one after another and writes a row as each is answered;
`once` is for what is made as a whole."""

from argparse import Namespace
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, parser_of, read_document, tell
from benchmarks.rows import Row, continued, parser_of_rows, read_rows, write_rows

Asked = tuple[Iterable[tuple[Hashable, Any]], Callable[[Any], dict[str, Any]]]
"""Questions with their keys, and what answers one."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """`text` is the module's, which --help shows. `again` predicts a row anew."""

    text: str | None
    name: str
    page: Callable[[Sequence[Row]], str]
    key: Callable[[Row], Hashable] = lambda row: row["key"]
    again: Callable[[Row], dict[str, Any]] | None = None

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.jsonl"

    @property
    def page_path(self) -> Path:
        return RESULTS / f"{self.name}.md"

    def main(
        self, asked: Callable[[Namespace], AbstractContextManager[Asked]], **options: Any
    ) -> None:
        """--python: of an environment with a CUDA build of torch; --seconds: after which nothing
        more is begun; --only: of questions with the text in their key; --again: predict anew what
        is there and ask nothing."""
        parser = parser_of_rows(self.text)
        for name, how in {"only": {"default": ""}, **options}.items():
            parser.add_argument(*([name] if "nargs" in how else [f"--{name}"]), **how)
        given = parser.parse_args()
        if given.again:
            rows = read_rows(self.path)
            if self.again is not None:
                rows = list(map(self.again, rows))
                write_rows(self.path, rows)
        else:
            with asked(given) as (questions, made):
                some = [each for each in questions if given.only in str(each[0])]
                rows = continued(self.path, self.key, some, made, given.seconds)
        self.page_path.write_text(self.page(rows), "utf-8")


def once(
    text: str | None,
    name: str,
    outcome: Callable[..., Any],
    report: Callable[[Any], str],
    **options: bool | int | float | str,
) -> Any:
    """The document of `outcome`, which takes `options`. Prints its page; --write writes both;
    --render takes the document that is there."""
    given = vars(parser_of(text, write=False, render=False, **options).parse_args())
    writes, renders = given.pop("write"), given.pop("render")
    document = read_document(name) if renders else outcome(**given)
    tell(name, report(document), document, writes=writes or renders)
    return document
