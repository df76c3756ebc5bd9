"""`ase-uq reweight`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.commands.options import JSON, print_json

if TYPE_CHECKING:
    from ase_uq.reweighting import ReweightResult
    from ase_uq.runlog import Axis, RunLog

NAME = "reweight"

_COMPUTED = "rdf:O-O coordination:O-H,1.25 angles:H-O-H,1.3 distance:0,1 density ..."


def run(
    logs: Annotated[list[Path], typer.Argument(help="HDF5 logs of `ase-uq md`, of one model.", show_default=False)],
    observable: Annotated[
        str | None, typer.Option(help="Name of a logged observable, or energy, heat_capacity, volume.")
    ] = None,
    rdf: Annotated[
        str | None, typer.Option(help="g(r) from stored positions: O-O, or with r_max (Å) and bins O-O,6,100.")
    ] = None,
    compute: Annotated[str | None, typer.Option(help=f"Another observable from stored positions: {_COMPUTED}")] = None,
    method: Annotated[
        str, typer.Option(help="cea (cumulant expansion), direct (weights) or gap (mean energy gap).")
    ] = "cea",
    free_energy: Annotated[
        int | None, typer.Option(help="Free energy (eV) along the observable in so many bins, by gap.", min=2)
    ] = None,
    bias: Annotated[
        str | None, typer.Option(help="Logged observable with the bias energy (eV) of a biased run.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="Of a run on a baseline: driven (members with its weights) or model (the members).")
    ] = "driven",
    skip: Annotated[float, typer.Option(help="Time at the start to leave out as equilibration, fs.")] = 0.0,
    plot: Annotated[Path | None, typer.Option(help="Draw a vector with its bands into this file (.png, .svg).")] = None,
    as_json: JSON = False,
) -> None:
    """Average an observable over a run, with the sampling error and the model error apart."""
    from ase_uq.log_reweighting import reweight_log
    from ase_uq.run_checks import run_gates
    from ase_uq.runlog import read_log

    axis: Axis | None
    name, functions = _question(observable, rdf, compute, logs[0])
    recorded = read_log(logs[0], per_atom=False, members=free_energy is not None)
    if free_energy is not None:
        axis, result = _free_energy(recorded, name, free_energy, skip=skip, bias=bias)
        unit = "eV"
    else:
        logged = () if functions else (name,)
        options: dict[str, Any] = {"method": method, "skip_fs": skip, "target": target, "bias": bias}
        result = reweight_log(logs, logged, compute={key: value[0] for key, value in functions.items()}, **options)[
            name
        ]
        axis, unit = _axis(recorded, name, functions, result), _unit(recorded, name, functions)
    if plot is not None:
        _plot(plot, result, axis, name, unit)
    gates = run_gates(recorded, unbiased=bias is None)
    warnings = (*(gate.sentence for gate in gates if gate.failed), *result.warnings)
    if as_json:
        _print_json(name, unit, axis, result, warnings)
        return
    # A failed gate comes before the number it is about.
    for warning in warnings:
        typer.echo(f"warning: {warning}")
    _print(name, unit, axis, result)
    if recorded.weight is not None:
        meaning = "V_b + w (V_i - V_b), w that of each frame" if target == "driven" else "the members themselves, V_i"
        typer.echo(f"the run was driven on a baseline; averages are under {meaning} (--target)")


def _question(
    observable: str | None, rdf: str | None, compute: str | None, log: Path
) -> tuple[str, dict[str, tuple[Any, str]]]:
    from ase_uq.errors import InputError
    from ase_uq.log_reweighting import first_structure
    from ase_uq.observables import parse_observables

    given = [text for text in (observable, rdf, compute) if text is not None]
    if len(given) != 1:
        raise InputError(
            f"`--observable`, `--rdf` and `--compute` must be given once, one of them, got {len(given)}; choose."
        )
    if observable is not None:
        return observable, {}
    text = compute if compute is not None else f"rdf:{rdf}"
    functions = parse_observables([text], first_structure(log))
    return next(iter(functions)), functions


def _free_energy(
    recorded: RunLog, name: str, bins: int, *, skip: float, bias: str | None
) -> tuple[Axis, ReweightResult]:
    from ase.units import kB

    from ase_uq.errors import InputError
    from ase_uq.free_energy import free_energy_profile
    from ase_uq.runlog import Axis

    for each in filter(None, (name, bias)):
        if each not in recorded.observables or recorded.observables[each].ndim != 1:
            known = ", ".join(k for k, values in recorded.observables.items() if values.ndim == 1) or "none"
            raise InputError(f"`observable` must be a number in the log, got {each!r}; {recorded.path} has: {known}.")
    if recorded.energy_members_minus_energy is None:
        raise InputError(
            f"{recorded.path} has no `energy_members`, so nothing can be reweighed; log a model with members."
        )
    keep = recorded.time_fs >= recorded.time_fs[0] + skip
    kelvin = float(recorded.attributes["temperature_K"])
    centres, result = free_energy_profile(
        recorded.observables[name][keep],
        bins=bins,
        energy_members=recorded.energy_members_minus_energy[keep],
        energy_reference=0.0 * recorded.energy[keep],
        temperature_K=kelvin,
        log_weights=None if bias is None else recorded.observables[bias][keep] / (kB * kelvin),
        alpha=float(recorded.attributes.get("alpha", 1.0)),
    )
    return Axis(centres, name, recorded.units.get(name, "")), result


def _axis(recorded: RunLog, name: str, functions: dict[str, tuple[Any, str]], result: ReweightResult) -> Axis | None:
    import numpy as np

    from ase_uq.observables import Binned
    from ase_uq.runlog import Axis

    if np.ndim(result.mean) != 1:
        return None
    function = functions[name][0] if functions else None
    if isinstance(function, Binned):
        return Axis(function.centres, function.axis_name, function.axis_unit)
    return recorded.axes.get(name) or Axis(np.arange(float(len(result.mean))), "entry", "")


def _unit(recorded: RunLog, name: str, functions: dict[str, tuple[Any, str]]) -> str:
    if functions:
        return functions[name][1]
    return "eV/K" if name == "heat_capacity" else recorded.units.get(name, "")


def _plot(path: Path, result: ReweightResult, axis: Axis | None, name: str, unit: str) -> None:
    from ase_uq.errors import InputError
    from ase_uq.profiles import save_profile

    if axis is None:
        raise InputError("`--plot` draws a vector, got one number; use `ase-uq report` for running averages.")
    save_profile(path, result, axis, name=name, unit=unit)


def _print_json(name: str, unit: str, axis: Axis | None, result: ReweightResult, warnings: tuple[str, ...]) -> None:
    keys = ("mean", "std_sampling", "std_model", "std_total", "ess", "n_frames")
    content = {"observable": name, "method": result.method, **{key: getattr(result, key) for key in keys}}
    content["warnings"] = list(warnings)
    if axis is not None:
        content["unit"] = unit
        content["axis"] = {"name": axis.axis_name, "unit": axis.axis_unit, "centres": axis.centres}
    print_json(content)


def _print(name: str, unit: str, axis: Axis | None, result: ReweightResult) -> None:
    import numpy as np

    from ase_uq.formatting import format_result, round_average

    if np.ndim(result.mean) == 0:
        typer.echo(f"{name} = {round_average(result).text(unit)}")
    else:
        heading = f"{axis.axis_name} ({axis.axis_unit})" if axis is not None and axis.axis_unit else "entry"
        typer.echo(f"{heading:>12}  {name}{f' ({unit})' if unit not in ('', '1') else ''}")
        centres = np.arange(np.size(result.mean)) if axis is None else axis.centres
        unresolved = np.square(result.std_model_naive) <= 2.0 * np.asarray(result.noise)
        model = np.where(unresolved, result.std_model_naive, result.std_model)
        bounds = unresolved & (np.asarray(result.std_model_naive) > 0)
        rows = zip(centres, *map(np.ravel, (result.mean, result.std_sampling, model, bounds)), strict=True)
        for x, mean, sampling, bar, is_bound in rows:
            typer.echo(f"{x:12.4g}  {format_result(mean, sampling, bar, model_is_bound=bool(is_bound))}")
    varies = np.asarray(result.std_sampling) > 0
    frames = float(np.median(np.asarray(result.ess)[varies])) if varies.any() else result.n_frames
    typer.echo(f"{result.n_frames} frames, effective sample size {frames:.0f}, method {result.method}")
