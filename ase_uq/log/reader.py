"""`read_log`: the record of a run, finished, still growing, cut off by a crash, or damaged.

Frames are those that are whole in every dataset, see `ase_uq.log.survey`; a crash costs none that had been flushed, see
`ase_uq.log.writer`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.units import kB
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.log.accepted import check_settings, check_version
from ase_uq.log.columns import EXPLODED, KINDS, OBSERVABLES, PER_ATOM, name_of
from ase_uq.log.estimator import taken_apart
from ase_uq.log.explosion import exploded
from ase_uq.log.observables import axis_of, is_of_members, mean_the_same
from ase_uq.log.ramp import check_one_temperature, ramp_of
from ase_uq.log.stored import DAMAGE
from ase_uq.log.superblock import SIGNATURE, VERSION, UnclosedFile, heap_ends
from ase_uq.log.survey import attributes_of, plain, surveyed
from ase_uq.log.writer import FORMAT, FORMAT_VERSION
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.spread import MemberSeries, SpreadLaw
from ase_uq.reweighting.thermostat import relaxation_frames

logger = logging.getLogger(__name__)

_UNEVEN = 0.05
_SERIES = (*KINDS, "energy_members")
# Relative; a volume that changes by more than that is not one of a fixed cell.
VOLUME_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run as it was logged, T frames; a field the run did not have is `None`.

    Attributes
    ----------
    path
        The file.
    attributes
        Root attributes: `temperature_K`, `timestep_fs`, `ensemble`, `n_members`, `ddof`, `alpha`, `alpha_forces`,
        `mean_share`, `dof`, `model` (in words), `model_hash`, `driver`, `forces_var` (the name of its estimator, with
        the options as `forces_var_every` and the like), versions, `numbers`; where the target of the thermostat
        changes along the run, `temperature_end_K`; with a barostat that knows its target also `pressure_GPa`, with a
        baseline `sigma_baseline`, `energy_offsets` (JSON), with a bias `bias`; and `exploded`, what shows that the run
        has exploded (`ase_uq.log.explosion`), "" for a sound one.
    step
        (T,), int64, steps of the dynamics, increasing.
    time_fs
        (T,), fs.
    energy
        (T,), eV: the energy the integrator saw.
    kinetic_energy, temperature_K, volume
        (T,), eV, K (instantaneous), Å^3 (NaN without a cell).
    energy_var
        (T,), eV^2: the model's variance.
    energy_members
        (T, M), eV: calibrated members of the potential that drove the run. The array remembers how their spread is to
        be read (`ase_uq.reweighting.spread`), for `reweight`.
    energy_members_minus_energy
        (T, M), eV: the same minus `energy`, as stored, without the digits a large energy costs.
    force_std_max, force_std_mean
        (T,), eV/Å: largest and mean norm of the component standard deviations of an atom; with "stochastic" variances
        of a mean over the last few steps.
    weight, energy_baseline
        (T,), 1 and eV: of the weighted baseline.
    bias_energy
        (T,), eV, of a biased run: what `energy` and the members have of all biases and constraints with an energy.
    observables
        Name to (T,), or (T, ...) where one is an array.
    axes
        Name of an observable with bins to its `Axis`.
    observables_of_members
        Names of the observables that have one value for each member, (T, M).
    units
        Name of every dataset to its unit; observables under their own names.
    positions, forces, forces_var, cell
        (T, N, 3) or (T, 3, 3), float32, in Å, eV/Å, (eV/Å)^2 and Å, where they were stored.
    damage
        What of the file is damaged, in sentences that number its frames from 0. Damaged frames are left out.
    """

    path: Path
    attributes: Mapping[str, Any]
    step: NDArray[np.int64]
    time_fs: Array
    energy: Array
    kinetic_energy: Array
    temperature_K: Array
    volume: Array
    observables: Mapping[str, Array]
    units: Mapping[str, str]
    axes: Mapping[str, Axis] = field(default_factory=dict)
    observables_of_members: frozenset[str] = frozenset()
    energy_var: Array | None = None
    energy_members: Array | None = None
    energy_members_minus_energy: Array | None = None
    force_std_max: Array | None = None
    force_std_mean: Array | None = None
    weight: Array | None = None
    energy_baseline: Array | None = None
    bias_energy: Array | None = None
    positions: NDArray[np.float32] | None = None
    forces: NDArray[np.float32] | None = None
    forces_var: NDArray[np.float32] | None = None
    cell: NDArray[np.float32] | None = None
    damage: tuple[str, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number of frames, T."""
        return len(self.step)

    @property
    def log_weights(self) -> Array | None:
        """What `reweight` takes as `log_weights`: bias_energy/kT, (T,); `None` for a run without a bias.

        Refused for a run whose temperature changes.
        """
        if self.bias_energy is None:
            return None
        check_one_temperature(self.attributes, self.path)
        return np.asarray(self.bias_energy / (kB * float(self.attributes["temperature_K"])))

    def frames(self, part: slice) -> RunLog:
        """Return some of the frames, in everything that has frames."""
        series = {name: values[part] for name in _SERIES if (values := getattr(self, name)) is not None}
        observables = {name: values[part] for name, values in self.observables.items()}
        return replace(self, observables=observables, **series)

    def after(self, skip_fs: float) -> RunLog:
        """Return the frames from a time on; errors as `first_frame`."""
        first = first_frame(self.time_fs, skip_fs)
        return self.frames(slice(first, None)) if first else self


def read_log(path: str | os.PathLike[str], *, per_atom: bool = True, members: bool = True) -> RunLog:
    """Read a log, finished, growing or cut off.

    Parameters
    ----------
    path
        File written by `UncertaintyLogger`.
    per_atom
        Also read positions, forces and the like where they were stored; they can be large.
    members
        Also read the energies of the members, the largest part of a long log without positions.

    Returns
    -------
    RunLog
        All frames that are whole in the file. What is damaged is told as a warning and in `damage`.

    Raises
    ------
    InputError
        If the file is missing, no HDF5 file, no log of this package, of a newer format, or has no whole frame.
    """
    run = recorded(path, per_atom=per_atom, members=members)
    for sentence in run.damage:
        logger.warning("%s: %s", run.path, sentence)
    if run.bias_energy is not None:
        logger.warning("%s is of a biased run: averages of its frames need its `log_weights`", run.path)
    return run


def recorded(
    path: str | os.PathLike[str], *, per_atom: bool = True, members: bool = True, stored: bool = False
) -> RunLog:
    """As `read_log`, for readers who know what to do with the frames of a biased run; `stored` as for `open_log`."""
    left_out = {*(() if per_atom else PER_ATOM), *(() if members else ("energy_members_minus_energy",))}
    with open_log(path, stored=stored or per_atom) as log:
        return run_of(log, [name for name in log.datasets if name not in left_out])


def run_of(log: OpenLog, names: Collection[str]) -> RunLog:
    """Read these datasets of an open log, of which what it does not have is left out; errors as for `read_log`."""
    check_any(log)
    columns = {name: dataset[: log.n_frames] for name, dataset in log.datasets.items() if name in names}
    units = {name_of(key): str(d.attrs["unit"]) for key, d in log.datasets.items()}
    axes = {name_of(key): axis for key, d in log.datasets.items() if (axis := axis_of(d.attrs)) is not None}
    own = frozenset(name_of(key) for key, d in log.datasets.items() if is_of_members(d.attrs))
    if (differences := columns.get("energy_members_minus_energy")) is not None:
        columns["energy_members_minus_energy"] = differences = MemberSeries(
            differences,
            SpreadLaw.of_log(log.attributes),
            relaxation_frames=relaxation_frames(log.attributes, columns["time_fs"]),
            biased="bias_energy" in columns,
            at_several_temperatures=ramp_of(log.attributes) is not None,
        )
    fields = {name: values for name, values in columns.items() if name in RunLog.__dataclass_fields__}
    run = RunLog(
        path=log.path,
        attributes=log.attributes,
        observables={name_of(key): columns[key] for key in columns if key.startswith(OBSERVABLES)},
        units=units,
        axes=axes,
        observables_of_members=own,
        energy_members=None if differences is None else differences + columns["energy"][:, None],
        damage=log.damage,
        **fields,
    )
    return _judged(run)


def _judged(run: RunLog) -> RunLog:
    """Return a run that says of itself whether it has exploded, also where some of its frames are left out later."""
    found = exploded(run)
    for series in (run.energy_members, run.energy_members_minus_energy):
        if isinstance(series, MemberSeries):
            series.exploded = found
    return replace(run, attributes={**run.attributes, EXPLODED: found})


@dataclass(frozen=True, slots=True)
class OpenLog:
    """An open log: its datasets, and the number of frames whole in every one of them; `damage` as that of `RunLog`."""

    path: Path
    attributes: dict[str, Any]
    datasets: dict[str, Any]
    n_frames: int
    damage: tuple[str, ...] = ()


@contextmanager
def open_log(
    path: str | os.PathLike[str], *, stored: bool = False, read: Collection[str] | None = None
) -> Iterator[OpenLog]:
    """Open a log for reading; it may hold no frame yet. Errors as `read_log`.

    Its frames are those whose checksums are right, which takes as long as reading them. What is damaged is in `damage`,
    for the caller to tell.

    Parameters
    ----------
    path
        The log.
    stored
        Whether positions and other per-atom data are looked through, too.
    read
        Names of the other datasets that are looked through, all by default. What is not looked through is refused by
        HDF5 on reading if a chunk of it is damaged.
    """
    where = Path(path)
    with ExitStack() as stack:
        head = _head(where)
        try:
            # Another version is a file of somebody else, or ours after a repacking.
            source: Any = where
            damage = []
            if head[len(SIGNATURE) :] == bytes([VERSION]):
                source = stack.enter_context(UnclosedFile(where))
                damage += [] if source.whole else ["the first bytes of the file are damaged"]
            elif heap_ends(where.read_bytes()):
                raise _unreadable(where, "texts of attributes")
            # Frames are read once, in order: a cache of chunks for every dataset would only hold memory.
            file = stack.enter_context(h5py.File(source, "r", rdcc_nbytes=0))
            log = _survey(where, file, damage, stored=stored, read=read)
        except InputError:
            raise
        except DAMAGE as error:
            raise _unreadable(where, error) from error
        yield log


def check_any(log: OpenLog) -> None:
    """Refuse a log without a whole frame, and say why it has none."""
    if log.n_frames == 0:
        raise InputError(
            f"`{log.path}` must hold at least one complete frame, got none: "
            f"{'; '.join(log.damage) or 'the run has not written yet or was cut off before; wait or run again'}."
        )


def first_frame(time_fs: Array, skip_fs: float) -> int:
    """Return the first frame that averages take when the start of a run is left out as equilibration.

    Parameters
    ----------
    time_fs
        (T,), fs.
    skip_fs
        Time from the first frame on, fs.

    Raises
    ------
    InputError
        If the run ends before.
    """
    length = float(time_fs[-1] - time_fs[0])
    if not 0 <= skip_fs <= length:
        raise InputError(f"`skip_fs` must lie within the run of {length:g} fs, got {skip_fs:g}; leave out less.")
    return int(np.searchsorted(time_fs, time_fs[0] + skip_fs))


def check_spacing(step: NDArray[np.int64], path: Path) -> None:
    """Refuse frames that averages would weigh by how often they were written, and not by the time they stand for.

    Up to three long gaps count as interruptions: nothing was written there.

    Raises
    ------
    InputError
        If plain weights and those by time differ by more than a twentieth (total variation).
    """
    gaps = np.diff(step).astype(np.float64)
    if len(gaps) < 2 or gaps.min() == gaps.max():
        return
    longest = np.partition(gaps, -4)[-4] if len(gaps) > 3 else gaps.max()
    time = np.minimum(gaps, longest)
    if 0.5 * np.abs(time / time.sum() - 1.0 / len(time)).sum() > _UNEVEN:
        found, counts = np.unique(gaps, return_counts=True)
        most = ", ".join(f"{gap:g}" for gap in np.sort(found[np.argsort(counts)[-3:]]))
        raise InputError(
            f"`{path}` must hold frames evenly spaced in time for averages, the steps between them are {most}; leave "
            "out one part by `skip_fs`, or log to another file when the interval changes."
        )


def bias_by_hand(units: Mapping[str, Any]) -> str | None:
    """Name of a logged energy that calls itself a bias, given names and units: some biased runs say no more."""
    return next((name for name, unit in units.items() if "bias" in name.lower() and unit == "eV"), None)


def alike(first: Any, second: Any) -> bool:
    """Whether two datasets of an observable mean the same: shape of a frame, unit, axis, members."""
    return first.shape[1:] == second.shape[1:] and mean_the_same(first.attrs, second.attrs)


def _head(path: Path) -> bytes:
    try:
        if not path.exists():
            raise InputError(f"`{path}` must be a log file, there is none; check the path.")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file"
            raise InputError(f"`{path}` must be a log file, it is {kind}; give the log of a run.")
        with path.open("rb") as stream:
            head = stream.read(len(SIGNATURE) + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"`{path}` must be a log file that can be read: {error}.") from error
    if head.startswith(SIGNATURE):
        return head
    if not head or (len(head) < len(SIGNATURE) and SIGNATURE.startswith(head)):
        raise InputError(f"`{path}` ends before its first frame: it was cut off, or never written.")
    raise InputError(f"`{path}` must be an HDF5 log of ase_uq, it is no HDF5 file; give the log of a run.")


def _survey(path: Path, file: Any, damage: list[str], *, stored: bool, read: Collection[str] | None) -> OpenLog:
    found_attributes, readable = attributes_of(file)
    attributes = plain(found_attributes)
    if not readable and not {"format", "format_version"} <= attributes.keys():
        raise _unreadable(path, "texts of attributes")
    check_version(path, attributes, FORMAT, FORMAT_VERSION)
    check_settings(path, attributes)
    found = surveyed(path, file, attributes, stored=stored, read=read)
    return OpenLog(path, taken_apart(attributes), dict(found.datasets), found.n_frames, (*damage, *found.damage))


def _unreadable(path: Path, error: object) -> InputError:
    return InputError(
        f"`{path}` cannot be read: it was cut off before its first frame, or its header is damaged "
        f"({' '.join(str(error).split())}); the frames may be whole: keep it, and restore it from a copy."
    )
