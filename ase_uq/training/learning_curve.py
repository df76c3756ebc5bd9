"""Learning curves: what every epoch of a training achieved, as a CSV file.

One row an epoch of every part of a training (a member, a phase). The file grows with the training, so that one that
was interrupted, or is still under way, can be looked at; a training that goes on takes up the rows of its file.
`ase_uq.report.learning_curve` draws it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_uq.errors import InputError
from ase_uq.files import replacing
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
Row = Mapping[str, float | None]


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
