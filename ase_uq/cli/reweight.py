"""The command `ase-uq reweight`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.choices import Average, Target
from ase_uq.cli.options import DEFINITIONS, JSON, SKIP, print_json, warn
from ase_uq.cli.shell_names import Means
from ase_uq.errors import InputError

if TYPE_CHECKING:
    from ase_uq.log.reader import OpenLog
    from ase_uq.reweighting import ReweightResult

NAME = "reweight"
LOGS = Annotated[
    list[Path],
    typer.Argument(metavar="LOGS", help="HDF5 logs of `ase-uq md` or `rerun`, of one model.", show_default=False),
    Means("runs", "atoms", store="md --store"),
]
OBSERVABLE = Annotated[
    str,
    typer.Option(
        help="What is averaged: the name of a logged observable; energy, heat_capacity, volume, kinetic_energy or "
        f"temperature_K; or, computed from stored positions, {DEFINITIONS}.",
        show_default=False,
    ),
    Means("observables", "compute"),
]
METHOD = Annotated[
    Average | None,
    typer.Option(
        help="How averages are taken: cea (cumulant expansion), direct (exponential weights) or gap (mean energy "
        "gap in the bins of a histogram) [cea; gap with --free-energy].",
        show_default=False,
    ),
]
FREE_ENERGY = Annotated[
    int | None,
    typer.Option(help="Free energy (eV) along a logged observable, in this number of bins.", show_default=False),
    Means("bins"),
]
BIAS = Annotated[
    str | None,
    typer.Option(
        help="Logged observable that holds the bias energy (eV) of a biased run [what the run recorded].",
        show_default=False,
    ),
    Means("log_weights"),
]
KEEP_BIAS = Annotated[
    bool,
    typer.Option("--keep-bias", help="Average a biased run as it was, without taking its bias away."),
    Means("bias=False"),
]
TARGET = Annotated[
    Target,
    typer.Option(
        help="What a run on a baseline is averaged under: driven (the members, blended with the baseline as in the "
        "run) or model (the members alone)."
    ),
]
PLOT = Annotated[
    Path | None,
    typer.Option(help="Draw a vector with its error bands into this file: .png, .svg or .pdf.", show_default=False),
    Means("path"),
]


def run(
    logs: LOGS,
    observable: OBSERVABLE,
    method: METHOD = None,
    free_energy: FREE_ENERGY = None,
    bias: BIAS = None,
    keep_bias: KEEP_BIAS = False,
    target: TARGET = Target.driven,
    skip_fs: SKIP = 0.0,
    plot: PLOT = None,
    as_json: JSON = False,
) -> None:
    """Average an observable over a run, with the sampling error and the model error apart."""
    from ase_uq.averages import free_energy_of_run, of_run
    from ase_uq.cli.asked import asked_of
    from ase_uq.files import check_stays
    from ase_uq.log.reader import open_log
    from ase_uq.report.style import figure_format

    if plot is not None:
        figure_format(plot)
        check_stays(plot, logs)
    if keep_bias and bias is not None:
        raise InputError(f"`--bias` and `--keep-bias` exclude each other, got {bias!r} and the flag; choose one.")
    logged, computed = asked_of(logs[0], [observable])
    name = next(iter([*logged, *computed]))
    options: dict[str, Any] = {"skip_fs": skip_fs, "target": target.value, "bias": False if keep_bias else bias}
    if free_energy is not None:
        if computed:
            raise InputError(
                f"`--free-energy` needs a logged `observable`, got {observable!r}, which is not in {logs[0]}; log it "
                f"with md --observable {observable}."
            )
        how = "gap" if method is None else method.value
        _, result = free_energy_of_run(logs, name, bins=free_energy, method=how, **options)
        heading, symbol = f"Free energy along {name}", "F"
    else:
        how = "cea" if method is None else method.value
        result = of_run(logs, logged, compute=computed, method=how, **options)[name]
        heading, symbol = name, ""
    if plot is not None:
        _plot(plot, result, heading, symbol)
    if as_json:
        print_json({"observable": name, **result.to_dict()})
        return
    # A failed gate comes before the number it is about.
    warn(result.warnings)
    _print(symbol or name, result)
    with open_log(logs[0], read=()) as log:
        _explain(log, "" if computed else name, target, keep_bias)


def _explain(log: OpenLog, name: str, target: str, keep_bias: bool) -> None:
    if name == "heat_capacity":
        fixed = "pressure" if str(log.attributes.get("ensemble", "")).lower() == "npt" else "volume"
        typer.echo(f"of the whole cell at constant {fixed}, of the configuration alone: add kB/2 for every momentum")
    if "bias_energy" in log.datasets:
        how = "as it was, with it (--keep-bias)" if keep_bias else "without it (weights exp(bias/kT))"
        typer.echo(f"the run was driven with a bias; averages are of the run {how}")
    if "weight" in log.datasets:
        meaning = "V_b + w (V_i - V_b), w that of each frame" if target == "driven" else "the members themselves, V_i"
        typer.echo(f"the run was driven on a baseline; averages are under {meaning} (--target)")


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
