"""The command `ase-uq demo`."""

from __future__ import annotations

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.options import JSON, console, print_json

if TYPE_CHECKING:
    from ase import Atoms

    from ase_uq.calculators.calculator import PredictionCalculator
    from ase_uq.models.members import MemberUncertainty

NAME = "demo"
OBSERVABLES = ("bond_length=distance:0,1", "umbrella_angle=umbrella:0,1,2,3")
# Four atoms need no more; what costs time here is the number of operations, not their size.
ARCHITECTURE = {"cutoff": 4.0, "channels": 16, "n_layers": 1, "radial_width": 32}
# eV. Against the DFT labels GFN2-xTB scatters by 12 meV on the training frames, 22 along the inversion, 37 hot.
SIGMA_BASELINE = 0.02


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder for the model, the logs and the reports.")] = Path("demo"),
    members: Annotated[int, typer.Option(help="Number of members, M, at least 4 to calibrate.")] = 4,
    epochs: Annotated[int, typer.Option(help="Training passes over the data.")] = 120,
    steps: Annotated[int, typer.Option(help="Number of steps of each of the two runs, 0.5 fs each.")] = 2500,
    seed: Annotated[int, typer.Option(help="Seed of training and dynamics.")] = 0,
    as_json: JSON = False,
) -> None:
    """Do the whole path on ammonia, whose DFT labels come with the package: train, calibrate, run, report.

    The model has seen only frames near one minimum. GFN2-xTB is the baseline it falls back to: hardly ever at
    300 K, and on the way through the planar geometry in the hot run.
    """
    from ase_uq.calculators.calculator import UQCalculator
    from ase_uq.cli.md import make_calculator
    from ase_uq.errors import InputError
    from ase_uq.structures.frames import read_structures

    if members < 4:
        raise InputError(f"`members` must be at least 4 to calibrate, got {members}; raise --members.")
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with as_file(files("ase_uq") / "data" / "ammonia") as data:
        model = _train(data, out / "model.pt", members=members, epochs=epochs, seed=seed)
        _judge(model, data)
        calculator = make_calculator(
            UQCalculator(model), "gfn2-xtb", SIGMA_BASELINE, None, read_structures(data / "train.xyz")
        )
        start = read_structures(data / "start.xyz")[0]
    reports: dict[str, Any] = {}
    for name, temperature_K in (("300K", 300.0), ("hot", 2000.0)):
        reports[name] = _run(start, calculator, out, name, temperature_K=temperature_K, steps=steps, seed=seed)
    if as_json:
        print_json({"seconds": time.monotonic() - began, "model": str(out / "model.pt"), "runs": reports})
    else:
        console.print(f"done in {time.monotonic() - began:.0f} s; open [bold]{out / 'hot.html'}[/bold] and 300K.html")


def _train(data: Path, path: Path, *, members: int, epochs: int, seed: int) -> MemberUncertainty:
    from ase_uq.cli.progress import training_progress
    from ase_uq.models.checkpoint import save
    from ase_uq.training import Deep, FitSettings, TrainingRun, read_frames
    from ase_uq.validation.residuals import residuals, with_factors

    train, valid = read_frames(data / "train.xyz"), read_frames(data / "valid.xyz")
    # Half of the held-out frames choose the best weights; the other half stays new to every member and calibrates.
    stopping, calibrating = valid[::2], valid[1::2]
    method = Deep(n_members=members, subsample=0.8, jobs=None)
    settings = FitSettings(epochs=epochs, batch_size=10, learning_rate=0.02, seed=seed)
    console.print(f"[bold]1 train[/bold]  {members} members on {len(train)} DFT frames of ammonia")
    training = TrainingRun(train, stopping, method, settings, config=ARCHITECTURE, data="ammonia (bundled)")
    with training_progress(method.parts()) as training.on_epoch:
        raw: Any = training.complete()
    for warning in training.warnings(raw):
        console.print(f"warning: {warning}", soft_wrap=True)
    fitted = residuals(raw, calibrating).factors()
    factors = f"alpha = {fitted['energy'].alpha:.2f}, of forces {fitted['forces'].alpha:.2f}"
    console.print(f"[bold]2 calibrate[/bold]  {factors}, from {len(calibrating)} frames")
    model: MemberUncertainty = with_factors(raw, fitted, data="ammonia/valid.xyz (bundled)")
    save(model, path)
    return model


def _judge(model: MemberUncertainty, data: Path) -> None:
    from ase_uq.training import read_frames
    from ase_uq.validation.residuals import residuals

    console.print("[bold]3 evaluate[/bold]  RMSE of forces, predicted std, and their rank correlation")
    for name in ("valid", "test_inversion", "test_hot"):
        found = residuals(model, read_frames(data / f"{name}.xyz"))
        scores = found.force_scores()
        variance = found.stacked("forces_var")
        std = float("nan") if variance is None else float(variance.mean() ** 0.5)
        console.print(
            f"   {name:15} {1e3 * scores.rmse:7.1f} meV/Å   std {1e3 * std:7.1f} meV/Å   Spearman {scores.spearman:.2f}"
        )


def _run(
    start: Atoms, calculator: PredictionCalculator, out: Path, name: str, *, temperature_K: float, steps: int, seed: int
) -> dict[str, Any]:
    from ase_uq.averages import of_run
    from ase_uq.averages.text import round_average
    from ase_uq.cli.md import describe
    from ase_uq.cli.progress import status_line
    from ase_uq.dynamics.driver import run_md
    from ase_uq.dynamics.settings import MDSettings
    from ase_uq.log.reader import read_log
    from ase_uq.observables import parse_observables
    from ase_uq.report import write_report

    console.print(f"[bold]4 run[/bold]  {steps} steps at {temperature_K:.0f} K, baseline GFN2-xTB")
    log = out / f"{name}.h5"
    atoms = start.copy()
    observables = parse_observables(OBSERVABLES, atoms)
    settings = MDSettings(temperature_K=temperature_K, steps=steps, timestep_fs=0.5, seed=seed)
    with status_line() as show:
        run_md(
            atoms,
            calculator,
            settings,
            log=log,
            observables=observables,
            overwrite=True,
            on_status=lambda status: show(describe(status)),
        )
    recorded = read_log(log)
    averages = {}
    for observable, result in of_run(recorded).items():
        text = round_average(result).text(result.unit)
        console.print(f"   <{observable}> = {text}")
        averages[observable] = text
    angle = recorded.observables["umbrella_angle"]
    if recorded.weight is not None and angle.min() < 90.0 < angle.max():
        console.print(f"   the molecule inverts; the smallest weight of the model is {recorded.weight.min():.3f}")
    report = out / f"{name}.html"
    write_report(log, report, title=f"Ammonia at {temperature_K:.0f} K")
    return {"log": str(log), "report": str(report), "averages": averages}
