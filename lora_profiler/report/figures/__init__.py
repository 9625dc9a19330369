"""Figures on a page: `draw.js` has plotly.js draw what `report.charts` made, in the reader's
colours.

`plotly-basic.min.js.gz` is that file of `plotly.js-basic-dist-min` 4.1.1 of npm, compressed, under
the MIT licence in `LICENSE.plotly`: bars and scatters in 1.2 MB, so that pages ask nothing of any
other machine.
"""

import base64
import gzip
from functools import cache
from importlib.resources import files
from typing import Any, Final

from lora_profiler.report import palette
from lora_profiler.report.palette import Theme

PLOTLY_SHA256: Final = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
"""Of that file; the tests check it."""


def _file(name: str) -> bytes:
    return files("lora_profiler.report.figures").joinpath(name).read_bytes()


@cache
def plotly_script() -> str:
    return gzip.decompress(_file("plotly-basic.min.js.gz")).decode("utf-8")


@cache
def packed_plotly() -> str:
    """The same in base64 of gzip, which is less than half as long."""
    return base64.b64encode(_file("plotly-basic.min.js.gz")).decode("ascii")


@cache
def drawing_script() -> str:
    return _file("draw.js").decode("utf-8")


def look() -> dict[str, Any]:
    """Paper, ink and type of every figure: the layout of a template of plotly's, in light
    colours."""
    paper, ink, faint, line, panel = (
        of.light
        for of in (palette.PAPER, palette.INK, palette.FAINT_INK, palette.LINE, palette.PANEL)
    )
    small = {"size": palette.SMALL_PX, "color": faint}
    axis = {
        "automargin": True,
        "gridcolor": line,
        "showgrid": False,
        "zeroline": False,
        "tickfont": small,
        "title": {"font": small, "standoff": 8},
    }
    body = {"family": palette.FONT, "size": palette.BODY_PX, "color": ink}
    return {
        "font": body,
        "paper_bgcolor": paper,
        "plot_bgcolor": paper,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": panel, "bordercolor": line, "align": "left", "font": body},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1,
            "maxheight": 2000,
            "yanchor": "bottom",
            "font": small,
            "traceorder": "normal",
        },
        "showlegend": True,
        "minreducedwidth": 10,
        "minreducedheight": 10,
        "xaxis": axis,
        "yaxis": {**axis, "ticklabelstandoff": 6},
    }


@cache
def colours(theme: Theme) -> dict[str, str]:
    """What stands in that theme for each colour of a figure."""
    return {of.light: palette.colour(of, theme) for of in palette.all_colours()}
