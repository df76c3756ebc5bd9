"""Two error bands around a line that can be told apart: sampling in blue, the model in orange, a bound hatched.

=========  =============================================================================
symbol     variable
=========  =============================================================================
x_k        positions (n_points,), of bins or of times; stretches end at gaps and unknown errors
s_k, m_k   `sampling`, `model`: half widths of the two bands
bound_k    whether m_k is an upper bound: members spread by no more than sampling noise
=========  =============================================================================

Bands laid over each other make a third colour, so each fills only what lies outside the narrower one. A point owns the
line up to the middle of its neighbours; there, and where the bands change places, fills meet without a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.report.style import INK, MODEL, MUTED, SAMPLING

Mask = NDArray[np.bool_]

_FILL: dict[str, Any] = {"linewidth": 0.0, "alpha": 0.26}
_HATCH: dict[str, Any] = {"linewidth": 0.0, "facecolor": "none", "edgecolor": MODEL, "hatch": "//////", "alpha": 0.9}
_HOLLOW: dict[str, Any] = {"color": MUTED, "marker": "o", "linestyle": "", "markersize": 4, "markerfacecolor": "none"}
_BOUND = "± model error, upper bound"
_DOTS = (0, (1.2, 1.6))


@dataclass(frozen=True, slots=True)
class Bands:
    """The two errors along a line.

    Attributes
    ----------
    sampling, model
        (n_points,), one standard deviation each; NaN where unknown.
    bound
        (n_points,), where `model` is an upper bound only.
    """

    sampling: Array
    model: Array
    bound: Mask

    @classmethod
    def of(cls, sampling: Array, model: Array, bound: Mask) -> Bands:
        """Take both errors; a model error that is known nowhere, as without members, is left out of the picture."""
        return cls(sampling, np.zeros_like(sampling) if np.isnan(model).all() else model, bound)

    @property
    def known(self) -> Mask:
        """Where both errors are known, (n_points,)."""
        return np.isfinite(self.sampling) & np.isfinite(self.model)


def draw_bands(ax: Axes, x: Array, centre: Array, bands: Bands) -> None:
    """Draw both bands around a line (n_points,); a gap in evenly spaced positions ends them."""
    for stretch in stretches(x, bands.known):
        own = Bands(bands.sampling[stretch], bands.model[stretch], bands.bound[stretch])
        _draw_stretch(ax, _Fine.of(x, stretch, own), centre[stretch], x[stretch])


def stretches(x: Array, known: Mask) -> list[slice]:
    """Return the runs of neighbouring positions that are known."""
    breaks = ~known[1:] | ~known[:-1] | _gaps(x)
    ends = [0, *(np.flatnonzero(breaks) + 1), len(x)]
    return [slice(int(a), int(b)) for a, b in pairwise(ends) if b > a and known[a:b].all()]


def legend_of(bands: Bands) -> list[Artist]:
    """Return what a legend says of the bands that are there."""
    entries: list[Artist] = [
        Line2D([], [], color=INK, linewidth=1.5, label="average"),
        Patch(color=SAMPLING, **_FILL, label="± sampling error"),
    ]
    if (bands.known & ~bands.bound & (bands.model > 0)).any():
        entries.append(Patch(color=MODEL, **_FILL, label="± model error"))
    if (bands.known & bands.bound).any():
        entries.append(Patch(**_HATCH, label=_BOUND))
    if not bands.known.all():
        entries.append(Line2D([], [], **_HOLLOW, label="no error bar"))
    return entries


def mark_unknown(ax: Axes, x: Array, centre: Array, bands: Bands) -> None:
    """Mark points whose errors are not known by hollow circles."""
    if not bands.known.all():
        ax.plot(x[~bands.known], centre[~bands.known], **_HOLLOW, zorder=3)


def edges_of(x: Array, stretch: slice, *, beyond: bool = False) -> Array:
    """Where the points of a stretch begin and end: midway to a neighbour, half a step into a gap.

    The first and the last of all positions end at the point itself, or half a step `beyond`.
    """
    own, n = x[stretch], len(x)
    steps = np.where(_gaps(x), np.diff(x).min(initial=np.inf), np.diff(x))
    before, after = (steps[k] if 0 <= k < n - 1 else 0.0 for k in (stretch.start - 1, stretch.stop - 1))
    if beyond and n > 1:
        before, after = before or steps.min(), after or steps.min()
    return np.concatenate([[own[0] - 0.5 * before], 0.5 * (own[1:] + own[:-1]), [own[-1] + 0.5 * after]])


@dataclass(frozen=True, slots=True)
class _Fine:
    """A stretch on a grid in each of whose cells one band is the wider one, and the model error of one kind."""

    x: Array  # (J,)
    sampling: Array
    model: Array
    bound: Mask  # (J - 1,)

    @classmethod
    def of(cls, x: Array, stretch: slice, bands: Bands) -> _Fine:
        own, edges = x[stretch], edges_of(x, stretch)
        corners = np.unique(np.concatenate([own, edges]))
        s, m = (np.interp(corners, own, band) for band in (bands.sampling, bands.model))
        gap = s - m
        k = np.flatnonzero(gap[:-1] * gap[1:] < 0)
        crossings = corners[k] + (corners[k + 1] - corners[k]) * gap[k] / (gap[k] - gap[k + 1])
        fine = np.sort(np.concatenate([corners, crossings]))
        middles = 0.5 * (fine[1:] + fine[:-1])
        owner = np.clip(np.searchsorted(edges, middles) - 1, 0, len(own) - 1)
        return cls(fine, np.interp(fine, corners, s), np.interp(fine, corners, m), bands.bound[owner])

    @property
    def parts(self) -> Iterator[tuple[slice, bool, bool]]:
        """Runs of cells that look alike: points, whether the model's band is the wider one, whether it is a bound."""
        wider = (self.model - self.sampling)[:-1] + (self.model - self.sampling)[1:] > 0
        for part in _runs(2 * wider + self.bound):
            yield part, bool(wider[part.start]), bool(self.bound[part.start])


def _runs(kind: NDArray[Any]) -> Iterator[slice]:
    """Points (J,) around runs of equal cells (J - 1,)."""
    ends = [0, *(np.flatnonzero(np.diff(kind)) + 1), len(kind)] if len(kind) else []
    for a, b in pairwise(ends):
        yield slice(int(a), int(b) + 1)


def _draw_stretch(ax: Axes, fine: _Fine, centre: Array, x: Array) -> None:
    line = np.interp(fine.x, x, centre)
    of_sampling: dict[str, Any] = {"color": SAMPLING, **_FILL}
    for part, model_is_wider, is_bound in fine.parts:
        at, c = fine.x[part], line[part]
        of_model = _HATCH if is_bound else {"color": MODEL, **_FILL}
        bands = [(fine.sampling[part], of_sampling), (fine.model[part], of_model)]
        (inner, inside), (outer, outside) = bands if model_is_wider else bands[::-1]
        ax.fill_between(at, c - inner, c + inner, **inside)
        for sign in (1.0, -1.0):
            ax.fill_between(at, c + sign * inner, c + sign * outer, **outside)
    for sign in (1.0, -1.0):
        label = "± sampling error" if sign > 0 else None
        ax.plot(fine.x, line + sign * fine.sampling, color=SAMPLING, linewidth=0.9, label=label)
        for part in _runs(fine.bound):
            width, style, text = (0.7, _DOTS, _BOUND) if fine.bound[part.start] else (0.9, "-", "± model error")
            edge, label = line[part] + sign * fine.model[part], text if sign > 0 else None
            ax.plot(fine.x[part], edge, color=MODEL, linewidth=width, linestyle=style, label=label)


def _gaps(x: Array) -> Mask:
    # Bins that were never visited are left out of a profile: evenly spaced otherwise, so that a gap is a multiple.
    steps = np.diff(x)
    if len(steps) == 0 or not (steps > 0).all():
        return np.zeros(len(steps), dtype=np.bool_)
    multiples = steps / steps.min()
    even = np.allclose(multiples, np.round(multiples), atol=1e-6)
    return np.asarray((multiples > 1.5) & even)
