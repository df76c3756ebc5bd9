"""Learning curves: what every epoch of a training achieved, as a CSV file and as a figure.

One row an epoch of every part of a training (a member, a phase). The file grows with the training, so that one that
was interrupted, or is still under way, can be looked at; a training that goes on takes up the rows of its file.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from ase.units import GPa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ase_uq.errors import InputError
from ase_uq.files import replacing
from ase_uq.plots import MUTED, STYLE, plain_log_axis
from ase_uq.training.fit import EpochRecord

# Column of the file -> attribute of the record.
COLUMNS = {
    "epoch": "epoch",
    "seconds": "seconds",
    "learning_rate": "learning_rate",
    "train_loss": "train_loss",
    "valid_loss": "valid_loss",
    "valid_energy_rmse_eV_per_atom": "energy_rmse",
    "valid_forces_rmse_eV_per_A": "forces_rmse",
    "valid_stress_rmse_eV_per_A3": "stress_rmse",
}
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


class LearningCurve:
    """The rows of a training, kept in a CSV file while it runs.

    Parameters
    ----------
    path
        The file; an old one is replaced when the first epoch is done.
    parts
        Names of the parts, such as `"member 0"`.
    resume
        Take up the rows of an existing file: those before the first epoch that is recorded anew.

    Raises
    ------
    InputError
        If a file to be resumed is not one of these.
    """

    def __init__(self, path: str | Path, parts: Sequence[str], *, resume: bool = False) -> None:
        self.path, self.parts = Path(path), list(parts)
        self._rows: dict[str, dict[int, Row]] = {part: {} for part in parts}
        self._taken_up = set[str]()
        if resume and self.path.exists():
            for part, rows in read_learning_curve(self.path).items():
                if part in self._rows:
                    self._rows[part] = {int(row["epoch"] or 0): row for row in rows}
        self._terms = sorted({name for rows in self.rows.values() for row in rows for name in row} - set(COLUMNS))
        self._begun = False

    @property
    def rows(self) -> dict[str, list[Row]]:
        """Rows of every part, by epoch: column -> value."""
        return {part: [rows[epoch] for epoch in sorted(rows)] for part, rows in self._rows.items()}

    def add(self, part: int, record: EpochRecord) -> None:
        """Append an epoch of a part, given by its place among them."""
        name = self.parts[part]
        row = {column: getattr(record, attribute) for column, attribute in COLUMNS.items()}
        row |= record.terms
        rows = self._rows[name]
        outdated = [epoch for epoch in rows if epoch >= record.epoch] if name not in self._taken_up else []
        self._taken_up.add(name)
        for epoch in outdated:
            del rows[epoch]
        rows[record.epoch] = row
        new_terms = sorted(set(record.terms) - set(self._terms))
        self._terms += new_terms
        # The first epoch begins the file: until then an old one is left alone, whatever is wrong with the input.
        if outdated or new_terms or not self._begun:
            self._begun = True
            self._write_all()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow({"part": name, **_texts(row)})

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, ["part", *COLUMNS, *self._terms], lineterminator="\n")

    def _write_all(self) -> None:
        with replacing(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows({"part": part, **_texts(row)} for part, rows in self.rows.items() for row in rows)


def _texts(row: Row) -> dict[str, str]:
    return {name: "" if value is None else f"{value:.8g}" for name, value in row.items()}


def read_learning_curve(path: str | Path) -> dict[str, list[dict[str, float | None]]]:
    """Read a learning curve: rows of every part, column -> value, `None` where a training has no such number.

    Raises
    ------
    InputError
        If the file is not one.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"part", *COLUMNS} <= set(reader.fieldnames or ()):
                raise ValueError("columns are missing")
            found: dict[str, list[dict[str, float | None]]] = {}
            for line in reader:
                part = line.pop("part")
                # A last line that was cut off has no value for the columns that are missing.
                found.setdefault(part, []).append({k: float(v) if v else None for k, v in line.items()})
            return found
    except (OSError, ValueError, TypeError) as e:
        raise InputError(f"`{path}` must be the learning curve of a training ({e}); delete it to start anew.") from e


def learning_curve_figure(rows: Mapping[str, Sequence[Row]], *, in_turn: bool = False) -> Figure:
    """Validation errors of forces, energies and, where there are labels, stress, and the losses, epoch by epoch.

    Parameters
    ----------
    rows
        Of every part, see `read_learning_curve`.
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
