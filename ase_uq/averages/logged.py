"""`reweight_log`: averages from logs in one pass over their frames, with little memory, for many observables at once.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
U, V_b, w                                  `energy` without a bias, `energy_baseline`, `weight` of the log
V_i - U                                    `energy_members_minus_energy`
h_i = beta (V_i - U)                       `h`
=========================================  ================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8 to 12 and 20 to 28.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.units import GPa, kB
from numpy.typing import NDArray

from ase_uq.averages.run_checks import after, gates_of_runs
from ase_uq.errors import InputError
from ase_uq.log.bias import Bias, LoggedBias, logged_bias
from ase_uq.log.columns import key_of
from ase_uq.log.observables import is_of_members
from ase_uq.log.parts import LogPart, Path, dataset_of, finite, observed, opened, stored_frames, stretches
from ase_uq.log.reader import VOLUME_TOLERANCE, OpenLog, run_of
from ase_uq.observables.observable import Observable, ObservableLike, named_observables
from ase_uq.reweighting import inverse_temperature
from ase_uq.reweighting.columns import Columns, check_method, columns_for
from ase_uq.reweighting.error_bars import average
from ase_uq.reweighting.frame_blocks import FrameBlocks
from ase_uq.reweighting.free_energy import ProfileBins
from ase_uq.reweighting.gates import YES_OR_NO, Gate, sentences
from ase_uq.reweighting.result import ReweightResult
from ase_uq.reweighting.spread import SpreadLaw
from ase_uq.reweighting.thermostat import relaxation_frames

Array = NDArray[np.float64]

TARGETS = ("driven", "model")
_NO_BIAS = LoggedBias(None, None)
_SAMPLE = 20_000  # frames from which bins are chosen


@dataclass(frozen=True, slots=True)
class _Settings:
    """What holds for all observables of a pass."""

    method: str
    target: str
    bias: LoggedBias
    beta: float


@dataclass(frozen=True, slots=True)
class _Source:
    """Where values come from, whether they are one per member, and what is wanted of their averages."""

    read: Callable[[LogPart, slice], Array]
    own_members: bool
    function: Callable[[Any], Any] | None = None
    gates: tuple[Gate, ...] = ()


def reweight_log(
    paths: Path | Sequence[Path],
    observables: Sequence[str] = (),
    *,
    compute: Mapping[str, ObservableLike] | None = None,
    method: str = "cea",
    skip_fs: float = 0.0,
    target: str = "driven",
    bias: Bias = None,
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
        (of the whole cell and of the configuration alone, eV/K; add kB/2 for every momentum), "kinetic_energy",
        "temperature_K", "volume". The heat capacity is var(V_i)/(kB T^2) at constant volume and var(V_i + P V)/(kB T^2)
        in a run at constant pressure P, which must be in the log; a gate says where there was no heat bath.
    compute
        Name to what is worked out from the stored positions: functions, pairs or `Observable`s, as for the logger.
    method
        "cea", "direct" or "gap".
    skip_fs
        Time at the start of each log to leave out as equilibration, fs.
    target
        Of a run on a weighted baseline: "driven" averages under V_b + w (V_i - V_b) with the weight of the frame,
        "model" under the members V_i themselves, which frames of small weight make unreliable.
    bias
        Averages of a biased run are without its bias by default: weights exp(beta B) with the bias energy B that the
        run recorded. The name of a logged observable, eV, takes that one instead; `False` averages the run as it was.
    functions
        Name of an observable to a function of its averages, as in `reweight`.

    Returns
    -------
    dict
        Name to result, in the order given; its gates and warnings begin with those of the runs.

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
    with opened(paths, skip_fs) as parts:
        settings = _settings(parts, method, target, bias)
        names = {**dict.fromkeys(observables), **named_observables(compute or {}, "compute")}
        if not names:
            raise InputError("`observables` must name at least one, got none; the log knows their names.")
        sources = {
            name: _logged(parts, name, settings) if observable is None else _computed(parts[0].log, observable)
            for name, observable in names.items()
        }
        for name, function in (functions or {}).items():
            sources[name] = replace(sources[name], function=function)
        # Bins of a histogram are many columns; one observable at a time then keeps memory small.
        groups = [[name] for name in sources] if method == "gap" else [list(sources)]
        results: dict[str, ReweightResult] = {}
        for group in groups:
            results |= _pass({name: sources[name] for name in group}, parts, settings)
    return results


def free_energy_of_log(
    paths: Path | Sequence[Path],
    observable: str,
    *,
    bins: int = 40,
    method: str = "gap",
    skip_fs: float = 0.0,
    target: str = "driven",
    bias: Bias = None,
) -> tuple[Array, ReweightResult]:
    """Free energy along a logged number, as `free_energy_profile` gives it from arrays.

    Parameters
    ----------
    paths, skip_fs, target, bias
        As for `reweight_log`.
    observable
        Name of a logged number.
    bins
        Between its extremes.
    method
        "gap" or another one of `reweight`.

    Returns
    -------
    centres, result
        (S,) in the unit of the observable, and the profile in eV; see `free_energy_profile`.

    Raises
    ------
    InputError
        As `reweight_log`.
    """
    check_method(method)
    with opened(paths, skip_fs) as parts:
        settings = _settings(parts, method, target, bias)
        numbers = _number(parts, observable)
        values = np.concatenate([numbers.read(part, rows) for part, rows in stretches(parts)])
        histogram = ProfileBins.of(finite(observable, values), bins)
        thermal = 1.0 / settings.beta
        source = _Source(
            lambda part, rows: histogram.columns(numbers.read(part, rows)),
            own_members=False,
            function=lambda p: histogram.free_energy(p, thermal),
        )
        return histogram.centres, _pass({observable: source}, parts, settings)[observable]


def _settings(parts: Sequence[LogPart], method: str, target: str, bias: Bias) -> _Settings:
    if target not in TARGETS:
        raise InputError(f"`target` must be one of {', '.join(map(repr, TARGETS))}, got {target!r}; choose one.")
    beta = inverse_temperature(float(parts[0].log.attributes["temperature_K"]))
    return _Settings(method, target, logged_bias(parts, bias, target), beta)


def _pass(sources: Mapping[str, _Source], parts: Sequence[LogPart], settings: _Settings) -> dict[str, ReweightResult]:
    n_members = int(parts[0].log.attributes["n_members"])
    columns = {name: _columns(source, parts, settings.method, n_members) for name, source in sources.items()}
    blocks = FrameBlocks(
        sum(each.n for each in columns.values()),
        n_members,
        n_frames=sum(part.log.n_frames - part.start for part in parts),
        n_runs=len(parts),
        weighted=settings.method == "direct",
        centred=settings.method != "gap",
    )
    for part in parts:
        for _, rows in stretches([part]):
            values = [columns[name].build(finite(name, source.read(part, rows))) for name, source in sources.items()]
            logs = settings.bias.log_weights(part.log, rows, settings.beta)
            h = settings.beta * _differences(part.log, rows, settings.target, settings.bias)
            blocks.add(np.concatenate(values, axis=1), h, logs, part.log.datasets["energy"][rows])
        blocks.end_run()
    sums, start, results = blocks.result(), 0, {}
    gates = _gates_of_runs(parts, biased=settings.bias.weights is not None)
    for name, each in columns.items():
        question = replace(
            each.question,
            function=sources[name].function,
            law=SpreadLaw.of_log(parts[0].log.attributes),
            biased=settings.bias.weights is not None,
            relaxation_frames=max(_relaxation(part) for part in parts),
        )
        result, said = average(sums.columns(slice(start, start + each.n)), question), (*gates, *sources[name].gates)
        results[name] = replace(result, gates=(*said, *result.gates), warnings=(*sentences(said), *result.warnings))
        start += each.n
    return results


def _relaxation(part: LogPart) -> float:
    return relaxation_frames(part.log.attributes, part.log.datasets["time_fs"][part.start : part.log.n_frames])


def _gates_of_runs(parts: Sequence[LogPart], *, biased: bool) -> tuple[Gate, ...]:
    runs = [after(run_of(part.log, per_atom=False, members=False), part.start) for part in parts]
    return gates_of_runs(runs, unbiased=not biased)


def _columns(source: _Source, parts: Sequence[LogPart], method: str, n_members: int) -> Columns:
    part = parts[0]
    own = "paired" if source.own_members else None
    if method != "gap":
        return columns_for(source.read(part, slice(part.start, part.start + 1)), method, own, n_members)
    n_frames = sum(each.log.n_frames - each.start for each in parts)
    stride = -(-n_frames // _SAMPLE)
    sample = [source.read(each, rows)[::stride] for each, rows in stretches(parts)]
    return columns_for(np.concatenate(sample), method, own, n_members)


def _differences(log: OpenLog, rows: slice, target: str, bias: LoggedBias = _NO_BIAS) -> Array:
    """Energies of the members minus that of the driving potential, neither with the bias they share, (t, M), eV."""
    d: Array = log.datasets["energy_members_minus_energy"][rows]
    if target == "model" and "weight" in log.datasets:
        w, v_b = log.datasets["weight"][rows], log.datasets["energy_baseline"][rows]
        if not np.all(w > 0):
            raise InputError(
                "`target` 'model' needs a weight of the model above 0 in every frame, the log has frames of the "
                "baseline alone, where the members' energies are not known; use 'driven'."
            )
        # d = w (V_i - V) and U - V_b = w (V - V_b), V being the mean over members and U the energy without a bias.
        d = d / w[:, None] + ((bias.energy(log, rows) - v_b) * (1.0 / w - 1.0))[:, None]
    return finite("energy_members", d)


def _logged(parts: Sequence[LogPart], name: str, settings: _Settings) -> _Source:
    if name == "energy":
        return _Source(lambda part, rows: _energies(part, rows, settings), own_members=True)
    if name == "heat_capacity":
        return _heat_capacity(parts[0].log, settings)
    dataset, key = dataset_of(parts, name, "observable"), key_of(name)
    own = is_of_members(dataset.attrs)
    return _Source(lambda part, rows: part.log.datasets[key][rows].astype(np.float64), own_members=own)


def _number(parts: Sequence[LogPart], name: str) -> _Source:
    dataset, key = dataset_of(parts, name, "observable"), key_of(name)
    if dataset.ndim != 1:
        raise InputError(f"`observable` must be a number for a free energy, {name!r} has shape {dataset.shape[1:]}.")
    return _Source(lambda part, rows: part.log.datasets[key][rows].astype(np.float64), own_members=False)


def _energies(part: LogPart, rows: slice, settings: _Settings) -> Array:
    """Energies of the members the averages are taken under, without the bias, (t, M), eV."""
    energy = settings.bias.energy(part.log, rows)
    return np.asarray(energy[:, None] + _differences(part.log, rows, settings.target, settings.bias))


def _heat_capacity(log: OpenLog, settings: _Settings) -> _Source:
    pressure = _held_pressure(log)
    # About the first energy, so that squares keep their digits.
    zero = float(log.datasets["energy"][0])

    def read(part: LogPart, rows: slice) -> Array:
        energies = _energies(part, rows, settings) - zero
        if pressure is not None:
            # Enthalpies, of which the fluctuations at constant pressure are made.
            energies = energies + pressure * part.log.datasets["volume"][rows][:, None]
        return np.stack([energies, energies**2], axis=-1)

    def function(m: Any) -> Any:
        # 1/(kB T^2) = kB beta^2
        return (m[1] - m[0] ** 2) * kB * settings.beta**2

    return _Source(read, own_members=True, function=function, gates=(_heat_bath(log),))


def _heat_bath(log: OpenLog) -> Gate:
    ensemble = str(log.attributes.get("ensemble", "")).lower()
    failed = ensemble in ("nve", "nph")
    sentence = (
        f"the run was made as {ensemble}: the fluctuations of its energy are not those of a heat bath, and what they "
        "give is no heat capacity; run with a thermostat."
    )
    return Gate("heat capacity without a heat bath", float(failed), 0.0, YES_OR_NO, False, failed, sentence)


def _held_pressure(log: OpenLog) -> float | None:
    """Pressure whose work is part of the fluctuating energy, eV/Å^3; `None` at constant volume."""
    ensemble, volume = str(log.attributes.get("ensemble", "")).lower(), log.datasets["volume"][: log.n_frames]
    known = log.attributes.get("pressure_GPa")
    moves = bool(np.isfinite(volume).all() and np.ptp(volume) > VOLUME_TOLERANCE * volume.mean())
    if ensemble != "npt" and not moves:
        return None
    if known is None:
        raise InputError(
            f"`heat_capacity` of a run whose volume moves needs the pressure it was held at, {log.path} does not say; "
            "log dynamics that know their pressure (`dyn`), or run at constant volume."
        )
    return float(known) * GPa


def _computed(log: OpenLog, observable: Observable) -> _Source:
    if observable.of_members:
        raise InputError(
            "`compute` must be functions of the positions, got one that reads the members of a calculator; log it as "
            "an observable, or use 'energy'."
        )
    next(stored_frames(log, slice(0, 1)))

    return _Source(lambda part, rows: observed(part.log, rows, observable), own_members=False)
