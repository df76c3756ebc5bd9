"""The command `ase-uq rerun`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_uq.cli.options import DEVICE, JSON, MEMORY_LIMIT, MODEL, OBSERVABLES, chosen, console, print_json

NAME = "rerun"


def run(
    model: MODEL,
    trajectory: Annotated[Path, typer.Argument(help="Frames of a finished run, any format of ASE.")],
    temperature: Annotated[float, typer.Option(help="Target of the thermostat of that run, K.")],
    out: Annotated[Path, typer.Option(help="HDF5 log to write.")],
    interval: Annotated[float, typer.Option(help="Time from one frame to the next, fs.")] = 1.0,
    observable: OBSERVABLES = None,
    forces_var: Annotated[bool, typer.Option(help="Also the variance of forces, which costs most of the time.")] = True,
    device: DEVICE = "cpu",
    memory_limit: MEMORY_LIMIT = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing log.")] = False,
    as_json: JSON = False,
) -> None:
    """Give an old trajectory what a model says of it: with energies of members its averages can have error bars."""
    from ase_uq.cli.progress import bar
    from ase_uq.dynamics.allocator import keep_freed_memory
    from ase_uq.dynamics.rerun import rerun
    from ase_uq.models.checkpoint import load
    from ase_uq.observables import parse_observables
    from ase_uq.structures.frames import read_structures

    keep_freed_memory()
    loaded = load(model, **chosen(device=device, memory_limit=memory_limit))
    frames = read_structures(trajectory)
    with bar() as progress:
        task = progress.add_task("evaluating", total=len(frames), note="")
        driver = rerun(
            loaded,
            frames,
            out,
            temperature_K=temperature,
            interval_fs=interval,
            observables=parse_observables(observable or [], frames[0]),
            forces_var=forces_var,
            overwrite=overwrite,
            on_frame=lambda done: progress.update(task, completed=done),
        )
    if as_json:
        print_json({"log": str(out), "n_frames": len(frames), "driver": driver})
        return
    if driver == "model":
        typer.echo("warning: the frames have no energies; averages are right only if this model's mean drove that run.")
    if not any(frame.has("momenta") for frame in frames):
        console.print("the frames have no velocities; kinetic energy and temperature are zero in the log")
    console.print(f"wrote [bold]{out}[/bold]; next: ase-uq reweight {out} --observable NAME")
