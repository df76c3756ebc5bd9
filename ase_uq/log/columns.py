"""What a log is made of: one row for every dataset, and one for every setting that must agree; all else goes by them.

Observables come on top, under `observables/<name>`, in units of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OBSERVABLES = "observables/"
# Attribute of a log: what shows that its run has exploded, "" for a sound one. Of fixed size in bytes, so that it is
# changed in place at the end.
EXPLODED, EXPLODED_BYTES = "exploded", 240


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset: its path in the file, its unit, the type and shape of one frame's value, and further attributes."""

    name: str
    unit: str
    dtype: str = "float64"
    shape: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a column before there is a run.

    Attributes
    ----------
    name, unit, dtype
        As in the file.
    per_atom
        Large, logged on request only, and read on request only.
    averageable
        One number a frame that averages can be asked for by this name.
    """

    name: str
    unit: str
    dtype: str = "float64"
    per_atom: bool = False
    averageable: bool = False

    def column(self, shape: tuple[int, ...] = ()) -> Column:
        """Return the column of a run whose frames have values of this shape."""
        return Column(self.name, self.unit, self.dtype, shape)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("step", "1", "int64"),
        Kind("time_fs", "fs"),
        Kind("energy", "eV", averageable=True),
        Kind("energy_var", "eV^2"),
        Kind("energy_members_minus_energy", "eV"),
        Kind("kinetic_energy", "eV", averageable=True),
        Kind("temperature_K", "K", averageable=True),
        Kind("volume", "Å^3", averageable=True),
        Kind("force_std_max", "eV/Å"),
        Kind("force_std_mean", "eV/Å"),
        Kind("weight", "1", averageable=True),
        Kind("energy_baseline", "eV", averageable=True),
        Kind("bias_energy", "eV", averageable=True),
        Kind("positions", "Å", "float32", per_atom=True),
        Kind("forces", "eV/Å", "float32", per_atom=True),
        Kind("forces_var", "(eV/Å)^2", "float32", per_atom=True),
        Kind("cell", "Å", "float32", per_atom=True),
    )
}
PER_ATOM = tuple(kind.name for kind in KINDS.values() if kind.per_atom)


@dataclass(frozen=True, slots=True)
class Setting:
    """A root attribute that logs which are continued must agree in, and, but for some, those averaged together."""

    name: str
    of_averages: bool = True


SETTINGS = (
    Setting("temperature_K"),
    Setting("temperature_end_K"),
    Setting("model_hash"),
    Setting("n_members"),
    Setting("alpha"),
    Setting("driver"),
    Setting("ensemble"),
    Setting("numbers"),
    Setting("sigma_baseline"),
    Setting("energy_offsets"),
    Setting("bias"),
    Setting("pressure_GPa"),
    Setting("timestep_fs", of_averages=False),
)


def key_of(name: str) -> str:
    """Where the values that averages call `name` are in a log."""
    kind = KINDS.get(name)
    return name if kind is not None and kind.averageable else OBSERVABLES + name


def name_of(key: str) -> str:
    """What a dataset is called: an observable by its own name."""
    return key.removeprefix(OBSERVABLES)
