"""`reweight_log`: averages from logs in one pass over their frames, with little memory, for many observables at once.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
U, V_b, w                                  `energy`, `energy_baseline`, `weight` of the log
V_i - U                                    `energy_members_minus_energy`
h_i = beta (V_i - U)                       `h`
=========================================  ================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8 to 12 and 20 to 28.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import kB
from numpy.typing import NDArray

from ase_uq.errors import InputError
from ase_uq.reweighting import inverse_temperature
from ase_uq.reweighting.columns import Columns, check_method, columns_for
from ase_uq.reweighting.error_bars import MIN_FRAMES, average
from ase_uq.reweighting.frame_blocks import FrameBlocks
from ase_uq.reweighting.result import ReweightResult
from ase_uq.runlog import OpenLog, open_log

Array = NDArray[np.float64]
Path = str | os.PathLike[str]

TARGETS = ("driven", "model")
_CHUNK = 4096
_SAMPLE = 20_000  # frames from which bins are chosen
_MUST_AGREE = ("temperature_K", "model_hash", "n_members", "alpha", "driver")
_OF_THE_FRAME = ("energy", "kinetic_energy", "temperature_K", "volume", "weight", "energy_baseline")


@dataclass(frozen=True, slots=True)
class _Part:
    """One log from the frame where averages begin."""

    log: OpenLog
    start: int


@dataclass(frozen=True, slots=True)
class _Source:
    """Where values come from, whether they are one per member, and what is wanted of their averages."""

    read: Callable[[_Part, slice], Array]
    own_members: bool
    function: Callable[[Any], Any] | None = None


def reweight_log(
    paths: Path | Sequence[Path],
    observables: Sequence[str] = (),
    *,
    compute: Mapping[str, Callable[[Atoms], Any]] | None = None,
    method: str = "cea",
    skip_fs: float = 0.0,
    target: str = "driven",
    bias: str | None = None,
    functions: Mapping[str, Callable[[Any], Any]] | None = None,
) -> dict[str, ReweightResult]:
    """Average observables of one or several logs under every member, reading each frame once.

    Parameters
    ----------
    paths
        One log, or several of the same model at the same temperature; with 8 or more the sampling error is what runs
        differ by.
    observables
        Names of logged observables, or of what every frame has: "energy" (of member i for member i), "heat_capacity"
        (of the configuration, var(V_i)/(kB T^2), eV/K; add kB/2 for every momentum), "kinetic_energy", "temperature_K",
        "volume".
    compute
        Name to a function of the atoms, evaluated on the stored positions.
    method
        "cea", "direct" or "gap".
    skip_fs
        Time at the start of each log to leave out as equilibration, fs.
    target
        Of a run on a weighted baseline: "driven" averages under V_b + w (V_i - V_b) with the weight of the frame,
        "model" under the members V_i themselves, which frames of small weight make unreliable.
    bias
        Name of a logged observable with the bias energy of a biased run, eV.
    functions
        Name of an observable to a function of its averages, as in `reweight`.

    Returns
    -------
    dict
        Name to result, in the order given.

    Raises
    ------
    InputError
        For a name that is not in the log, logs that do not belong together, positions or members that were not stored,
        or fewer than 20 frames.

    References
    ----------
    arXiv:2011.08828, Eqs. 8 to 12 (baseline) and 20 to 28.
    """
    check_method(method)
    if target not in TARGETS:
        raise InputError(f"`target` must be one of {', '.join(map(repr, TARGETS))}, got {target!r}; choose one.")
    with ExitStack() as stack:
        given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        parts = [_part(stack.enter_context(open_log(path)), skip_fs) for path in given]
        _check_parts(parts)
        names = {**dict.fromkeys(observables), **(compute or {})}
        if not names:
            raise InputError("`observables` must name at least one, got none; the log knows their names.")
        sources = {
            name: _logged(parts[0].log, name) if function is None else _computed(parts[0].log, function)
            for name, function in names.items()
        }
        # Bins of a histogram are many columns; one observable at a time then keeps memory small.
        groups = [[name] for name in sources] if method == "gap" else [list(sources)]
        results: dict[str, ReweightResult] = {}
        for group in groups:
            results |= _pass({name: sources[name] for name in group}, parts, method, target, bias, functions or {})
    return results


def first_structure(path: Path) -> Atoms:
    """First structure of a log with stored positions, for `parse_observables`."""
    with open_log(path) as log:
        if log.n_frames == 0:
            raise InputError(f"`{log.path}` must hold at least one complete frame, got none; run longer.")
        return next(stored_frames(log, slice(0, 1)))


def observe(path: Path, function: Callable[[Atoms], Any]) -> Array:
    """Values (T, ...) of a function of the atoms in every frame of a log with stored positions."""
    with open_log(path) as log:
        source, whole = _computed(log, function), _Part(log, 0)
        parts = [
            source.read(whole, slice(first, min(first + _CHUNK, log.n_frames)))
            for first in range(0, log.n_frames, _CHUNK)
        ]
    return np.concatenate(parts)


def stored_frames(log: OpenLog, part: slice) -> Iterator[Atoms]:
    """Structures of a log with stored positions; they have no calculator."""
    if "positions" not in log.datasets:
        raise InputError(
            f"`positions` must be in the log to compute observables from it, {log.path} has none; run with "
            '`store=("positions",)` (md --store positions).'
        )
    attributes, positions = log.attributes, log.datasets["positions"][part]
    cells = log.datasets["cell"][part] if "cell" in log.datasets else None
    fixed = attributes.get("cell", np.zeros((3, 3)))
    pbc = attributes.get("pbc", cells is not None)
    if cells is None and np.any(pbc) and np.ptp(log.datasets["volume"][part]) > 0:
        raise InputError(
            f"`cell` must be in the log of a run whose volume changes, {log.path} has none; run with "
            '`store=("positions", "cell")`.'
        )
    atoms = Atoms(numbers=attributes["numbers"], pbc=pbc)
    for index, frame in enumerate(positions):
        atoms.set_cell(fixed if cells is None else cells[index])
        atoms.positions = frame
        yield atoms


def _pass(
    sources: Mapping[str, _Source],
    parts: Sequence[_Part],
    method: str,
    target: str,
    bias: str | None,
    functions: Mapping[str, Callable[[Any], Any]],
) -> dict[str, ReweightResult]:
    n_members = int(parts[0].log.attributes["n_members"])
    columns = {name: _columns(source, parts, method, n_members) for name, source in sources.items()}
    n_frames = sum(part.log.n_frames - part.start for part in parts)
    blocks = FrameBlocks(
        sum(each.n for each in columns.values()),
        n_members,
        n_frames=n_frames,
        n_runs=len(parts),
        weighted=method == "direct",
        centred=method != "gap",
    )
    beta = inverse_temperature(float(parts[0].log.attributes["temperature_K"]))
    for part in parts:
        for first in range(part.start, part.log.n_frames, _CHUNK):
            rows = slice(first, min(first + _CHUNK, part.log.n_frames))
            values = [columns[name].build(_finite(name, source.read(part, rows))) for name, source in sources.items()]
            logs = None if bias is None else beta * _finite(bias, _logged(part.log, bias).read(part, rows))
            blocks.add(np.concatenate(values, axis=1), beta * _differences(part.log, rows, target), logs)
        blocks.end_run()
    sums, start, results = blocks.result(), 0, {}
    for name, each in columns.items():
        question = replace(
            each.question,
            function=functions.get(name, sources[name].function),
            alpha=float(parts[0].log.attributes.get("alpha", 1.0)),
            biased=bias is not None,
        )
        results[name] = average(sums.columns(slice(start, start + each.n)), question)
        start += each.n
    return results


def _columns(source: _Source, parts: Sequence[_Part], method: str, n_members: int) -> Columns:
    part = parts[0]
    own = "paired" if source.own_members else None
    if method != "gap":
        return columns_for(source.read(part, slice(part.start, part.start + 1)), method, own, n_members)
    n_frames = sum(each.log.n_frames - each.start for each in parts)
    stride = -(-n_frames // _SAMPLE)
    sample = [
        source.read(each, slice(first, min(first + _CHUNK, each.log.n_frames)))[::stride]
        for each in parts
        for first in range(each.start, each.log.n_frames, _CHUNK)
    ]
    return columns_for(np.concatenate(sample), method, own, n_members)


def _differences(log: OpenLog, rows: slice, target: str) -> Array:
    """Energies of the members minus the energy the integrator saw, (t, M), eV."""
    d: Array = log.datasets["energy_members_minus_energy"][rows]
    if target == "model" and "weight" in log.datasets:
        w, u, v_b = (log.datasets[name][rows] for name in ("weight", "energy", "energy_baseline"))
        # d = w (V_i - V) and U - V_b = w (V - V_b), V being the mean over members.
        d = d / w[:, None] + ((u - v_b) * (1.0 / w - 1.0))[:, None]
    return _finite("energy_members", d)


def _logged(log: OpenLog, name: str) -> _Source:
    if name == "energy":
        return _Source(_energies, own_members=True)
    if name == "heat_capacity":
        return _heat_capacity(log)
    key = name if name in _OF_THE_FRAME else f"observables/{name}"
    if key not in log.datasets:
        known = (
            ", ".join(n.removeprefix("observables/") for n in log.datasets if n.startswith("observables/")) or "none"
        )
        raise InputError(f"`observable` must be in the log, got {name!r}; {log.path} has: {known}.")
    own = bool(log.datasets[key].attrs.get("members", False))
    return _Source(lambda part, rows: part.log.datasets[key][rows].astype(np.float64), own_members=own)


def _energies(part: _Part, rows: slice) -> Array:
    datasets = part.log.datasets
    return np.asarray(datasets["energy"][rows][:, None] + datasets["energy_members_minus_energy"][rows])


def _heat_capacity(log: OpenLog) -> _Source:
    # About the first energy, so that squares keep their digits.
    zero, kelvin = float(log.datasets["energy"][0]), float(log.attributes["temperature_K"])

    def read(part: _Part, rows: slice) -> Array:
        energies = _energies(part, rows) - zero
        return np.stack([energies, energies**2], axis=-1)

    return _Source(read, own_members=True, function=lambda m: (m[1] - m[0] ** 2) / (kB * kelvin**2))


def _computed(log: OpenLog, function: Callable[[Atoms], Any]) -> _Source:
    if getattr(function, "members", False):
        raise InputError(
            "`compute` must be functions of the positions, got one that reads the members of a calculator; log it as "
            "an observable, or use 'energy'."
        )
    next(stored_frames(log, slice(0, 1)))

    def read(part: _Part, rows: slice) -> Array:
        return np.array([function(atoms) for atoms in stored_frames(part.log, rows)], dtype=np.float64)

    return _Source(read, own_members=False)


def _part(log: OpenLog, skip_fs: float) -> _Part:
    if log.n_frames == 0:
        raise InputError(f"`{log.path}` must hold at least one complete frame, got none; run longer.")
    time = log.datasets["time_fs"][: log.n_frames]
    length = float(time[-1] - time[0])
    if not 0 <= skip_fs <= length:
        raise InputError(f"`skip_fs` must lie within the run of {length:g} fs, got {skip_fs:g}; leave out less.")
    return _Part(log, int(np.searchsorted(time, time[0] + skip_fs)))


def _check_parts(parts: Sequence[_Part]) -> None:
    first = parts[0].log
    for log in (part.log for part in parts):
        if "energy_members_minus_energy" not in log.datasets:
            raise InputError(
                f"{log.path} has no `energy_members`, so nothing can be reweighed; log a model with members."
            )
        for name in _MUST_AGREE:
            if log.attributes.get(name) != first.attributes.get(name):
                raise InputError(
                    f"`paths` must be logs of one model at one temperature, {log.path} has {name} "
                    f"{log.attributes.get(name)!r} and {first.path} {first.attributes.get(name)!r}; reweigh them "
                    "apart, or join states with `ase_uq.multistate`."
                )
    n_frames = sum(part.log.n_frames - part.start for part in parts)
    if n_frames < MIN_FRAMES:
        raise InputError(
            f"`paths` must hold at least {MIN_FRAMES} frames after `skip_fs`, got {n_frames} in {first.path}; run "
            "longer."
        )


def _finite(name: str, values: Array) -> Array:
    if not np.isfinite(values).all():
        raise InputError(f"`{name}` must be finite in every frame of the log, got {values[~np.isfinite(values)][0]}.")
    return values
