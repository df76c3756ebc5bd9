"""The command `ase-uq reweight`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.options import JSON, print_json
from ase_uq.errors import InputError

if TYPE_CHECKING:
    from ase_uq.log.reader import RunLog
    from ase_uq.observables import Observable
    from ase_uq.reweighting import ReweightResult

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
        str | None, typer.Option(help="cea (cumulant expansion), direct (weights) or gap (mean energy gap) [cea].")
    ] = None,
    free_energy: Annotated[
        int | None, typer.Option(help="Free energy (eV) along the observable in so many bins [method gap].", min=2)
    ] = None,
    bias: Annotated[
        str | None,
        typer.Option(help="Logged observable with the bias energy (eV) of a biased run [what the run recorded]."),
    ] = None,
    keep_bias: Annotated[
        bool, typer.Option("--keep-bias", help="Average a biased run as it was, not without its bias.")
    ] = False,
    target: Annotated[
        str, typer.Option(help="Of a run on a baseline: driven (members with its weights) or model (the members).")
    ] = "driven",
    skip: Annotated[float, typer.Option(help="Time at the start to leave out as equilibration, fs.")] = 0.0,
    plot: Annotated[Path | None, typer.Option(help="Draw a vector with its bands into this file (.png, .svg).")] = None,
    as_json: JSON = False,
) -> None:
    """Average an observable over a run, with the sampling error and the model error apart."""
    from ase_uq.averages import free_energy_of_run, of_run
    from ase_uq.log.reader import recorded

    name, functions = _question(observable, rdf, compute, logs[0])
    if keep_bias and bias is not None:
        raise InputError(f"`--bias` and `--keep-bias` exclude each other, got {bias!r} and the flag; choose one.")
    options: dict[str, Any] = {"skip_fs": skip, "target": target, "bias": False if keep_bias else bias}
    if free_energy is not None:
        if functions:
            raise InputError("`--free-energy` needs a logged number, `--observable NAME`; log it with md --observable.")
        _, result = free_energy_of_run(logs, name, bins=free_energy, method=method or "gap", **options)
        heading, symbol = f"Free energy along {name}", "F"
    else:
        logged = () if functions else (name,)
        result = of_run(logs, logged, compute=functions, method=method or "cea", **options)[name]
        heading, symbol = name, ""
    if plot is not None:
        _plot(plot, result, heading, symbol)
    if as_json:
        print_json({"observable": name, **result.to_dict()})
        return
    # A failed gate comes before the number it is about.
    for warning in result.warnings:
        typer.echo(f"warning: {warning}")
    _print(symbol or name, result)
    _explain(recorded(logs[0], per_atom=False, members=False), "" if functions else name, target, keep_bias)


def _explain(run: RunLog, name: str, target: str, keep_bias: bool) -> None:
    if name == "heat_capacity":
        fixed = "pressure" if str(run.attributes.get("ensemble", "")).lower() == "npt" else "volume"
        typer.echo(f"of the whole cell at constant {fixed}, of the configuration alone: add kB/2 for every momentum")
    if run.bias_energy is not None:
        how = "as it was, with it (--keep-bias)" if keep_bias else "without it (weights exp(bias/kT))"
        typer.echo(f"the run was driven with a bias; averages are of the run {how}")
    if run.weight is not None:
        meaning = "V_b + w (V_i - V_b), w that of each frame" if target == "driven" else "the members themselves, V_i"
        typer.echo(f"the run was driven on a baseline; averages are under {meaning} (--target)")


def _question(
    observable: str | None, rdf: str | None, compute: str | None, log: Path
) -> tuple[str, dict[str, Observable]]:
    from ase_uq.log.parts import first_structure
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


def _in_gpa(pressure: Any) -> Any:
    from ase.units import GPa

    return pressure / GPa


def _plot(path: Path, result: ReweightResult, heading: str, symbol: str) -> None:
    from ase_uq.report.profile import save_profile

    if result.axis is None:
        raise InputError("`--plot` draws a vector, got one number; use `ase-uq report` for running averages.")
    save_profile(path, result, result.axis, name=heading, unit=result.unit, symbol=symbol)


def _print(name: str, result: ReweightResult) -> None:
    import numpy as np

    from ase_uq.averages.text import format_interval, format_result, model_error, round_average

    unit, axis = result.unit, result.axis
    if np.ndim(result.mean) == 0:
        typer.echo(f"{name} = {round_average(result).text(unit)}")
        if unit == "eV/Å^3":
            typer.echo(f"{' ' * len(name)} = {round_average(result.mapped(_in_gpa)).text('GPa')}")
        if interval := format_interval(result, unit):
            typer.echo(f"± is one standard deviation; {interval}")
    else:
        heading = f"{axis.name} ({axis.unit})" if axis is not None and axis.unit else "entry"
        typer.echo(f"{heading:>12}  {name}{f' ({unit})' if unit not in ('', '1') else ''}")
        centres = np.arange(np.size(result.mean)) if axis is None else axis.centres
        model, bounds = model_error(result)
        rows = zip(centres, *map(np.ravel, (result.mean, result.std_sampling, model, bounds)), strict=True)
        for x, mean, sampling, bar, is_bound in rows:
            typer.echo(f"{x:12.4g}  {format_result(mean, sampling, bar, model_is_bound=bool(is_bound))}")
        typer.echo("± is one standard deviation")
    varies = np.asarray(result.std_sampling) > 0
    frames = float(np.median(np.asarray(result.ess)[varies])) if varies.any() else result.n_frames
    typer.echo(f"{result.n_frames} frames, effective sample size {frames:.0f}, method {result.method}")
