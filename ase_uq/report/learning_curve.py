"""The figure of a learning curve: errors and losses of a training, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from ase.units import GPa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ase_uq.errors import InputError
from ase_uq.report.style import MUTED, STYLE, plain_log_axis

_SHORT_AXIS = 4.0
Row = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    column: str
    unit: str
    factor: float


_PANELS = (
    _Panel("Forces", "valid_forces_rmse_eV_per_A", "meV/Å", 1e3),
    _Panel("Energies", "valid_energy_rmse_eV_per_atom", "meV/atom", 1e3),
    _Panel("Stress", "valid_stress_rmse_eV_per_A3", "GPa", 1.0 / GPa),
    _Panel("Loss", "valid_loss", "", 1.0),
)


def learning_curve_figure(rows: Mapping[str, Sequence[Row]], *, in_turn: bool = False) -> Figure:
    """Validation errors of forces, energies and, where there are labels, stress, and the losses, epoch by epoch.

    Parameters
    ----------
    rows
        Of every part, see `ase_uq.training.learning_curve.read_learning_curve`.
    in_turn
        Draw the parts one after the other, as phases of one training are done, not side by side.

    Raises
    ------
    InputError
        For no rows at all.
    """
    drawn = {part: found for part, found in rows.items() if found}
    if not drawn:
        raise InputError("`rows` must hold at least one epoch, got none; train first.")
    panels = [p for p in _PANELS if any(row.get(p.column) is not None for found in drawn.values() for row in found)]
    starts = _starts(drawn, in_turn)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(panels), 2.9), layout="constrained")
        for ax, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            _draw(ax, panel, drawn, starts)
        handles, _ = figure.axes[0].get_legend_handles_labels()
        handles.append(Line2D([], [], color=MUTED, marker="o", markersize=4.5, linestyle="", label="weights kept"))
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure


def _starts(rows: Mapping[str, Sequence[Row]], in_turn: bool) -> dict[str, int]:
    starts, start = {}, 0
    for part, found in rows.items():
        starts[part] = start
        start += int(found[-1]["epoch"] or 0) if in_turn else 0
    return starts


def _colours(n: int) -> Callable[[int], Any]:
    # Told apart in grey and by colour-blind readers; yellow would be lost on white.
    return lambda k: mpl.colormaps["viridis"](0.85 * k / max(1, n - 1))


def _draw(ax: Axes, panel: _Panel, rows: Mapping[str, Sequence[Row]], starts: Mapping[str, int]) -> None:
    colour = _colours(len(rows))
    seen: list[float] = []
    for k, (part, found) in enumerate(rows.items()):
        epochs = np.array([row["epoch"] or 0 for row in found]) + starts[part]
        values = _values(found, panel.column) * panel.factor
        marker = "." if len(epochs) == 1 else None
        ax.plot(epochs, values, color=colour(k), label=part, marker=marker)
        if panel.column == "valid_loss":
            trained = _values(found, "train_loss")
            ax.plot(epochs, trained, color=colour(k), linewidth=0.7, linestyle=(0, (3, 2)))
            seen += trained.tolist()
        # The weights that were kept.
        best = int(np.argmin(_values(found, "valid_loss")))
        ax.plot(epochs[best], values[best], "o", color=colour(k), markersize=4.5, clip_on=False, zorder=3)
        seen += values.tolist()
    ax.set_title(panel.title + (f" ({panel.unit})" if panel.unit else ""))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    is_loss = panel.column == "valid_loss"
    note = "dashed: training" if is_loss else "RMSE on validation"
    ax.set_title(note, loc="right", color=MUTED, fontsize=7.5)
    finite = [value for value in seen if math.isfinite(value)]
    # A short logarithmic axis has a single number on it.
    if finite and min(finite) > 0 and max(finite) > _SHORT_AXIS * min(finite):
        plain_log_axis(ax, "y")


def _values(rows: Sequence[Row], column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = [row.get(column) for row in rows]
    return np.array([math.nan if value is None else value for value in values])
