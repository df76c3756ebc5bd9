"""How ASE reads logs, `ase.io.read("run.h5@:")`; `ase_uq.log.ase_entry` tells ASE of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ase_uq.log.columns import OBSERVABLES, name_of
from ase_uq.log.parts import stored_frames
from ase_uq.log.reader import check_any, open_log

logger = logging.getLogger(__name__)

_BLOCK = 256
_IN_INFO = ("step", "time_fs", "energy_var", "kinetic_energy", "temperature_K", "weight", "energy_baseline")


def read_ase_uq(filename: str, index: Any = -1) -> Iterator[Atoms]:
    """Yield structures of a log.

    Parameters
    ----------
    filename
        Log with stored positions.
    index
        Which frames, an integer or a slice, of those that are whole.

    Yields
    ------
    Atoms
        With the energy that drove the run and, where they were stored, forces as results of a calculator; with `step`,
        `time_fs` (fs), `energy_var` (eV^2) and other numbers of the frame, logged observables included, in `info`; and
        with `forces_var` ((eV/Å)^2), where stored, as an array.

    Raises
    ------
    InputError
        If the log cannot be read, or has no frame or no positions.
    """
    with open_log(filename, stored=True) as log:
        check_any(log)
        for sentence in log.damage:
            logger.warning("%s: %s", log.path, sentence)
        # ASE asks for a single frame by a slice that begins there.
        frames = range(log.n_frames)[index if isinstance(index, slice) else slice(index, index + 1 or None)]
        for first in range(0, len(frames), _BLOCK):
            block = frames[first : first + _BLOCK]
            rows = slice(min(block), max(block) + 1)
            here = _structures(log, rows)
            wanted = {frame - rows.start for frame in block}
            found = {i: atoms for i, atoms in enumerate(islice(here, rows.stop - rows.start)) if i in wanted}
            yield from (found[frame - rows.start] for frame in block)


def _structures(log: Any, rows: slice) -> Iterator[Atoms]:
    numbers = {
        name_of(key): log.datasets[key][rows]
        for key, dataset in log.datasets.items()
        if dataset.ndim == 1 and (key in _IN_INFO or key.startswith(OBSERVABLES))
    }
    arrays = {name: log.datasets[name][rows] for name in ("energy", "forces", "forces_var") if name in log.datasets}
    for row, atoms in enumerate(stored_frames(log, rows)):
        frame = atoms.copy()
        frame.info = {name: values[row].item() for name, values in numbers.items()}
        if "forces_var" in arrays:
            frame.set_array("forces_var", arrays["forces_var"][row].astype(np.float64))
        results = {"energy": float(arrays["energy"][row])}
        if "forces" in arrays:
            results["forces"] = arrays["forces"][row].astype(np.float64)
        frame.calc = SinglePointCalculator(frame, **results)
        yield frame
