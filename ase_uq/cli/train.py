"""The command `ase-uq train`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.cli.dataclass_options import Chosen, taking
from ase_uq.cli.options import DEVICE, ENERGY_KEY, FORCES_KEY, JSON, MAX_FORCE, STRESS_KEY, console, print_json
from ase_uq.cli.shell_names import Means, spoken
from ase_uq.errors import InputError
from ase_uq.files import check_folder
from ase_uq.training.architectures import ARCHITECTURE_OPTIONS
from ase_uq.training.methods import METHODS
from ase_uq.training.settings import FitSettings

if TYPE_CHECKING:
    from ase_uq.structures.frames import Frame
    from ase_uq.training.fit import EpochRecord
    from ase_uq.training.learning_curve import LearningCurve
    from ase_uq.training.run import TrainingRun
    from ase_uq.uncertainty.prediction import UncertaintyModel

NAME = "train"
UNLIMITED, FINE_TUNING_RATE = 1_000_000, 0.001
KINDS = ", ".join(f"{name} ({kind.says})" for name, kind in METHODS.items())
METHOD = Chosen("method", METHODS, f"Kind of uncertainty: {KINDS}.")
ARCHITECTURE = Chosen("potential", ARCHITECTURE_OPTIONS, "Architecture of the network; that of the model with --from.")
SETTINGS = Chosen("", {"all": FitSettings})


@taking(METHOD, ARCHITECTURE, SETTINGS, after="out")
def run(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Frames with energies and forces: extended XYZ, also .gz.", show_default=False
        ),
        Means("frames"),
    ],
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("model.pt"),
    valid: Annotated[Path | None, typer.Option(help="File of validation frames [a random part of DATA].")] = None,
    valid_fraction: Annotated[float, typer.Option(help="Part of DATA that is held out for validation.")] = 0.1,
    device: DEVICE = "cpu",
    start: Annotated[Path | None, typer.Option("--from", help="Model file to fine-tune.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training of the same OUT.")
    ] = False,
    energy_key: ENERGY_KEY = None,
    forces_key: FORCES_KEY = None,
    stress_key: STRESS_KEY = None,
    max_force: MAX_FORCE = 300.0,
    as_json: JSON = False,
    **given: Any,
) -> None:
    """Train a model with uncertainty: frames with energies (eV) and forces (eV/Å) in, one file out."""
    from ase_uq.training.learning_curve import LearningCurve
    from ase_uq.training.run import TrainingRun

    state_dir = _state_folder(out, resume=resume)
    method, settings = METHOD.made(given), _settings(given, tuned=start is not None)
    architecture, config = given["potential"].value, asdict(ARCHITECTURE.made(given))
    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key, "max_force": max_force}
    train, held_out, notes = _frames(data, valid, valid_fraction, settings.seed, keys)
    training = TrainingRun(
        train,
        held_out,
        method,
        settings,
        architecture=architecture,
        config=config,
        start=None if start is None else _start(start),
        device=device,
        state_dir=state_dir,
        resume=resume,
        data=data.name,
    )
    curve = LearningCurve(out.with_name(out.name + ".curve.csv"), method.parts(), resume=resume)
    model = _trained(training, curve, out)
    _tell(model, training, curve, out, notes, as_json=as_json)


def _state_folder(out: Path, *, resume: bool) -> Path:
    check_folder(out)
    state_dir = out.with_name(out.name + ".training")
    if state_dir.exists() and not resume:
        raise InputError(
            f"an earlier training of {out} was interrupted; go on with --resume, or delete {state_dir} to start again."
        )
    return state_dir


def _settings(given: Mapping[str, Any], *, tuned: bool) -> FitSettings:
    usual: dict[str, Any] = {}
    if given["minutes"] is not None:
        usual["epochs"] = UNLIMITED
    if tuned:
        usual["learning_rate"] = FINE_TUNING_RATE
    made: FitSettings = SETTINGS.made(given, **usual)
    return made


def _frames(
    data: Path, valid: Path | None, valid_fraction: float, seed: int, keys: Mapping[str, Any]
) -> tuple[list[Frame], list[Frame], list[str]]:
    """Return the frames to train on and those to validate with, and what has been said about their labels."""
    from ase_uq.structures.frames import label_notes, read_frames, split_frames
    from ase_uq.training.consistency import label_warnings

    frames = read_frames(data, **keys)
    if valid is None:
        train, held_out = split_frames(frames, valid_fraction=valid_fraction, seed=seed)
    else:
        train, held_out = frames, read_frames(valid, **keys)
    notes = [*label_notes(frames, data.name), *([] if valid is None else label_notes(held_out, valid.name))]
    _say(notes, "note")
    suspicious = label_warnings(train, held_out)
    _say(suspicious, "warning")
    return train, held_out, [*notes, *suspicious]


def _start(path: Path) -> Any:
    from ase_uq.models.checkpoint import load

    potential: Any = getattr(load(path), "potential", None)
    if potential is None:
        raise InputError(f"`--from` needs a model that is made of a potential, {path} holds none; train a new one.")
    return potential


def _trained(training: TrainingRun, curve: LearningCurve, out: Path) -> UncertaintyModel:
    from ase_uq.cli.progress import training_progress
    from ase_uq.models.checkpoint import save

    n_train, n_valid = len(training.train), len(training.valid)
    plan = training.method.plan(training.device)
    console.print(f"{n_train} frames to train on, {n_valid} to validate; {plan}", soft_wrap=True)
    with training_progress(training.method.parts()) as show:

        def on_epoch(part: int, record: EpochRecord) -> None:
            curve.add(part, record)
            show(part, record)

        def write(model: Any) -> None:
            save(model, out)

        training.on_epoch = on_epoch
        return training.complete(save=write)


def _tell(
    model: UncertaintyModel, training: TrainingRun, curve: LearningCurve, out: Path, notes: list[str], *, as_json: bool
) -> None:
    """Draw the learning curves, and say what was written and what went wrong."""
    from ase_uq.report.learning_curve import learning_curve_figure
    from ase_uq.report.style import write_figure

    drawn = curve.path.with_suffix(".png")
    write_figure(learning_curve_figure(curve.rows, in_turn=training.method.in_turn), drawn)
    warnings = training.warnings(model)
    _say(warnings, "warning")
    if as_json:
        files = {"model": str(out), "learning_curve": str(curve.path), "learning_curve_figure": str(drawn)}
        model_hash = getattr(model, "model_hash", None)
        print_json({**files, "model_hash": model_hash, "warnings": [*notes, *warnings], **training.described()})
    else:
        console.print(f"learning curves: {curve.path}, {drawn}", soft_wrap=True)
        console.print(f"wrote [bold]{out}[/bold]; next: ase-uq calibrate {out} VALID.xyz --out calibrated.pt")


def _say(sentences: Iterable[str], kind: str) -> None:
    for sentence in sentences:
        console.print(f"{kind}: {spoken(sentence)}", soft_wrap=True)
