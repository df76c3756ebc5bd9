"""Which ensemble dynamics of ASE sample, and at which pressure, as far as the object knows."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
from ase import units

logger = logging.getLogger(__name__)

ENSEMBLES = ("nve", "nvt", "npt", "nph")

# By the name of a class or of one it is derived from; the most derived counts.
_BY_NAME = {
    "VelocityVerlet": "nve",
    "Langevin": "nvt",
    "Andersen": "nvt",
    "Bussi": "nvt",
    "NVTBerendsen": "nvt",
    "NoseHooverChainNVT": "nvt",
    "NPTBerendsen": "npt",
    "IsotropicMTKNPT": "npt",
    "MTKNPT": "npt",
}


class Ensemble(NamedTuple):
    """Name of an ensemble, "" where it is not known, and target pressure in GPa, `None` without one."""

    name: str
    pressure_GPa: float | None


def ensemble_of(dyn: Any) -> Ensemble:
    """Return what is known of the ensemble that dynamics sample; `None` has none.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.md.nose_hoover_chain import IsotropicMTKNPT
    >>> atoms = bulk("Ar", cubic=True)
    >>> options = {"temperature_K": 80, "pressure_au": 0.1 * units.GPa, "tdamp": 100.0, "pdamp": 1000.0}
    >>> ensemble_of(IsotropicMTKNPT(atoms, 4 * units.fs, **options))
    Ensemble(name='npt', pressure_GPa=0.1)
    """
    for kind in type(dyn).__mro__:
        if kind.__name__ in ("MelchionnaNPT", "NPT") and hasattr(dyn, "pfactor_given"):
            return _of(dyn, thermostat=dyn.ttime is not None, barostat=dyn.pfactor_given is not None)
        if kind.__name__ == "LangevinBAOAB":
            return _of(dyn, thermostat=dyn.temperature_K is not None, barostat=dyn.externalstress is not None)
        if kind.__name__ in _BY_NAME:
            name = _BY_NAME[kind.__name__]
            return Ensemble(name, _pressure(dyn) if name == "npt" else None)
    return Ensemble("", None)


def ensemble_attributes(dyn: Any, given: str | None) -> dict[str, Any]:
    """Return what a log says of the ensemble: the name that was given, else that of the dynamics, else "nvt"."""
    known = ensemble_of(dyn)
    name = (known.name or "nvt") if given is None else given.lower()
    if known.name and name in ENSEMBLES and name != known.name:
        logger.warning("ensemble %r was given, and %s samples %r", name, type(dyn).__name__, known.name)
    return {"ensemble": name} | ({} if known.pressure_GPa is None else {"pressure_GPa": known.pressure_GPa})


def _of(dyn: Any, *, thermostat: bool, barostat: bool) -> Ensemble:
    name = {(True, True): "npt", (True, False): "nvt", (False, True): "nph", (False, False): "nve"}[
        thermostat, barostat
    ]
    return Ensemble(name, _pressure(dyn) if barostat else None)


def _pressure(dyn: Any) -> float | None:
    for attribute in ("pressure", "_pressure_au"):
        if getattr(dyn, attribute, None) is not None:
            return round(float(getattr(dyn, attribute)) / units.GPa, 12)
    stress = getattr(dyn, "externalstress", None)
    if stress is None:
        return None
    # ASE's stress has the other sign.
    array = np.asarray(stress, dtype=np.float64)
    diagonal = np.diag(array) if array.shape == (3, 3) else array.ravel()[:3]
    return round(-float(diagonal.mean()) / units.GPa, 12)
