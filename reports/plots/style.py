"""House style of the figures: matplotlib to inline SVG whose colours follow the page's light or dark scheme.

Figures are drawn in stand-in colours that become CSS variables (`var(--ink)`, `var(--c3)`), so one drawing serves both
schemes and print. Text stays text: it is set in the page's fonts, which are no wider than the font matplotlib measures
with, so what fits here fits there.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#0a0b01"
MUTED = "#0a0b02"
GRID = "#0a0b03"
CARD = "#0a0b04"
ACCENT = "#0a0b05"
FAINT = "#0a0b06"
ON_COLOUR = "#0a0b07"
SERIES = tuple(f"#0a0c{index:02x}" for index in range(10))
SCALE = tuple(f"#0a0d{index:02x}" for index in range(5))  # ordered, low to high
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", CARD: "card", ACCENT: "accent", FAINT: "faint"} | {
    colour: f"c{index}" for index, colour in enumerate(SERIES)
}
VARIABLES |= {ON_COLOUR: "on-colour"} | {colour: f"q{index}" for index, colour in enumerate(SCALE)}

BOUND_COLOURS = {"compute": SERIES[0], "memory": SERIES[1], "vector": SERIES[2], "launch": SERIES[3]}
FONT_PT = 9.0
CHARACTER_IN = 0.6 * FONT_PT / 72  # mean advance of DejaVu Sans, a little generous


def series(index: int) -> str:
    """The colour of the `index`-th series; colours repeat after ten."""
    return SERIES[index % len(SERIES)]


_in_house_style: ContextVar[bool] = ContextVar("in_house_style", default=False)


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style inside this block, whatever the user's matplotlibrc says.

    Setting every parameter takes as long as drawing a small figure, so a page does it once around all of its figures.
    """
    if _in_house_style.get():
        yield
        return
    import matplotlib as mpl

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "chipfront",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": FONT_PT,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": GRID,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": FONT_PT + 1,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "legend.fontsize": FONT_PT - 0.5,
        "figure.facecolor": "none",
        "lines.linewidth": 1.6,
    }
    with mpl.rc_context({**mpl.rcParamsDefault, **settings}):
        token = _in_house_style.set(True)
        try:
            yield
        finally:
            _in_house_style.reset(token)


def new_figure(width_in: float, height_in: float) -> Figure:
    """A figure without pyplot, so that nothing is kept between figures."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def new_canvas(width: float, height: float, scale: float = 1.0) -> tuple[Figure, Axes]:
    """A figure that is one drawing of `width` x `height` units, `scale` inches a unit, without axes around it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * scale, height * scale))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make an axis logarithmic, with plain numbers for ticks: "10", "1 k", "100 G"; fewer where they would crowd."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    decades = math.log10(high / low) if low > 0 else 1.0
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    for factor, prefix in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9999 * factor:
            return f"{value / factor:.4g}{prefix}"
    return f"{value:.4g}"


def to_svg(figure: Figure, *, name: str, description: str, tips: Mapping[str, str] | None = None) -> Markup:
    """Render to an inline SVG element.

    `name` makes the ids unique on the page, `description` is what a screen reader says, and `tips` are texts shown
    when the pointer rests on the artist of that gid. The same figure gives the same bytes.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for gid, tip in (tips or {}).items():
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(tip)}</title>', 1)
    prefix = re.sub(r"\W", "-", name) + "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    width, height = figure.get_size_inches() * 96
    head = (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {width * 0.75:g} {height * 0.75:g}" '
        f'style="width:{width:g}px;min-width:min({width:g}px,34rem)" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1).rstrip())


def fits(text: str, width_in: float, size_pt: float = FONT_PT) -> int:
    """How many characters of `text` fit into `width_in`; all of them where it is short enough."""
    return min(len(text), int(width_in / (CHARACTER_IN * size_pt / FONT_PT)))
