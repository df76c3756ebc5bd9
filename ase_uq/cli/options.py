"""Options that several commands share, and how they print."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from ase_uq.cli.choices import ForcesVar
from ase_uq.cli.shell_names import Means, spoken

# Progress and prose go to stderr, so that stdout is the result alone.
console = Console(stderr=True, highlight=False)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for machines.")]
ENERGY_KEY = Annotated[
    str | None, typer.Option("--energy-key", help="Name of the energy (eV) in DATA [REF_energy, or ASE's own].")
]
FORCES_KEY = Annotated[
    str | None, typer.Option("--forces-key", help="Name of the forces (eV/Å) in DATA [REF_forces, or ASE's own].")
]
STRESS_KEY = Annotated[
    str | None,
    typer.Option(
        "--stress-key", help="Name of the stress (eV/Å^3), or of a virial (eV), in DATA [REF_stress, or ASE's own]."
    ),
]
MAX_FORCE = Annotated[
    float, typer.Option("--max-force", help="Refuse frames with a force component larger than this, eV/Å.")
]
DEVICE = Annotated[
    str,
    typer.Option(help="Where to compute: cpu, cuda, cuda:0, ...", autocompletion=lambda: ["cpu", "cuda", "cuda:0"]),
]
MEMORY_LIMIT = Annotated[float | None, typer.Option(help="Memory that one evaluation may take, GB [no limit].")]
DEFINITIONS = (
    "distance:0,1 angle:1,0,2 dihedral:0,1,2,3 umbrella:0,1,2,3 rdf:O-O or rdf:O-O,6.0,100 (r_max in Å, bins) "
    "coordination:O-H,1.25 angles:H-O-H,1.3 (cut-off in Å) density pressure volume"
)
OBSERVABLES = Annotated[
    list[str] | None,
    typer.Option(
        "--observable",
        help=f"Observable to log: {DEFINITIONS}; NAME=... gives it a name. Repeatable.",
        show_default=False,
    ),
    Means("observable", "observables"),
]
FORCES_VAR = Annotated[
    ForcesVar | None,
    typer.Option(
        help="How the variance of forces is found: from every member (exact), from a few combinations of members "
        "(low_rank), from one random combination (stochastic), or not at all (off). The last three are cheaper for "
        "members that share a body [exact; stochastic for BLIP with noise on the readouts].",
    ),
]
MODEL = Annotated[Path, typer.Argument(metavar="MODEL", help="Model file of `ase-uq train`.", show_default=False)]
SKIP = Annotated[
    float, typer.Option("--skip", help="Time at the start of the run that averages leave out as equilibration, fs.")
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace an existing log.")]


def warn(sentences: Iterable[str], about: str = "") -> None:
    """Print warnings on stdout, before the numbers they are about."""
    for sentence in sentences:
        typer.echo(f"warning{about}: {spoken(sentence)}")


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
