"""Progress bars of the commands, on stderr; without a terminal, a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ase.units import GPa
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ase_uq.cli.options import console
from ase_uq.structures.frames import Frame
from ase_uq.training.fit import EpochRecord
from ase_uq.uncertainty.prediction import UncertaintyModel
from ase_uq.validation.residuals import Residuals, residuals

LINES = 5


@contextmanager
def training_progress(parts: Sequence[str]) -> Iterator[Callable[[int, EpochRecord], None]]:
    """Yield a callback for a training of several parts."""
    with bar() as progress:
        tasks = [progress.add_task(part, total=1.0, note="") for part in parts]
        printed = [0] * len(parts)

        def on_epoch(part: int, record: EpochRecord) -> None:
            note = epoch_note(record)
            progress.update(tasks[part], completed=record.progress, note=note)
            if not console.is_terminal and int(record.progress * LINES) > printed[part]:
                printed[part] = int(record.progress * LINES)
                console.print(f"{parts[part]}: {note}", soft_wrap=True)

        yield on_epoch
        for task in tasks:
            progress.update(task, completed=1.0)


def epoch_note(record: EpochRecord) -> str:
    """One epoch in words: validation errors (RMSE) of forces, energies and, where there are labels, stress."""
    stress = "" if record.stress_rmse is None else f", {record.stress_rmse / GPa:.3g} GPa"
    terms = "".join(f", {name.replace('_', ' ')} {value:.2g}" for name, value in record.terms.items())
    errors = f"{1e3 * record.forces_rmse:.1f} meV/Å, {1e3 * record.energy_rmse:.3g} meV/atom{stress}"
    return f"epoch {record.epoch}, validation {errors}{terms}"


def bar() -> Progress:
    """Return a progress bar with a note behind it; invisible without a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a line in place of the last one; without a terminal only the final one is printed."""
    latest = ""

    def show(line: str) -> None:
        nonlocal latest
        latest = line
        live.update(line)

    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield show
    else:
        with Live(console=Console(quiet=True), auto_refresh=False) as live:
            yield show
        console.print(latest, soft_wrap=True)


def predict_with_progress(model: UncertaintyModel, frames: Sequence[Frame]) -> Residuals:
    """Predict all frames behind a progress bar."""
    with bar() as progress:
        task = progress.add_task("predicting", total=len(frames), note="")
        return residuals(model, frames, on_frame=lambda done: progress.update(task, completed=done))
