"""`of_run`: averages of runs in one pass over their frames, with little memory, for many observables at once.

The one road from a run to its averages, whether it lies in a file or in memory: what the log knows is taken from there,
that is calibration, the law of the spread, pairing of members, thermostat, bias and baseline.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
h_i = beta (V_i - U)                       `h`; `ase_uq.averages.sources` has V_i - U
=========================================  ================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8 to 12 and 20 to 28.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.averages.circle import Circle
from ase_uq.averages.gaps import without_values
from ase_uq.averages.run_checks import CHECKED, gates_of_runs
from ase_uq.averages.sources import Settings, Source, computed, differences, number_of, source_of
from ase_uq.errors import InputError
from ase_uq.log.bias import Bias, logged_bias
from ase_uq.log.columns import OBSERVABLES, name_of
from ase_uq.log.parts import LogPart, Run, opened, stretches
from ase_uq.log.reader import run_of
from ase_uq.observables.observable import ObservableLike, named_observables
from ase_uq.reweighting import MIN_FRAMES, inverse_temperature
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.columns import Columns, check_method, columns_for
from ase_uq.reweighting.error_bars import average
from ase_uq.reweighting.frame_blocks import FrameBlocks
from ase_uq.reweighting.free_energy import ProfileBins
from ase_uq.reweighting.gate import Gate, sentences
from ase_uq.reweighting.result import ReweightResult
from ase_uq.reweighting.spread import SpreadLaw
from ase_uq.reweighting.thermostat import relaxation_frames

TARGETS = ("driven", "model")
_SAMPLE = 20_000  # frames from which bins are chosen


def of_run(
    runs: Run | Sequence[Run],
    observables: Sequence[str] | None = None,
    *,
    compute: Mapping[str, ObservableLike] | None = None,
    method: str = "cea",
    skip_fs: float = 0.0,
    target: str = "driven",
    bias: Bias = None,
    functions: Mapping[str, Callable[[Any], Any]] | None = None,
    run_checks: bool = True,
) -> dict[str, ReweightResult]:
    """Average observables of one or several runs under every member, reading each frame once.

    Parameters
    ----------
    runs
        A log, what `read_log` gives of it, or several of either, of the same model at the same temperature; with 8 or
        more the sampling error is what runs differ by.
    observables
        Names of logged observables, or of what every frame has: "energy" (of member i for member i), "heat_capacity"
        (of the whole cell and of the configuration alone, eV/K; add kB/2 for every momentum), "kinetic_energy",
        "temperature_K", "volume". The heat capacity is var(V_i)/(kB T^2) at constant volume and var(V_i + P V)/(kB T^2)
        in a run at constant pressure P, which must be in the log; a gate says where there was no heat bath. By default
        all that were logged, or with `compute` none.
    compute
        Name to what is worked out from the stored positions: functions, pairs or `Observable`s, as for the logger.
    method
        "cea", "direct" or "gap".
    skip_fs
        Time at the start of each run to leave out as equilibration, fs.
    target
        Of a run on a weighted baseline: "driven" averages under V_b + w (V_i - V_b) with the weight of the frame,
        "model" under the members V_i themselves, which frames of small weight make unreliable.
    bias
        Averages of a biased run are without its bias by default: weights exp(beta B) with the bias energy B that the
        run recorded. The name of a logged observable, eV, takes that one instead; `False` averages the run as it was.
    functions
        Name of an observable to a function of its averages, as in `reweight`.
    run_checks
        `False` leaves out the checks of the runs themselves, for who has them already.

    Returns
    -------
    dict
        Name to result, in the order given, with unit and axis as logged; its gates and warnings begin with those of the
        runs.

    Raises
    ------
    InputError
        For a name that is not in the log, runs that do not belong together, positions or members that were not stored,
        or fewer than 20 frames.

    References
    ----------
    arXiv:2011.08828, Eqs. 8 to 12 (baseline) and 20 to 28.
    """
    check_method(method)
    read = None if observables is None and not compute else [*(observables or ()), *_named(bias)]
    with opened(runs, skip_fs, stored=bool(compute), observables=read) as parts:
        settings = settings_of(parts, method, target, bias)
        sources = _sources(parts, observables, compute, settings)
        for name, function in (functions or {}).items():
            sources[name] = replace(sources[name], function=function, unit="", axis=None)
        gates = _gates_of_runs(parts, settings) if run_checks else ()
        # Bins of a histogram are many columns; one observable at a time then keeps memory small.
        groups = [[name] for name in sources] if method == "gap" else [list(sources)]
        results: dict[str, ReweightResult] = {}
        for group in groups:
            results |= averaged({name: sources[name] for name in group}, parts, settings, gates)
    return results


reweight_log = of_run
"""`of_run` as a name of the package."""


def free_energy_of_run(
    runs: Run | Sequence[Run],
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
    runs, skip_fs, target, bias
        As for `of_run`.
    observable
        Name of a logged number.
    bins
        Between its extremes.
    method
        "gap" or another one of `reweight`.

    Returns
    -------
    centres, result
        (n_bins,) in the unit of the observable, and the profile in eV; see `free_energy_profile`.

    Raises
    ------
    InputError
        As `of_run`.
    """
    check_method(method)
    with opened(runs, skip_fs, observables=[observable, *_named(bias)]) as parts:
        settings = settings_of(parts, method, target, bias)
        numbers = number_of(parts, observable)
        values = np.concatenate([numbers.read(part, rows) for part, rows in stretches(parts)])
        _check_some(observable, int(np.isfinite(values).sum()), len(values))
        histogram = ProfileBins.of(values[np.isfinite(values)], bins)
        thermal = 1.0 / settings.beta
        source = Source(
            lambda part, rows: _in_bins(histogram, numbers.read(part, rows)),
            "eV",
            Axis(histogram.centres, observable, numbers.unit),
            function=lambda p: histogram.free_energy(p, thermal),
        )
        gates = _gates_of_runs(parts, settings)
        return histogram.centres, averaged({observable: source}, parts, settings, gates)[observable]


def _named(bias: Bias) -> tuple[str, ...]:
    return (bias,) if isinstance(bias, str) else ()


def _in_bins(histogram: ProfileBins, values: Array) -> Array:
    columns = histogram.columns(values)
    return np.where(np.isfinite(values)[:, None], columns, np.nan)


def settings_of(parts: Sequence[LogPart], method: str = "cea", target: str = "driven", bias: Bias = None) -> Settings:
    """What holds for all observables of some runs; arguments and errors as for `of_run`."""
    if target not in TARGETS:
        raise InputError(f"`target` must be one of {', '.join(map(repr, TARGETS))}, got {target!r}; choose one.")
    beta = inverse_temperature(float(parts[0].log.attributes.get("temperature_K", np.nan)))
    return Settings(method, target, logged_bias(parts, bias, target), beta)


def averaged(
    sources: Mapping[str, Source], parts: Sequence[LogPart], settings: Settings, gates: tuple[Gate, ...] = ()
) -> dict[str, ReweightResult]:
    """Average all sources in one pass over the parts; `gates` of the runs come before those of each result."""
    n_members = int(parts[0].log.datasets["energy_members_minus_energy"].shape[1])
    circles = {name: Circle(source.period, source.unit) for name, source in sources.items()}
    sources = {name: _unrolled(source, circles[name]) for name, source in sources.items()}
    columns = {name: _columns(source, parts, settings.method, n_members) for name, source in sources.items()}
    whole, n_missing = _sums(sources, columns, parts, settings, n_members)
    start, results, n_frames = 0, {}, sum(part.n_frames for part in parts)
    for name, each in columns.items():
        question = replace(
            each.question,
            function=sources[name].function,
            law=SpreadLaw.of_log(parts[0].log.attributes),
            biased=settings.bias.weights is not None,
            relaxation_frames=max(_relaxation(part) for part in parts),
        )
        sums, where = whole, slice(start, start + each.n)
        start += each.n
        if n_missing[name]:
            _check_some(name, n_frames - n_missing[name], n_frames)
            if len(sources) > 1:
                # Frames in which it has no value do not count for it; the others need them.
                alone, where = {name: sources[name]}, slice(0, each.n)
                sums, _ = _sums(alone, {name: each}, parts, settings, n_members)
        result = average(sums.columns(where), question)
        if sources[name].function is None:
            result = circles[name].told(result)
        result = without_values(result, name, n_missing[name], circles[name].gates(name))
        results[name] = _told(result, sources[name], (*gates, *sources[name].gates))
    return results


def _unrolled(source: Source, circle: Circle) -> Source:
    return replace(source, read=lambda part, rows: circle.unrolled(source.read(part, rows)))


def _check_some(name: str, n_known: int, n_frames: int) -> None:
    if n_known < MIN_FRAMES:
        raise InputError(
            f"`{name}` must be finite in at least {MIN_FRAMES} frames of the log, it has a value in {n_known} of "
            f"{n_frames}; see why its function fails in the others, or leave it out."
        )


def _sources(
    parts: Sequence[LogPart],
    observables: Sequence[str] | None,
    compute: Mapping[str, ObservableLike] | None,
    settings: Settings,
) -> dict[str, Source]:
    functions = named_observables(compute or {}, "compute")
    if observables is None:
        logged = [name_of(key) for key in parts[0].log.datasets if key.startswith(OBSERVABLES)]
        observables = () if functions else logged
    if not observables and not functions:
        raise InputError("`observables` must name at least one, got none; the log knows their names.")
    found = {name: source_of(parts, name, settings) for name in dict.fromkeys(observables) if name not in functions}
    return found | {name: computed(parts[0].log, name, each) for name, each in functions.items()}


def _sums(
    sources: Mapping[str, Source],
    columns: Mapping[str, Columns],
    parts: Sequence[LogPart],
    settings: Settings,
    n_members: int,
) -> tuple[Any, dict[str, int]]:
    """Sums over all frames, without those that have no value of a single source; how many each source has none in."""
    blocks = FrameBlocks(
        sum(each.n for each in columns.values()),
        n_members,
        n_frames=sum(part.n_frames for part in parts),
        n_runs=len(parts),
        weighted=settings.method == "direct",
        centred=settings.method != "gap",
    )
    n_missing = dict.fromkeys(sources, 0)
    for part in parts:
        for rows in part.stretches:
            found = {name: source.read(part, rows) for name, source in sources.items()}
            known = {name: _known(values) for name, values in found.items()}
            for name, rows_known in known.items():
                n_missing[name] += int((~rows_known).sum())
            values = [
                columns[name].build(np.where(_like(known[name], each), each, 0.0)) for name, each in found.items()
            ]
            logs = settings.bias.log_weights(part.log, rows, settings.beta)
            h = settings.beta * differences(part.log, rows, settings)
            energy = part.log.datasets["energy"][rows]
            # Of several observables those with gaps are asked for again, alone.
            kept = next(iter(known.values())) if len(sources) == 1 else slice(None)
            if isinstance(kept, slice) or kept.any():
                logs = None if logs is None else logs[kept]
                blocks.add(np.concatenate(values, axis=1)[kept], h[kept], logs, energy[kept])
        blocks.end_run()
    if blocks.n_frames == 0:
        _check_some(next(iter(sources)), 0, sum(part.n_frames for part in parts))
    return blocks.result(), n_missing


def _known(values: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values).reshape(len(values), -1).all(axis=1))


def _like(rows: NDArray[np.bool_], values: Array) -> NDArray[np.bool_]:
    return rows.reshape(-1, *[1] * (values.ndim - 1))


def _told(result: ReweightResult, source: Source, gates: tuple[Gate, ...]) -> ReweightResult:
    axis = source.axis
    if axis is None and np.ndim(result.mean) == 1:
        axis = Axis.of_entries(len(result.mean))
    return replace(
        result,
        unit=source.unit,
        axis=axis if np.ndim(result.mean) == 1 else None,
        gates=(*gates, *result.gates),
        warnings=(*sentences(gates), *result.warnings),
    )


def _relaxation(part: LogPart) -> float:
    return relaxation_frames(part.log.attributes, part.log.datasets["time_fs"][part.rows])


def _gates_of_runs(parts: Sequence[LogPart], settings: Settings) -> tuple[Gate, ...]:
    # One run at a time, and only what the checks look at: a long log with many observables is larger than memory.
    runs = (run_of(part.log, CHECKED).frames(part.rows) for part in parts)
    return gates_of_runs(runs, len(parts), unbiased=settings.bias.weights is None)


def _columns(source: Source, parts: Sequence[LogPart], method: str, n_members: int) -> Columns:
    part = parts[0]
    own = "paired" if source.of_members else None
    if method != "gap":
        return columns_for(source.read(part, slice(part.start, part.start + 1)), method, own, n_members)
    stride = -(-sum(each.n_frames for each in parts) // _SAMPLE)
    sample = np.concatenate([source.read(each, rows)[::stride] for each, rows in stretches(parts)])
    return columns_for(sample[_known(sample)], method, own, n_members)
