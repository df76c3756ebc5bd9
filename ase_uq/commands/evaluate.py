"""`ase-uq evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.commands.options import ENERGY_KEY, FORCES_KEY, JSON, MAX_FORCE, MODEL, STRESS_KEY, print_json

if TYPE_CHECKING:
    from ase_uq.evaluation import Residuals
    from ase_uq.scores import Scores

NAME = "evaluate"
FIELDS = ("mae", "rmse", "nll", "coverage_68", "coverage_95", "miscalibration_area", "spearman")


def run(
    model: MODEL,
    data: Annotated[Path, typer.Argument(help="Labelled frames the model has not seen.", show_default=False)],
    plot: Annotated[Path | None, typer.Option(help="Also draw error against std, and reliability: a PNG file.")] = None,
    energy_key: ENERGY_KEY = None,
    forces_key: FORCES_KEY = None,
    stress_key: STRESS_KEY = None,
    max_force: MAX_FORCE = 300.0,
    as_json: JSON = False,
) -> None:
    """Score a model on labelled frames: errors, calibration, and whether the uncertainty ranks the errors."""
    from ase_uq.checkpoint import load
    from ase_uq.commands.progress import predict_with_progress
    from ase_uq.plots import evaluation_figure, write_png
    from ase_uq.training.data import read_frames

    loaded = load(model)
    frames = read_frames(data, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, max_force=max_force)
    found = predict_with_progress(loaded, frames)
    energy, forces = found.energy_scores(), found.force_scores()
    if plot is not None:
        write_png(evaluation_figure(**_panels(found, energy, forces)), plot)
    if as_json:
        print_json(
            {
                "n_structures": energy.n,
                "n_atoms": int(found.n_atoms.sum()),
                "alpha": loaded.alpha,
                "energy": _numbers(energy),
                "forces": _numbers(forces),
            }
        )
        return
    calibrated = f"alpha {loaded.alpha:.3g}" if loaded.calibration else "not calibrated"
    size = f"{len(frames)} structures, {found.n_atoms.sum()} atoms"
    typer.echo(f"{data.name}: {size}; {loaded.n_members} members, {calibrated}")
    _print_table(energy, forces)
    if plot is not None:
        typer.echo(f"wrote {plot}")


def _numbers(scores: Scores) -> dict[str, Any]:
    within = {rank.group: {"n": rank.n, "spearman": rank.spearman} for rank in scores.spearman_within}
    return {**{name: getattr(scores, name) for name in FIELDS}, "spearman_within": within}


def _print_table(energy: Scores, forces: Scores) -> None:
    rows = [
        ("MAE", _scaled(energy.mae, "meV/atom"), _scaled(forces.mae, "meV/Å")),
        ("RMSE", _scaled(energy.rmse, "meV/atom"), _scaled(forces.rmse, "meV/Å")),
        ("NLL", _number(energy.nll, "per structure"), _number(forces.nll, "per component")),
        ("coverage of 68.3 %", _percent(energy.coverage_68), _percent(forces.coverage_68)),
        ("coverage of 95 %", _percent(energy.coverage_95), _percent(forces.coverage_95)),
        ("miscalibration area", _number(energy.miscalibration_area), _number(forces.miscalibration_area)),
        ("Spearman |error|, std", _number(energy.spearman), _number(forces.spearman)),
    ]
    ranks, force_ranks = (
        {rank.group: rank.spearman for rank in scores.spearman_within if rank.spearman is not None}
        for scores in (energy, forces)
    )
    rows += [
        (f"  within {group}", _number(ranks.get(group)), _number(force_ranks.get(group)))
        for group in sorted({*ranks, *force_ranks})
    ]
    width = max(len(row[0]) for row in rows)
    typer.echo(f"{'':{width}}  {'energy':>20}  {'forces':>20}")
    for name, left, right in rows:
        typer.echo(f"{name:{width}}  {left:>20}  {right:>20}")


def _panels(found: Residuals, energy: Scores, forces: Scores) -> dict[str, Any]:
    import numpy as np

    energy_var, forces_var = found.stacked("energy_var"), found.stacked("forces_var")
    curves = {"energy": energy.reliability, "forces": forces.reliability}
    return {
        "energy_error": found.energy_error / found.n_atoms,
        "energy_std": None if energy_var is None else np.sqrt(energy_var) / found.n_atoms,
        "force_error_norm": np.linalg.norm(found.force_error, axis=1),
        "force_std_norm": None if forces_var is None else np.sqrt(forces_var.sum(axis=1)),
        "coverage": {name: curve for name, curve in curves.items() if curve is not None},
    }


def _scaled(value: float, unit: str) -> str:
    return f"{1e3 * value:.2f} {unit}"


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3f} {unit}".rstrip()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
