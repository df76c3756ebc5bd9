"""The command `ase-uq rerun`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_uq.cli.options import (
    DEVICE,
    FORCES_VAR,
    JSON,
    MEMORY_LIMIT,
    MODEL,
    OBSERVABLES,
    OVERWRITE,
    chosen,
    console,
    print_json,
    warn,
)
from ase_uq.cli.shell_names import Means

NAME = "rerun"


def run(
    model: MODEL,
    trajectory: Annotated[
        Path,
        typer.Argument(
            metavar="TRAJECTORY", help="Frames of a finished run, in any format of ASE.", show_default=False
        ),
        Means("frames", "atoms"),
    ],
    temperature_K: Annotated[
        float, typer.Option("--temperature", help="Temperature that the thermostat of that run was set to, K.")
    ],
    out: Annotated[Path, typer.Option(help="HDF5 log to write."), Means("path")],
    interval_fs: Annotated[
        float, typer.Option("--interval-fs", help="Time from one frame to the next, fs."), Means("timestep_fs")
    ] = 1.0,
    observable: OBSERVABLES = None,
    forces_var: FORCES_VAR = None,
    device: DEVICE = "cpu",
    memory_limit: MEMORY_LIMIT = None,
    overwrite: OVERWRITE = False,
    as_json: JSON = False,
) -> None:
    """Evaluate the frames of an old run with a model, and write the log that `reweight` and `report` read.

    With the energies of the members, averages over that run can have error bars.
    """
    from ase_uq.cli.progress import bar
    from ase_uq.dynamics.allocator import keep_freed_memory
    from ase_uq.dynamics.rerun import rerun
    from ase_uq.files import check_stays
    from ase_uq.models.checkpoint import load
    from ase_uq.observables import parse_observables
    from ase_uq.structures.frames import read_structures

    check_stays(out, [model, trajectory])
    keep_freed_memory()
    loaded = load(model, **chosen(device=device, memory_limit=memory_limit))
    frames = read_structures(trajectory)
    with bar() as progress:
        task = progress.add_task("evaluating", total=len(frames), note="")
        driver = rerun(
            loaded,
            frames,
            out,
            temperature_K=temperature_K,
            interval_fs=interval_fs,
            observables=parse_observables(observable or [], frames[0]),
            forces_var=forces_var,
            overwrite=overwrite,
            on_frame=lambda done: progress.update(task, completed=done),
        )
    if as_json:
        print_json({"log": str(out), "n_frames": len(frames), "driver": driver})
        return
    if driver == "model":
        warn(["the frames have no energies; averages are right only if this model's mean drove that run."])
    if not any(frame.has("momenta") for frame in frames):
        console.print(
            "the frames have no velocities; kinetic energy and temperature are zero in the log", soft_wrap=True
        )
    console.print(f"wrote [bold]{out}[/bold]; next: ase-uq reweight {out} --observable NAME")
