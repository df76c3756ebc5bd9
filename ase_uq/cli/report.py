"""The command `ase-uq report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_uq.cli.options import JSON, console, print_json

NAME = "report"


def run(
    log: Annotated[Path, typer.Argument(help="HDF5 log of `ase-uq md`.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    rdf: Annotated[
        list[str] | None,
        typer.Option(help="g(r) from stored positions: O-O, or O-O,6,100 (r_max in Å, bins). Repeatable."),
    ] = None,
    compute: Annotated[
        list[str] | None, typer.Option(help="Other observables from stored positions, as for `reweight`. Repeatable.")
    ] = None,
    skip: Annotated[
        float, typer.Option(help="Time at the start to leave out of the averages as equilibration, fs.")
    ] = 0.0,
    as_json: JSON = False,
) -> None:
    """Write one self-contained HTML page: what was run, its uncertainty, its averages with both error bars."""
    from ase_uq.report import write_report

    texts = [*(f"rdf:{text}" for text in rdf or ()), *(compute or ())]
    results = write_report(log, out, title=title, skip_fs=skip, compute=texts)
    if as_json:
        print_json({"report": str(out), "averages": {name: found.to_dict() for name, found in results.items()}})
    else:
        console.print(f"wrote [bold]{out}[/bold]")
