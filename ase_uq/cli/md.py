"""The command `ase-uq md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.choices import Compile, ForcesVar, PerAtom
from ase_uq.cli.dataclass_options import Chosen, taking
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
)
from ase_uq.cli.shell_names import Means
from ase_uq.dynamics.settings import MDSettings

if TYPE_CHECKING:
    from ase import Atoms

    from ase_uq.calculators.calculator import PredictionCalculator, UQCalculator
    from ase_uq.dynamics.driver import Status
    from ase_uq.reweighting import ReweightResult

NAME = "md"
SETTINGS = Chosen("", {"all": MDSettings})
START = Annotated[
    Path,
    typer.Argument(metavar="START", help="Start structure: the last frame of this file.", show_default=False),
    Means("atoms"),
]
LOG = Annotated[Path, typer.Option(help="HDF5 log to write."), Means("path")]
BASELINE = Annotated[
    str | None,
    typer.Option(
        help="Potential to fall back to where the model is unsure: gfn2-xtb, gfn1-xtb, emt, or package.module:Class.",
        autocompletion=lambda: ["gfn2-xtb", "gfn1-xtb", "emt"],
    ),
]
SIGMA = Annotated[
    float | None, typer.Option("--sigma-baseline", help="Standard deviation of the baseline's total energy, eV.")
]
SIGMA_PER_ATOM = Annotated[
    float | None, typer.Option("--sigma-baseline-per-atom", help="The same for each atom instead, eV.")
]
ALIGN = Annotated[
    Path | None,
    typer.Option(help="Frames on which the energy zeros of model and baseline are aligned [START]."),
    Means("frames"),
]
STORE = Annotated[list[PerAtom] | None, typer.Option(help="Also log this for every atom and frame. Repeatable.")]
EVERY = Annotated[int, typer.Option(help="Steps from one variance of forces to the next.")]
COMPILE = Annotated[
    Compile,
    typer.Option(
        "--compile",
        help="auto evaluates the members as machine code, built once for an architecture in about a minute.",
    ),
]
TRAJ = Annotated[
    Path | None,
    typer.Option(
        help="Also write the logged frames as a trajectory of ASE: .traj, .xyz or .extxyz.", show_default=False
    ),
]
RESTART = Annotated[
    bool, typer.Option("--restart", help="Go on exactly where the log of this name stopped."), Means("append")
]


@taking(SETTINGS, after="start")
def run(
    model: MODEL,
    start: START,
    log: LOG,
    observable: OBSERVABLES = None,
    store: STORE = None,
    traj: TRAJ = None,
    baseline: BASELINE = None,
    sigma_baseline: SIGMA = None,
    sigma_baseline_per_atom: SIGMA_PER_ATOM = None,
    align: ALIGN = None,
    forces_var: FORCES_VAR = None,
    every: EVERY = 1,
    compile_: COMPILE = Compile.off,
    device: DEVICE = "cpu",
    memory_limit: MEMORY_LIMIT = None,
    restart: RESTART = False,
    overwrite: OVERWRITE = False,
    as_json: JSON = False,
    **given: Any,
) -> None:
    """Run molecular dynamics with the uncertainty of every step, and averages with error bars while it runs."""
    from ase_uq.cli.progress import status_line
    from ase_uq.dynamics.driver import run_md
    from ase_uq.files import check_stays
    from ase_uq.observables import parse_observables
    from ase_uq.structures.frames import read_structures

    settings = SETTINGS.made(given)
    check_stays(log, [model, start, align])
    structures = read_structures(start)
    evaluated = chosen(device=device, compile=compile_.value, memory_limit=memory_limit)
    wrapped = _wrapped(model, forces_var, every, evaluated)
    aligned_on = structures if align is None else read_structures(align)
    calculator = make_calculator(wrapped, baseline, sigma_baseline, sigma_baseline_per_atom, aligned_on)
    with status_line() as show:
        averages = run_md(
            structures[-1],
            calculator,
            settings,
            log=log,
            observables=parse_observables(observable or [], structures[-1]),
            store=[each.value for each in store or ()],
            restart=restart,
            overwrite=overwrite,
            traj=traj,
            on_status=lambda status: show(describe(status)),
        )
    if as_json:
        print_json({"log": str(log), "steps": settings.steps, "averages": _told(averages)})
    else:
        console.print(f"wrote [bold]{log}[/bold]; next: ase-uq report {log} --out report.html")


def _wrapped(model: Path, forces_var: ForcesVar | None, every: int, evaluated: dict[str, Any]) -> UQCalculator:
    from ase_uq.calculators.calculator import UQCalculator
    from ase_uq.dynamics.allocator import keep_freed_memory
    from ase_uq.models.checkpoint import load

    keep_freed_memory()
    loaded = load(model, **evaluated)
    return UQCalculator(loaded, forces_var=None if forces_var is None else forces_var.value, every=every)


def _told(averages: Mapping[str, ReweightResult]) -> dict[str, Any]:
    kept = ("mean", "std_sampling", "std_model", "std_total", "n_frames", "warnings")
    return {name: {each: getattr(result, each) for each in kept} for name, result in averages.items()}


def make_calculator(
    calculator: UQCalculator,
    baseline: str | None,
    sigma_baseline: float | None,
    sigma_baseline_per_atom: float | None,
    frames: list[Atoms],
) -> PredictionCalculator:
    """Put a baseline under a model, with the energy zeros of the two aligned on `frames`."""
    from ase_uq.adapters.baselines import baseline_calculator
    from ase_uq.calculators.baseline import WeightedBaseline
    from ase_uq.errors import InputError

    if baseline is None:
        if sigma_baseline is not None or sigma_baseline_per_atom is not None:
            raise InputError("`--sigma-baseline` needs a baseline; name one with --baseline.")
        return calculator
    blended: WeightedBaseline = WeightedBaseline.aligned(
        calculator,
        baseline_calculator(baseline),
        frames,
        sigma_baseline=sigma_baseline,
        sigma_baseline_per_atom=sigma_baseline_per_atom,
    )
    offsets = ", ".join(f"{symbol} {value:+.4f}" for symbol, value in (blended.offsets or {}).items())
    console.print(f"energy zero of {baseline} shifted by (eV per atom): {offsets}")
    return blended


def describe(status: Status) -> str:
    """One line: step, or steps left of the equilibration, speed, temperature, energy std, weight, running averages."""
    from ase_uq.averages.text import round_average

    where = f"step {status.step}/{status.steps}" if status.step >= 0 else f"equilibration, {-status.step} steps to go"
    parts: list[Any] = [
        where,
        f"{status.ns_per_day:.3g} ns/day",
        f"{status.temperature_K:.0f} K",
    ]
    if status.energy_std is not None:
        parts.append(f"σ(E) {1e3 * status.energy_std:.1f} meV")
    if status.weight is not None:
        parts.append(f"w {status.weight:.3f}")
    for name, result in status.averages.items():
        parts.append(f"{name} {round_average(result).text()}")
    return "  ".join(parts)
