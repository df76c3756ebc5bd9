"""The command `ase-uq md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.options import DEVICE, JSON, MEMORY_LIMIT, MODEL, OBSERVABLES, chosen, console, print_json

if TYPE_CHECKING:
    from ase import Atoms

    from ase_uq.calculators.calculator import PredictionCalculator, UQCalculator
    from ase_uq.dynamics.driver import Status

NAME = "md"


def run(
    model: MODEL,
    start: Annotated[Path, typer.Argument(help="Start structure (the last frame of the file).")],
    temperature: Annotated[float, typer.Option(help="K.")],
    steps: Annotated[int, typer.Option(help="Steps in all, those before a restart included.")],
    log: Annotated[Path, typer.Option(help="HDF5 log to write.")],
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    ensemble: Annotated[str, typer.Option(help="nvt (Langevin) or nve.")] = "nvt",
    friction: Annotated[float, typer.Option(help="Of the thermostat, 1/ps.")] = 10.0,
    baseline: Annotated[
        str | None, typer.Option(help="Fall back to: gfn2-xtb, gfn1-xtb, emt, or package.module:Class.")
    ] = None,
    sigma_baseline: Annotated[float | None, typer.Option(help="Error of the baseline's total energy, eV.")] = None,
    sigma_baseline_per_atom: Annotated[float | None, typer.Option(help="The same for each atom, eV.")] = None,
    align: Annotated[
        Path | None, typer.Option(help="Frames on which the energy zeros of model and baseline are aligned [START].")
    ] = None,
    observable: OBSERVABLES = None,
    store: Annotated[
        list[str] | None, typer.Option(help="Also log positions, forces, forces_var or cell. Repeatable.")
    ] = None,
    forces_var: Annotated[
        str | None,
        typer.Option(
            help="Variance of forces: exact, low_rank, stochastic or off. Cheaper for members that share a body "
            "[exact; stochastic for BLIP with noise on the readouts]."
        ),
    ] = None,
    every: Annotated[int, typer.Option(help="Steps from one variance of forces to the next.")] = 1,
    compile_: Annotated[
        str,
        typer.Option("--compile", help="auto: machine code, built once for an architecture in about a minute; or off."),
    ] = "off",
    device: DEVICE = "cpu",
    memory_limit: MEMORY_LIMIT = None,
    interval: Annotated[int, typer.Option(help="Steps between logged frames.")] = 1,
    seed: Annotated[int, typer.Option(help="Of velocities and thermostat.")] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Go on exactly where the log of this name stopped.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing log.")] = False,
    as_json: JSON = False,
) -> None:
    """Run molecular dynamics with the uncertainty of every step, and averages with error bars while it runs."""
    from ase_uq.calculators.calculator import UQCalculator
    from ase_uq.cli.progress import status_line
    from ase_uq.dynamics.allocator import keep_freed_memory
    from ase_uq.dynamics.driver import MDSettings, run_md
    from ase_uq.models.checkpoint import load
    from ase_uq.observables import parse_observables
    from ase_uq.structures.frames import read_structures

    settings = MDSettings(
        temperature_K=temperature,
        steps=steps,
        timestep_fs=timestep,
        friction_per_ps=friction,
        ensemble=ensemble,
        seed=seed,
        interval=interval,
    )
    structures = read_structures(start)
    atoms = structures[-1]
    keep_freed_memory()
    loaded = load(model, **chosen(device=device, compile=compile_, memory_limit=memory_limit))
    usual = getattr(loaded, "usual_forces_var", "exact")
    wrapped = UQCalculator(loaded, forces_var=forces_var or usual, every=every)
    aligned_on = structures if align is None else read_structures(align)
    calculator = make_calculator(wrapped, baseline, sigma_baseline, sigma_baseline_per_atom, aligned_on)
    observables = parse_observables(observable or [], atoms)
    with status_line() as show:
        averages = run_md(
            atoms,
            calculator,
            settings,
            log=log,
            observables=observables,
            store=store or (),
            restart=restart,
            overwrite=overwrite,
            on_status=lambda status: show(describe(status)),
        )
    if as_json:
        print_json(
            {
                "log": str(log),
                "steps": steps,
                "averages": {
                    name: {
                        "mean": result.mean,
                        "std_sampling": result.std_sampling,
                        "std_model": result.std_model,
                        "std_total": result.std_total,
                        "n_frames": result.n_frames,
                    }
                    for name, result in averages.items()
                },
            }
        )
    else:
        console.print(f"wrote [bold]{log}[/bold]; next: ase-uq report {log} --out report.html")


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
    """One line: step, speed, temperature, energy std, weight and the running averages."""
    from ase_uq.averages.text import round_average

    parts: list[Any] = [
        f"step {status.step}/{status.steps}",
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
