"""`ase-uq calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ase_uq.commands.options import (
    ENERGY_KEY,
    FORCES_KEY,
    JSON,
    MAX_FORCE,
    MODEL,
    STRESS_KEY,
    console,
    print_json,
)

if TYPE_CHECKING:
    from ase_uq.members import MemberUncertainty

NAME = "calibrate"


def run(
    model: MODEL,
    data: Annotated[Path, typer.Argument(help="Labelled frames new to every member.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("calibrated.pt"),
    llpr: Annotated[
        Path | None,
        typer.Option(help="Take the uncertainty from the last layer instead (LLPR); its training frames: TRAIN.xyz."),
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="student_t (maximum likelihood) or moment (arXiv:2011.08828, Eq. 6).")
    ] = "student_t",
    on: Annotated[str, typer.Option(help="Whose errors alpha is fitted to: energy or forces.")] = "energy",
    energy_key: ENERGY_KEY = None,
    forces_key: FORCES_KEY = None,
    stress_key: STRESS_KEY = None,
    max_force: MAX_FORCE = 300.0,
    as_json: JSON = False,
) -> None:
    """Fit the calibration factor alpha of a committee to its errors, and write the calibrated model."""
    from ase_uq.checkpoint import load, save
    from ase_uq.commands.progress import predict_with_progress
    from ase_uq.training.data import read_frames

    loaded = load(model) if llpr is None else _llpr(load(model), llpr)
    frames = read_frames(data, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, max_force=max_force)
    fitted = predict_with_progress(loaded, frames).calibrate(on=on, method=estimator)
    described = {**fitted.to_dict(), "data": data.name, "on": on}
    calibrated = loaded.calibrated(fitted.alpha, described)
    save(calibrated, out)
    if as_json:
        print_json({"model": str(out), "model_hash": calibrated.model_hash, **described})
        return
    for warning in fitted.warnings:
        typer.echo(f"warning: {warning}")
    error = "" if fitted.alpha_std_error is None else f" ± {fitted.alpha_std_error:.2g}"
    typer.echo(
        f"alpha = {fitted.alpha:.4g}{error} from the {on} of {len(frames)} structures, {fitted.n_members} members"
    )
    console.print(f"wrote [bold]{out}[/bold]")


def _llpr(model: MemberUncertainty, path: Path) -> MemberUncertainty:
    from ase_uq.commands.progress import bar
    from ase_uq.llpr import LLPRUncertainty
    from ase_uq.training.data import read_structures

    frames = read_structures(path)
    with bar() as progress:
        task = progress.add_task("last-layer features", total=len(frames), note="")
        found = LLPRUncertainty.fit(
            model.potential,
            frames,
            on_frame=lambda done: progress.update(task, completed=done),
            training={**(model.training or {}), "method": "llpr", "covariance_from": path.name},
        )
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    return found
