"""What takes seconds to find is found once for a question, as long as the window is open."""

from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")
MOST = 8
"""Answers of one kind that are kept: those of the questions asked last."""


def once(key: str, asked: object, find: Callable[[], T], says: str) -> T:
    """What was found for `asked` before, else what `find` finds now, under a spinner that `says`
    what goes on. `asked` has an equality of its own."""
    kept: list[tuple[Any, T]] = st.session_state.setdefault(f"once.{key}", [])
    for before, found in kept:
        if before == asked:
            return found
    with st.spinner(says, show_time=True):
        found = find()
    kept.append((asked, found))
    del kept[:-MOST]
    return found
