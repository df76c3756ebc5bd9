"""`ase-uq train`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_uq.commands.options import DEVICE, ENERGY_KEY, FORCES_KEY, JSON, MAX_FORCE, STRESS_KEY, console, print_json

if TYPE_CHECKING:
    from ase_uq.training.fit import EpochRecord
    from ase_uq.training.methods import Method

NAME = "train"
DEFAULT_EPOCHS, UNLIMITED, DEFAULT_RATE, DEFAULT_STAGE = 200, 1_000_000, 0.01, 0.0
CHOICES = {"method": ("deep", "shallow", "blip"), "potential": ("equivariant",)}
LATER = {"method": ("coherent", "ltau"), "potential": ("spline",)}


def run(
    data: Annotated[Path, typer.Argument(help="Frames with energies and forces: extended XYZ, also .gz.")],
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("model.pt"),
    method: Annotated[
        str,
        typer.Option(
            help="Kind of uncertainty: deep (independent members), shallow (one body, M last layers) or blip "
            "(noise on the weights, M draws)."
        ),
    ] = "deep",
    potential: Annotated[str, typer.Option(help="Architecture: equivariant.")] = "equivariant",
    members: Annotated[
        int | None, typer.Option(help="M, at least 2; 4 or more to calibrate [deep 4, shallow 8, blip 16].")
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="Validation frames [a random part of DATA].")] = None,
    valid_fraction: Annotated[float, typer.Option(help="Part of DATA held out for validation.")] = 0.1,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data [200; with --minutes, no limit].")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time budget, minutes (deep: of each member); stops in good order with the best weights."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Structures a step.")] = 5,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam [0.01; 0.001 with --from].")] = None,
    schedule: Annotated[str, typer.Option(help="cosine, plateau or constant.")] = "cosine",
    energy_weight: Annotated[float, typer.Option(help="Weight of the energies (per atom) in the loss.")] = 10.0,
    forces_weight: Annotated[float, typer.Option(help="Weight of the forces in the loss.")] = 1.0,
    stress_weight: Annotated[float, typer.Option(help="Weight of the virials (per atom) in the loss.")] = 1.0,
    energy_stage: Annotated[
        float,
        typer.Option(
            help="Part of the training, at its end, in which the weight of the energies rises where they are left "
            "behind, at the cost of forces (0.5, say); 0 for none. With --schedule cosine."
        ),
    ] = DEFAULT_STAGE,
    subsample: Annotated[
        float, typer.Option(help="deep: part of the data each member sees, without replacement.")
    ] = 1.0,
    cutoff: Annotated[float, typer.Option(help="Neighbour cut-off, Å.")] = 5.0,
    channels: Annotated[int, typer.Option(help="Features per spherical component.")] = 64,
    l_max: Annotated[int, typer.Option(help="Highest degree of the neighbour density, 0 to 2.")] = 2,
    hidden_l_max: Annotated[int, typer.Option(help="Highest degree of the messages, 0 to l_max.")] = 0,
    layers: Annotated[int, typer.Option(help="Message-passing steps.")] = 2,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: DEVICE = "cpu",
    jobs: Annotated[
        int | None, typer.Option(help="deep: members trained at the same time [as many as torch has threads].")
    ] = None,
    kl_weight: Annotated[
        float | None,
        typer.Option(
            help="blip: train by the evidence lower bound, with this weight of the divergence from the prior (1e-4, "
            "say; the smaller, the less noise) [by the score of the draws]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, data order, split and sub-samples.")] = 0,
    from_model: Annotated[Path | None, typer.Option("--from", help="Model file to fine-tune.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training of the same OUT.")
    ] = False,
    energy_key: ENERGY_KEY = None,
    forces_key: FORCES_KEY = None,
    stress_key: STRESS_KEY = None,
    max_force: MAX_FORCE = 300.0,
    as_json: JSON = False,
) -> None:
    """Train a model with uncertainty: frames with energies (eV) and forces (eV/Å) in, one file out."""
    from ase_uq.checkpoint import save
    from ase_uq.commands.progress import training_progress
    from ase_uq.errors import InputError
    from ase_uq.learning_curve import LearningCurve, learning_curve_figure
    from ase_uq.members import MemberUncertainty
    from ase_uq.plots import write_png
    from ase_uq.training import FitSettings, read_frames, split_frames
    from ase_uq.training.consistency import label_warnings
    from ase_uq.training.data import label_notes
    from ase_uq.training.methods import METHODS
    from ase_uq.training.verdict import training_warnings

    for option, value in (("method", method), ("potential", potential)):
        _check_choice(option, value)
    _check_folder(out)
    state_dir = out.with_name(out.name + ".training")
    if state_dir.exists() and not resume:
        raise InputError(
            f"an earlier training of {out} was interrupted; go on with --resume, or delete {state_dir} to start again."
        )
    if learning_rate is None:
        learning_rate = DEFAULT_RATE if from_model is None else 0.1 * DEFAULT_RATE
    settings = FitSettings(
        epochs=(DEFAULT_EPOCHS if minutes is None else UNLIMITED) if epochs is None else epochs,
        minutes=minutes,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        energy_weight=energy_weight,
        forces_weight=forces_weight,
        stress_weight=stress_weight,
        energy_stage=energy_stage,
        seed=seed,
    )
    keys: dict[str, Any] = {
        "energy_key": energy_key,
        "forces_key": forces_key,
        "stress_key": stress_key,
        "max_force": max_force,
    }
    frames = read_frames(data, **keys)
    if valid is None:
        train, held_out = split_frames(frames, valid_fraction=valid_fraction, seed=seed)
    else:
        train, held_out = frames, read_frames(valid, **keys)
    notes = [*label_notes(frames, data.name), *([] if valid is None else label_notes(held_out, valid.name))]
    _say(notes, "note")
    suspicious = label_warnings(train, held_out)
    _say(suspicious, "warning")
    chosen = METHODS[method]
    members = chosen.n_members if members is None else members
    config = {
        "cutoff": cutoff,
        "channels": channels,
        "l_max": l_max,
        "hidden_l_max": hidden_l_max,
        "n_layers": layers,
        "dtype": dtype,
    }
    extra = _extra(method, chosen.options, members, device, subsample=subsample, jobs=jobs, kl_weight=kl_weight)
    at_a_time = f", {extra['jobs']} at a time" if "jobs" in extra else ""
    console.print(f"{len(train)} frames to train on, {len(held_out)} to validate; {members} members{at_a_time}")
    parts = chosen.parts(members)
    curve = LearningCurve(out.with_name(out.name + ".curve.csv"), parts, resume=resume)
    with training_progress(parts) as (show, last):

        def on_epoch(part: int, record: EpochRecord) -> None:
            curve.add(part, record)
            show(part, record)

        ensemble = chosen.train(
            train,
            held_out,
            n_members=members,
            settings=settings,
            config=config,
            start=None if from_model is None else _start(from_model, method, chosen),
            device=device,
            state_dir=state_dir,
            resume=resume,
            on_epoch=on_epoch,
            **extra,
        )
    described: dict[str, Any] = {
        "method": method,
        "data": data.name,
        "n_train": len(train),
        "n_valid": len(held_out),
        "subsample": subsample,
        "learning_rate": learning_rate,
        **{name: extra[name] for name in ("kl_weight",) if extra.get(name) is not None},
        "batch_size": batch_size,
        "schedule": schedule,
        "energy_stage": energy_stage,
        "seed": seed,
        "parts": [
            {
                "name": parts[part],
                "epochs": record.epoch,
                "seconds": round(record.seconds, 1),
                "valid_energy_rmse": record.energy_rmse,
                "valid_forces_rmse": record.forces_rmse,
                **({} if record.stress_rmse is None else {"valid_stress_rmse": record.stress_rmse}),
                **({"terms": dict(record.terms)} if record.terms else {}),
            }
            for part, record in sorted(last.items())
        ],
    }
    model = MemberUncertainty(ensemble, training=described)
    save(model, out)
    drawn = curve.path.with_suffix(".png")
    write_png(learning_curve_figure(curve.rows, in_turn=chosen.in_turn), drawn)
    of_method = () if chosen.warnings is None else chosen.warnings(ensemble, train, **extra)
    warnings = (*of_method, *training_warnings(ensemble, train, held_out))
    _say(warnings, "warning")
    if as_json:
        files = {"model": str(out), "learning_curve": str(curve.path), "learning_curve_figure": str(drawn)}
        print_json({**files, "model_hash": model.model_hash, "warnings": [*notes, *suspicious, *warnings], **described})
    else:
        console.print(f"learning curves: {curve.path}, {drawn}", soft_wrap=True)
        console.print(f"wrote [bold]{out}[/bold]; next: ase-uq calibrate {out} VALID.xyz --out calibrated.pt")


def _start(path: Path, method: str, chosen: Method) -> Any:
    from ase_uq.checkpoint import load
    from ase_uq.errors import InputError

    potential = load(path).potential
    kinds = chosen.potential if isinstance(chosen.potential, tuple) else (chosen.potential,)
    if not isinstance(potential, kinds):
        raise InputError(
            f"`--from` needs a {kinds[0].__name__} for --method {method}, {path} holds a "
            f"{type(potential).__name__}; train it with the method it was made by."
        )
    return potential


def _extra(
    method: str,
    options: tuple[str, ...],
    members: int,
    device: str,
    *,
    subsample: float,
    jobs: int | None,
    kl_weight: float | None,
) -> dict[str, Any]:
    import torch

    from ase_uq.errors import InputError
    from ase_uq.training.methods import METHODS

    defaults = {"subsample": 1.0, "jobs": None, "kl_weight": None}
    values = {"subsample": subsample, "jobs": jobs, "kl_weight": kl_weight}
    for name in sorted(name for name, value in values.items() if value != defaults[name] and name not in options):
        owner = next(each for each, kind in METHODS.items() if name in kind.options)
        raise InputError(f"`--{name.replace('_', '-')}` is an option of --method {owner}, not of {method}; drop it.")
    jobs = min(members, torch.get_num_threads()) if jobs is None else jobs
    found = {
        "subsample": subsample,
        "jobs": 1 if device.startswith("cuda") else jobs,
        "kl_weight": kl_weight,
    }
    return {name: found[name] for name in options}


def _say(sentences: Iterable[str], kind: str) -> None:
    for sentence in sentences:
        console.print(f"{kind}: {sentence}", soft_wrap=True)


def _check_choice(option: str, value: str) -> None:
    from ase_uq.errors import InputError

    if value in LATER[option]:
        known = " or ".join(CHOICES[option])
        raise InputError(f"--{option} {value} comes with a later version of ase_uq; use {known}.")
    if value not in CHOICES[option]:
        raise InputError(f"`{option}` must be {' or '.join(CHOICES[option])}, got {value!r}; choose one.")


def _check_folder(out: Path) -> None:
    from ase_uq.errors import InputError

    if not out.parent.is_dir():
        raise InputError(f"the folder of `{out}` does not exist; create {out.parent} first.")
