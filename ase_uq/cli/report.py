"""The command `ase-uq report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_uq.cli.options import DEFINITIONS, JSON, SKIP, console, print_json
from ase_uq.cli.shell_names import Means

NAME = "report"


def run(
    log: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="HDF5 log of `ase-uq md` or `rerun`.", show_default=False),
        Means("runs", "atoms", store="md --store"),
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Heading of the page [the name of the log].")] = None,
    observable: Annotated[
        list[str] | None,
        typer.Option(
            help="Observable to show beside those that were logged, computed from stored positions: "
            f"{DEFINITIONS}; NAME=... gives it a name. Repeatable.",
            show_default=False,
        ),
        Means("observables", "compute"),
    ] = None,
    skip_fs: SKIP = 0.0,
    as_json: JSON = False,
) -> None:
    """Write one self-contained HTML page: what was run, its uncertainty, its averages with both error bars."""
    from ase_uq.cli.asked import asked_of
    from ase_uq.files import check_output
    from ase_uq.report import write_report

    check_output(out, overwrite=True, inputs=[log])
    _, computed = asked_of(log, observable or [])
    results = write_report(log, out, title=title, skip_fs=skip_fs, compute=computed)
    if as_json:
        print_json({"report": str(out), "averages": {name: found.to_dict() for name, found in results.items()}})
    else:
        console.print(f"wrote [bold]{out}[/bold]")
