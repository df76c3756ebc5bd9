"""BLIP against what it competes with, on frames like those of the training and on frames far from them.

    python benchmarks/blip.py --out DIR [--quick] [--only NAME] [--seeds N]

ammonia: the split of the BLIP paper, 64 frames to train, the 14 after them to validate, and the 60 distorted ones.
3bpa: trained at 300 K, tested at 300 K and 600 K. All rows have the architecture, the settings and the epochs of one
member of the deep ensemble; fine-tuning starts from that member and has half as many. Widths are calibrated on the
validation frames (one alpha, fitted to the forces); times are those of one thread. Each row is written to DIR when it
is done, and not done again. Means over seeds, with the standard deviation over them where there are several.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from systems import DEFAULT_ROOT

from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, EquivariantPotential, make_variational
from ase_uq.potentials.base import evaluate
from ase_uq.structures.frames import Frame
from ase_uq.training import FitSettings, read_frames, split_frames, train_members
from ase_uq.training.losses import Labels, Scored
from ase_uq.training.reference import fit_reference
from ase_uq.training.variational import KL_WEIGHT, EvidenceLowerBound, train_variational
from ase_uq.uncertainty.force_variance import Off
from ase_uq.validation.residuals import Residuals, residuals, with_factors

KCAL_PER_MOL = 0.0433641  # eV
DRAWS, REPEATS = 16, 20


@dataclass(frozen=True)
class Task:
    """Frames, and how models of them are trained."""

    train: list[Frame]
    valid: list[Frame]
    near: list[Frame]
    far: list[Frame]
    config: dict[str, Any]
    settings: FitSettings


def main() -> int:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="two epochs, one seed; the numbers mean nothing")
    parser.add_argument("--only", choices=list(TASKS), help="one data set")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    root = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT))
    for name in [options.only] if options.only else list(TASKS):
        task = TASKS[name](root)
        if options.quick:
            task = replace(task, settings=replace(task.settings, epochs=2), near=task.near[:5], far=task.far[:5])
        rows = []
        for seed in range(1 if options.quick else options.seeds):
            rows += measured(task, name, seed, options.out)
        print(f"\n{name}\n\n{table(rows)}")
    return 0


def ammonia(root: Path) -> Task:
    """The frames of the source in their order: 78 near the minimum, then distorted ones."""
    frames = read_frames(root / "ammonia" / "all.xyz.gz")
    settings = FitSettings(epochs=300, batch_size=8, learning_rate=0.01)
    config = {"cutoff": 4.0, "channels": 16, "n_layers": 2, "radial_width": 32}
    return Task(frames[:64], frames[64:78], frames[64:78], frames[78:], config, settings)


def bpa(root: Path) -> Task:
    """Training frames at 300 K, every fourth test frame of 300 K and of 600 K."""
    train, valid = split_frames(read_frames(root / "3bpa" / "train_300K.xyz.gz"), valid_fraction=0.1, seed=0)
    near, far = (read_frames(root / "3bpa" / f"test_{kelvin}K.xyz.gz")[::4] for kelvin in (300, 600))
    settings = FitSettings(epochs=16, batch_size=5, learning_rate=0.01)
    return Task(train, valid, near, far, {"cutoff": 4.5, "channels": 32, "n_layers": 2}, settings)


TASKS: dict[str, Callable[[Path], Task]] = {"ammonia": ammonia, "3bpa": bpa}


def measured(task: Task, name: str, seed: int, out: Path) -> list[dict[str, Any]]:
    """Return the rows of one seed; those that are in the folder are not made again."""
    settings = replace(task.settings, seed=100 * seed)
    common: dict[str, Any] = {"settings": settings, "config": task.config}
    rate = 0.3 * settings.learning_rate
    half = replace(settings, epochs=max(1, settings.epochs // 2), learning_rate=rate)

    def deep() -> DeepEnsemble:
        return train_members(task.train, task.valid, n_members=5, **common)

    def blip(**options: Any) -> Any:
        return train_variational(task.train, task.valid, n_members=DRAWS, **{**common, **options})

    dropout = {"law": "dropout", "inputs": "none", "initial_dropout": 0.1, "centred": False}
    started: dict[str, Any] = {}
    recipes: dict[str, Callable[[], Any]] = {
        "deep 5": deep,
        "MC dropout": lambda: blip(noise=dropout, kl_weight=0.0),
        "variational dropout": lambda: blip(noise={"inputs": "none", "centred": False}, kl_weight=KL_WEIGHT),
        "BLIP, published recipe": lambda: as_published(task, settings),
        "BLIP, evidence lower bound": lambda: blip(kl_weight=KL_WEIGHT),
        "BLIP": blip,
        "BLIP, fine-tuned": lambda: blip(start=started["twin"], settings=half),
    }
    rows = []
    for method, recipe in recipes.items():
        path = out / f"{name}_{method.replace(' ', '_').replace(',', '')}_{seed}.json"
        model = path.with_suffix(".pt")
        if not path.exists():
            began = time.process_time()
            ensemble = recipe()
            seconds = time.process_time() - began
            if method == "deep 5":
                torch.save(ensemble.members[0], model)
                twin = scored(task, DeepEnsemble([ensemble.members[0]] * 2), seconds / 5, widths=False)
                path.with_name(f"{name}_twin_{seed}.json").write_text(json.dumps(twin), encoding="utf-8")
            path.write_text(json.dumps(scored(task, ensemble, seconds)), encoding="utf-8")
            print(f"{name}, seed {seed}: {method}, {seconds:.0f} s", file=sys.stderr, flush=True)
        if method == "deep 5":
            twin_path = path.with_name(f"{name}_twin_{seed}.json")
            rows.append({"method": "one member", **json.loads(twin_path.read_text(encoding="utf-8"))})
            started["twin"] = DeepEnsemble([torch.load(model, weights_only=False)] * 2)
        rows.append({"method": method, **json.loads(path.read_text(encoding="utf-8"))})
    return rows


def as_published(task: Task, settings: FitSettings) -> Any:
    """Rates from elements and distances, noise on all scalar layers and fresh in every row, L1, the paper's weights."""
    reference = fit_reference(task.train, cutoff=task.config["cutoff"])
    body = EquivariantPotential(reference.elements, seed=settings.seed, **task.config)
    body.set_reference(shifts=reference.shifts, scale=reference.scale, mean_neighbours=reference.mean_neighbours)
    noise = {"layers": ("radial", "readout"), "inputs": "pair", "initial_dropout": 0.4, "centred": False}
    potential = make_variational(body, seed=settings.seed, **noise)
    # 0.1 L1(E) + L1(F) + 10 KL in kcal/mol and Å.
    kl_weight = 10.0 * KCAL_PER_MOL / float(reference.scale)
    objective = EvidenceLowerBound(
        AbsoluteErrors(), kl_weight=kl_weight, warm_up=0.0, noise="local", seed=settings.seed
    )
    options: dict[str, Any] = {"settings": settings, "start": potential, "objective": objective}
    return train_variational(task.train, task.valid, n_members=DRAWS, **options)


class AbsoluteErrors:
    """0.1 |dE| + |dF|, means over structures and components, over the force scale."""

    def __call__(self, potential: Any, graph: Any, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        found = evaluate(potential, graph, training=training)
        energy, forces = found.energies[0] - labels.energies, found.forces[0] - labels.forces
        loss = (0.1 * energy.abs().mean() + forces.abs().mean()) / potential.scale
        return Scored(loss, energy, forces)


def scored(task: Task, ensemble: Any, seconds: float, *, widths: bool = True) -> dict[str, Any]:
    """Score a model near and far, and time its step."""
    row: dict[str, Any] = {"seconds": seconds}
    model = MemberUncertainty(ensemble)
    if widths:
        factors = residuals(model, task.valid).factors()
        row["alpha"] = factors["forces"].alpha
        model = with_factors(model, factors)
    of_frames = {}
    for name, frames in (("near", task.near), ("far", task.far)):
        found = residuals(model, frames)
        energies, forces = found.energy_scores(), found.force_scores()
        row |= {f"{name}_energy_mae": 1e3 * energies.mae, f"{name}_forces_mae": 1e3 * forces.mae}
        if widths:
            row |= {f"{name}_nll": forces.nll, f"{name}_miscalibration": forces.miscalibration_area}
            row |= {f"{name}_spearman": forces.spearman, f"{name}_energy_spearman": energies.spearman}
            of_frames[name] = width(found)
    if widths:
        above = mannwhitneyu(of_frames["far"], of_frames["near"]).statistic
        row["auroc"] = float(above) / len(of_frames["far"]) / len(of_frames["near"])
        row["ms"] = step(model, task)
    return row


def width(found: Residuals) -> list[float]:
    """Root mean square of the predicted stds of the forces of every frame."""
    return [float(np.sqrt(each.forces_var.mean())) for each in found.predictions]


def step(model: MemberUncertainty, task: Task) -> float:
    """Milliseconds for energy, its variance and the mean force."""
    frames, times = [frame.atoms for frame in task.near], []
    for k in range(REPEATS):
        began = time.process_time()
        model.predict_combined(frames[k % len(frames)], forces_var=Off())
        times.append(1e3 * (time.process_time() - began))
    return float(np.median(times))


COLUMNS = {
    "energy_mae": "MAE E",
    "forces_mae": "MAE F",
    "nll": "NLL",
    "miscalibration": "miscal.",
    "spearman": "Spearman F",
    "energy_spearman": "Spearman E",
}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each method, near and far in one cell."""
    heads = ["method", *(f"{head}, near / far" for head in COLUMNS.values()), "AUROC", "train, s", "step, ms"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        cells = [
            " / ".join(mean_of([row.get(f"{where}_{key}") for row in own], key) for where in ("near", "far"))
            for key in COLUMNS
        ]
        cells += [mean_of([row.get(key) for row in own], key) for key in ("auroc", "seconds", "ms")]
        lines.append("| " + " | ".join([method, *cells]) + " |")
    return "\n".join(lines)


def mean_of(values: Sequence[float | None], key: str) -> str:
    """Mean and standard deviation over seeds, in the digits the quantity deserves."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = {"energy_mae": 2, "forces_mae": 1, "ms": 1, "seconds": 0}.get(key, 2)
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 and key not in ("seconds", "ms") else ""
    return f"{np.mean(known):.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
