"""Docs: the guides of this version, to read without a network."""

import re
from functools import cache

import streamlit as st

from lora_profiler.dashboard import link, remembered, widgets
from lora_profiler.dashboard.serving import shipped

_FIRST = "Does it fit?"


def show() -> None:
    link.write(link.written("Docs", remembered.question()))
    texts = guides()
    if not texts:
        widgets.note("This installation has no guides; see docs/ of the repository.")
        return
    titles = list(texts)
    first = titles.index(_FIRST) if _FIRST in texts else 0
    title = st.selectbox("Guide", titles, first, key="docs.guide", persist_state="session")
    st.markdown(texts[title])


@cache
def guides() -> dict[str, str]:
    """Text of each guide by its title. Pictures, and links to other files, are left out; code has
    no colours, as not all of the page's can be read."""
    folder = shipped("docs/guide")
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.md"))] if folder else []
    return {text.partition("\n")[0].removeprefix("# "): _readable(text) for text in texts}


def _readable(text: str) -> str:
    without_pictures = re.sub(r"\[?!\[[^]]*\]\([^)]*\)(\]\([^)]*\))?", "", text)
    without_links = re.sub(r"\[([^]]+)\]\((?!https?://)[^)]*\)", r"\1", without_pictures)
    return re.sub(r"(?m)^( *```)\S.*$", r"\1text", without_links)
