"""The command `ase-uq calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ase_uq.cli.choices import Estimator
from ase_uq.cli.options import (
    ENERGY_KEY,
    FORCES_KEY,
    JSON,
    MAX_FORCE,
    MODEL,
    STRESS_KEY,
    console,
    print_json,
    warn,
)
from ase_uq.cli.shell_names import Means, spoken

if TYPE_CHECKING:
    from ase_uq.models.llpr import LLPRUncertainty
    from ase_uq.uncertainty.prediction import UncertaintyModel
    from ase_uq.validation.calibration import Calibration

NAME = "calibrate"


def run(
    model: MODEL,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Labelled frames new to every member.", show_default=False),
        Means("frames", "atoms"),
    ],
    out: Annotated[Path, typer.Option("--out", help="Model file to write."), Means("path")] = Path("calibrated.pt"),
    llpr: Annotated[
        Path | None,
        typer.Option(
            help="Take the uncertainty from the last layer instead (LLPR), fitted to the frames of this file, on which "
            "the model was trained."
        ),
    ] = None,
    estimator: Annotated[
        Estimator,
        typer.Option(
            help="How factors are fitted: student_t (maximum likelihood) or moment (mean squares, arXiv:2011.08828, "
            "Eq. 6)."
        ),
        Means("method"),
    ] = Estimator.student_t,
    energy_key: ENERGY_KEY = None,
    forces_key: FORCES_KEY = None,
    stress_key: STRESS_KEY = None,
    max_force: MAX_FORCE = 300.0,
    as_json: JSON = False,
) -> None:
    """Scale the uncertainty of a model so that it fits its errors on labelled frames, and write the model again.

    The factor of the energies, alpha, scales the members, and so averages and the weight of a baseline. It is fitted
    to energies without what is constant within a composition, for constants cancel in every force and average. Forces,
    and stress where DATA has it, get factors of their own for their variances.
    """
    from ase_uq.cli.progress import predict_with_progress
    from ase_uq.files import check_folder
    from ase_uq.models.checkpoint import load, save
    from ase_uq.structures.frames import read_frames
    from ase_uq.validation.residuals import with_factors

    check_folder(out)
    loaded = load(model) if llpr is None else _llpr(load(model), llpr)
    frames = read_frames(data, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, max_force=max_force)
    fitted = predict_with_progress(loaded, frames).factors(method=estimator.value)
    calibrated = with_factors(loaded, fitted, data=data.name)
    save(calibrated, out)
    if as_json:
        told = {name: getattr(calibrated, name, None) for name in ("model_hash", "calibration")}
        print_json({"model": str(out), "model_hash": told["model_hash"], **(told["calibration"] or {})})
        return
    for name, each in fitted.items():
        warn(each.warnings, about=f", {name}")
    for name, each in fitted.items():
        typer.echo(f"{_LABELS[name]:13} = {_with_error(each)}{_of_what(each)}")
    n_members = next(iter(fitted.values())).n_members
    typer.echo(f"from {len(frames)} structures, {'no' if n_members is None else n_members} members")
    console.print(f"wrote [bold]{out}[/bold]")


_LABELS = {"energy": "alpha", "forces": "alpha, forces", "stress": "alpha, stress"}


def _with_error(fitted: Calibration) -> str:
    error = "" if fitted.alpha_std_error is None else f" ± {fitted.alpha_std_error:.2g}"
    return f"{fitted.alpha:.4g}{error}"


def _of_what(fitted: Calibration) -> str:
    if fitted.alpha_raw is None:
        return ""
    return f", without the constants of each {fitted.centred}; with them {fitted.alpha_raw:.4g}"


def _llpr(model: UncertaintyModel, path: Path) -> LLPRUncertainty:
    from ase_uq.cli.progress import bar
    from ase_uq.errors import InputError
    from ase_uq.models.llpr import LLPRUncertainty
    from ase_uq.structures.frames import read_structures

    potential = getattr(model, "potential", None)
    if potential is None:
        raise InputError(
            f"`--llpr` needs a model that holds a potential with last-layer features, {type(model).__name__} has none; "
            "train one, or calibrate the model itself."
        )
    frames = read_structures(path)
    with bar() as progress:
        task = progress.add_task("last-layer features", total=len(frames), note="")
        found = LLPRUncertainty.fit(
            potential,
            frames,
            on_frame=lambda done: progress.update(task, completed=done),
            training={**(getattr(model, "training", None) or {}), "method": "llpr", "covariance_from": path.name},
        )
    for warning in found.warnings:
        console.print(f"warning: {spoken(warning)}", soft_wrap=True)
    return found
