"""Pages of results as a part of the documentation (mkdocs' hook): `results/NAME.md` there, which
links to `benchmarks/results/NAME.md` of the repository lead to."""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\]\(((?:\.\./)*)\.\./benchmarks/results/(\w+\.md)\)")
_BARE_LIST = re.compile(r"^([^-\s|#].*\n)(?=- )", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in sorted((Path(__file__).parent / "results").glob("*.md")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Results are left out of the search, as every word of them is a model or a number, and their
    lists get the empty line before them that Python-Markdown needs."""
    if page.file.src_uri.startswith("results/"):
        page.meta["search"] = {"exclude": True}
        markdown = _BARE_LIST.sub(r"\1\n", markdown)
    return _LINK.sub(r"](\1results/\2)", markdown)
