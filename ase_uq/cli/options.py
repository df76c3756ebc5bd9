"""Options that several commands share, and how they print."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

# Progress and prose go to stderr, so that stdout is the result alone.
console = Console(stderr=True, highlight=False)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for machines.")]
ENERGY_KEY = Annotated[
    str | None, typer.Option("--energy-key", help="Name of the energy (eV) in the frames [REF_energy, or ASE's own].")
]
FORCES_KEY = Annotated[
    str | None, typer.Option("--forces-key", help="Name of the forces (eV/Å) [REF_forces, or ASE's own].")
]
STRESS_KEY = Annotated[
    str | None,
    typer.Option("--stress-key", help="Name of the stress (eV/Å^3), or of a virial (eV) [REF_stress, or ASE's own]."),
]
MAX_FORCE = Annotated[float, typer.Option("--max-force", help="A larger force component (eV/Å) is refused.")]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace an existing OUT.")]
DEVICE = Annotated[str, typer.Option(help="cpu, cuda, cuda:0, ...")]
MEMORY_LIMIT = Annotated[float | None, typer.Option(help="Memory an evaluation may take, GB.")]
OBSERVABLES = Annotated[
    list[str] | None,
    typer.Option(
        help="distance:0,1 angle:1,0,2 dihedral:0,1,2,3 umbrella:0,1,2,3 rdf:O-O coordination:O-H,1.25 "
        "angles:H-O-H,1.3 density pressure volume; NAME=... names it. Repeatable."
    ),
]
MODEL = Annotated[Path, typer.Argument(help="Model file of `ase-uq train`.", show_default=False)]


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout; what is not a number becomes null."""
    typer.echo(json.dumps(_plain(content), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def chosen(**options: Any) -> dict[str, Any]:
    """Return what is not left at its default: not every kind of model can be evaluated in other ways."""
    usual = {"device": "cpu", "compile": "off", "memory_limit": None}
    return {name: value for name, value in options.items() if value != usual[name]}
