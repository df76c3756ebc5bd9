"""Numbers along an axis that stay short: a power of ten goes into the label of the axis, once."""

from __future__ import annotations

from math import floor, log10

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

_PLAIN = range(-3, 5)  # exponents of the largest number that is written out
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def short_ticks(ax: Axes, *, n: int = 6) -> str:
    """Set the vertical ticks for the limits as they are, and return the power of ten they were divided by.

    Parameters
    ----------
    n
        Intervals at most.

    Returns
    -------
    str
        To be put before the unit, as in "10⁻⁵ "; empty where the numbers are short as they are.
    """
    ax.yaxis.set_major_locator(MaxNLocator(nbins=n, steps=[1, 2, 2.5, 5, 10]))
    largest = max(abs(limit) for limit in ax.get_ylim())
    exponent = floor(log10(largest)) if largest > 0 else 0
    if exponent in _PLAIN:
        return ""
    scale = 10.0**exponent
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale:.10g}".replace("-", "−")))
    return f"10{str(exponent).translate(_SUPERSCRIPTS)} "


def with_unit(text: str, unit: str, power: str = "") -> str:
    """Write a name with its unit in brackets; a number without a unit has none, and dollar signs are no mathematics.

    Examples
    --------
    >>> with_unit("pressure", "eV/Å^3", "10⁻⁵ "), with_unit("g(r)", "1"), with_unit("count", "1", "10⁶ ")
    ('pressure (10⁻⁵ eV/Å^3)', 'g(r)', 'count (10⁶)')
    """
    inside = f"{power}{'' if unit == '1' else unit}".strip()
    # A pair of dollar signs in a name would start mathematics.
    return (f"{text} ({inside})" if inside else text).replace("$", r"\$")
