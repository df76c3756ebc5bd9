"""The command `ase-uq evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.options import ENERGY_KEY, FORCES_KEY, JSON, MAX_FORCE, MODEL, STRESS_KEY, print_json, warn
from ase_uq.cli.shell_names import Means

if TYPE_CHECKING:
    from ase_uq.uncertainty.prediction import Prediction
    from ase_uq.validation.residuals import Residuals
    from ase_uq.validation.scores import Scores
    from ase_uq.validation.yardsticks import Yardstick

NAME = "evaluate"
DATA = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="Labelled frames the model has not seen.", show_default=False),
    Means("frames", "atoms"),
]
PLOT = Annotated[
    Path | None,
    typer.Option(
        help="Draw errors against predicted standard deviations, and how often intervals hold, into this file: "
        ".png, .svg or .pdf."
    ),
    Means("path"),
]
_OFFSET = 2.0  # ratio of the errors with and without their constants from which on it is said


def run(
    model: MODEL,
    data: DATA,
    plot: PLOT = None,
    energy_key: ENERGY_KEY = None,
    forces_key: FORCES_KEY = None,
    stress_key: STRESS_KEY = None,
    max_force: MAX_FORCE = 300.0,
    as_json: JSON = False,
) -> None:
    """Score a model on labelled frames: errors, calibration, and whether the uncertainty ranks the errors."""
    from ase_uq.cli.progress import predict_with_progress
    from ase_uq.files import check_output
    from ase_uq.models.checkpoint import load
    from ase_uq.report.style import figure_format, write_figure
    from ase_uq.report.validation import validation_figure
    from ase_uq.structures.frames import read_frames

    if plot is not None:
        figure_format(plot)
        check_output(plot, overwrite=True, inputs=[model, data])
    loaded = load(model)
    frames = read_frames(data, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, max_force=max_force)
    found = predict_with_progress(loaded, frames)
    columns = {
        "energy": found.energy_scores(),
        "centred energy": found.energy_scores(centred=True),
        "forces": found.force_scores(),
    }
    if (stress := found.stress_scores()) is not None:
        columns["stress"] = stress
    widths = {"energy": found.energy_yardsticks(), "forces": found.force_yardsticks()}
    if plot is not None:
        write_figure(validation_figure(**_panels(found, columns)), plot)
    first = found.predictions[0]
    if as_json:
        print_json(
            {
                "n_structures": len(frames),
                "n_atoms": int(found.n_atoms.sum()),
                "alpha": first.alpha,
                "alpha_forces": first.alpha_forces,
                "mean_share": first.mean_share,
                **{name.replace("centred energy", "energy_centred"): s.to_dict() for name, s in columns.items()},
                "widths": {name: {each.name: each.to_dict() for each in found} for name, found in widths.items()},
                "warnings": list(_warnings(columns, widths)),
            }
        )
        return
    size = f"{len(frames)} structures, {found.n_atoms.sum()} atoms"
    typer.echo(f"{data.name}: {size}; {_described(first, calibrated=bool(getattr(loaded, 'calibration', None)))}")
    _print_table(columns)
    _print_widths(widths)
    warn(_warnings(columns, widths))
    if plot is not None:
        typer.echo(f"wrote {plot}")


def _described(prediction: Prediction, *, calibrated: bool) -> str:
    members = "no members" if prediction.n_members is None else f"{prediction.n_members} members"
    factors = f"alpha {prediction.alpha:.3g}, of forces {prediction.alpha_forces:.3g}"
    return f"{members}, {factors if calibrated else 'not calibrated'}"


_UNITS = {"energy": "meV/atom", "centred energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


def _print_table(columns: dict[str, Scores]) -> None:
    rows = [
        ("MAE", *(_scaled(s.mae, _UNITS[name]) for name, s in columns.items())),
        ("RMSE", *(_scaled(s.rmse, _UNITS[name]) for name, s in columns.items())),
        ("one sigma, as in energy_var, forces_var:",),
        ("  its root mean square", *(_scaled(s.sigma, _UNITS[name]) for name, s in columns.items())),
        ("  errors within 1 (68.3 %)", *(_percent(s.within_1_sigma) for s in columns.values())),
        ("  errors within 1.96 (95 %)", *(_percent(s.within_196_sigma) for s in columns.values())),
        ("  NLL, normal", *(_number(s.nll) for s in columns.values())),
        ("  Spearman |error|, sigma", *(_number(s.spearman) for s in columns.values())),
        ("intervals, with the error of the mean of the members:",),
        ("  coverage of 68.3 %", *(_percent(s.coverage_68) for s in columns.values())),
        ("  coverage of 95 %", *(_percent(s.coverage_95) for s in columns.values())),
        ("  miscalibration area", *(_number(s.miscalibration_area) for s in columns.values())),
        ("  NLL, Student's t", *(_number(s.nll_interval) for s in columns.values())),
        ("  CRPS", *(_scaled(s.crps, _UNITS[name]) for name, s in columns.items())),
        ("left out, zero by symmetry", *(str(s.n_left_out) for s in columns.values())),
    ]
    _print_rows("", list(columns), rows)
    groups = {name: {each.group: each for each in s.within} for name, s in columns.items()}
    names = sorted({group for found in groups.values() for group in found})
    if names:
        rows = [
            (group, *(_of_group(found[group]) if group in found else "" for found in groups.values()))
            for group in names
        ]
        _print_rows("Spearman; coverage of 68.3 and 95 %, within", list(columns), rows)


def _print_widths(widths: dict[str, tuple[Yardstick, ...]]) -> None:
    rows = [
        (f"{name}: {each.name}", f"{1e3 * each.crps:.2f}", _percent(each.coverage_68), _percent(each.coverage_95))
        for name, found in widths.items()
        for each in found
    ]
    _print_rows("widths, each with its best factor", ["CRPS (meV, meV/Å)", "within 1", "within 1.96"], rows)


def _print_rows(title: str, header: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    left = max(len(title), *(len(row[0]) for row in rows if len(row) > 1))
    typer.echo("")
    typer.echo(f"{title:{left}}" + "".join(f"  {name:>17}" for name in header))
    for name, *cells in rows:
        typer.echo((f"{name:{left}}" + "".join(f"  {cell:>17}" for cell in cells)).rstrip())


def _warnings(columns: dict[str, Scores], widths: dict[str, tuple[Yardstick, ...]]) -> Iterator[str]:
    from ase_uq.validation.yardsticks import sentence

    energy, centred = columns["energy"], columns["centred energy"]
    if energy.rmse > _OFFSET * centred.rmse:
        yield (
            f"most of the energies' error is constant within a composition ({1e3 * energy.rmse:.2f} meV/atom with, "
            f"{1e3 * centred.rmse:.2f} without): it cancels in forces and averages, not in energies themselves."
        )
    for name, found in widths.items():
        yield from sentence(found, name)


def _panels(found: Residuals, columns: dict[str, Scores]) -> dict[str, Any]:
    import numpy as np

    energy_error, energy_var = found.centred_energies()
    forces_var, used = found.stacked("forces_var"), found.counted_forces
    curves = {name: scores.reliability for name, scores in columns.items() if name != "energy"}
    sizes = found.n_atoms / 1e3
    return {
        "energy_error": energy_error / sizes,
        "energy_std": None if energy_var is None else np.sqrt(energy_var) / sizes,
        "force_error": 1e3 * found.force_error[used],
        "force_std": None if forces_var is None or not used.any() else 1e3 * np.sqrt(forces_var[used]),
        "coverage": {name: curve for name, curve in curves.items() if curve is not None},
    }


def _of_group(group: Any) -> str:
    covered = "" if group.coverage_68 is None else f"; {100 * group.coverage_68:.0f}, {100 * group.coverage_95:.0f}"
    return f"{_number(group.spearman)}{covered}"


def _scaled(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{1e3 * value:.2f} {unit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
