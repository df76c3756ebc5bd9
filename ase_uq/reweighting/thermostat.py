"""How fast a thermostat lets energies relax, which is how long blocks of a run have to be.

==================  =================================================================================
dynamics            relaxation time
==================  =================================================================================
Langevin            1/friction, the smallest one where atoms differ
Bussi, Berendsen    `taut`
LangevinBAOAB       `T_tau`
Nosé-Hoover         `tdamp`
Andersen            time step over the probability of a collision
==================  =================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import units
from numpy.typing import NDArray


def thermostat_time_fs(dyn: Any) -> float:
    """Relaxation time of the thermostat of ASE dynamics, fs; 0 where there is none, or none that is known."""
    friction, probability = _number(dyn, "fr"), _number(dyn, "andersen_prob")
    times = [_number(dyn, name) for name in ("taut", "T_tau", "_tdamp")]
    times.append(_number(getattr(dyn, "_thermostat", None), "_tdamp"))
    if friction > 0:
        times.append(1.0 / friction)
    if probability > 0:
        times.append(_number(dyn, "dt") / probability)
    return max(times) / units.fs


def relaxation_frames(attributes: Mapping[str, Any], time_fs: NDArray[np.float64]) -> float:
    """Relaxation time of the thermostat of a log in its frames, at times (T,); 0 where the log does not know it."""
    spacing = float(time_fs[-1] - time_fs[0]) / max(len(time_fs) - 1, 1)
    return float(attributes.get("thermostat_time_fs", 0.0)) / spacing if spacing > 0 else 0.0


def _number(thing: Any, name: str) -> float:
    """Smallest positive entry of an attribute, in units of ASE; 0 where there is none."""
    try:
        values = np.asarray(getattr(thing, name, 0.0), dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return 0.0
    positive = values[np.isfinite(values) & (values > 0)]
    return float(positive.min()) if len(positive) else 0.0
