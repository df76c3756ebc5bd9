"""`ase-uq reweight`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_uq.commands.options import JSON, print_json

NAME = "reweight"


def run(
    log: Annotated[Path, typer.Argument(help="HDF5 log of `ase-uq md`.", show_default=False)],
    observable: Annotated[str, typer.Option(help="Name of a logged observable.")],
    method: Annotated[str, typer.Option(help="cea (cumulant expansion) or direct (weights).")] = "cea",
    skip: Annotated[float, typer.Option(help="Time at the start to leave out as equilibration, fs.")] = 0.0,
    as_json: JSON = False,
) -> None:
    """Average an observable over a run, with the sampling error and the model error apart."""
    from ase_uq.errors import InputError
    from ase_uq.formatting import round_average
    from ase_uq.reweighting import reweight
    from ase_uq.runlog import read_log

    recorded = read_log(log)
    if observable not in recorded.observables:
        there = ", ".join(recorded.observables) or "none"
        raise InputError(f"`observable` must be in the log, got {observable!r}; {log} has: {there}.")
    if recorded.energy_members is None:
        raise InputError(f"{log} has no `energy_members`, so nothing can be reweighed; log a model with members.")
    keep = recorded.time_fs >= recorded.time_fs[0] + skip
    result = reweight(
        recorded.observables[observable][keep],
        energy_members=recorded.energy_members[keep],
        energy_reference=recorded.energy[keep],
        temperature_K=float(recorded.attributes["temperature_K"]),
        method=method,
    )
    if as_json:
        print_json(
            {
                "observable": observable,
                "method": method,
                "mean": result.mean,
                "std_sampling": result.std_sampling,
                "std_model": result.std_model,
                "std_total": result.std_total,
                "ess": result.ess,
                "n_frames": result.n_frames,
                "warnings": list(result.warnings),
            }
        )
        return
    # A failed gate comes before the number it is about.
    for warning in result.warnings:
        typer.echo(f"warning: {warning}")
    unit = recorded.units.get(f"observables/{observable}", recorded.units.get(observable, ""))
    typer.echo(f"{observable} = {round_average(result).text(unit)}")
    typer.echo(f"{result.n_frames} frames, effective sample size {result.ess:.0f}, method {method}")
