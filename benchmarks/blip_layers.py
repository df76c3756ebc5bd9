"""Where the noise of a variational (BLIP) potential goes, what its parts are worth, and cheaper ways to a variance.

    python benchmarks/blip_layers.py [--quick] [--bond | --moments] [--seeds N] [--json FILE]

On the ammonia frames of the package, 16 draws against a deep ensemble of five, all with the same settings and 150
epochs. Members learn frames near one minimum; "inversion" and "hot" are far from it. Force RMSE, square root of the
mean predicted variance (not calibrated), and the rank correlation of errors and predicted widths, means over seeds.
`--bond`: the standard deviation of the energy along one N-H bond, after 60 epochs. `--moments`: the standard deviation
of the energy from few draws and from the first order in the noise, against 2000 draws, and what each costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import read

from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import VariationalPotential, sample_members
from ase_uq.potentials.graph import build_graph, collate
from ase_uq.training import FitSettings, read_frames, train_members
from ase_uq.training.losses import SquaredErrors
from ase_uq.training.variational import KL_WEIGHT, EvidenceLowerBound, train_variational
from ase_uq.validation.residuals import residuals

CONFIG = {"cutoff": 4.0, "channels": 16, "n_layers": 1, "radial_width": 32}
SETS = ("valid", "test_inversion", "test_hot")
READOUT: dict[str, Any] = {"layers": ("readout",)}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "deep 5": None,
    "readout, as shipped": READOUT,
    "last layers": {"layers": ("last",)},
    "radial": {"layers": ("radial",)},
    "radial + readout": {"layers": ("radial", "readout")},
    "readout, noise not centred": READOUT | {"centred": False},
    "readout, rates from elements and distances": READOUT | {"inputs": "pair"},
    "readout, divergence at the frames alone": READOUT | {"around": False},
    "readout, noise fresh in every row": READOUT | {"local": True},
}
LENGTHS = (0.85, 1.0, 1.15, 1.3, 1.45, 1.6)
MANY = 2000


def main() -> int:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="five epochs, one seed; the numbers mean nothing")
    parser.add_argument("--bond", action="store_true", help="the energy along one bond instead")
    parser.add_argument("--moments", action="store_true", help="cheaper ways to a variance instead")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of the first table too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = files("ase_uq") / "data" / "ammonia"
    frames = {name: read_frames(data / f"{name}.xyz") for name in ("train", *SETS)}
    if options.bond or options.moments:
        (along_a_bond if options.bond else moments)(frames, epochs=2 if options.quick else 60)
        return 0
    epochs, seeds = (5, 1) if options.quick else (150, options.seeds)
    rows = [average([scored(frames, name, epochs, seed) for seed in range(seeds)]) for name in VARIANTS]
    print("| noise on | training s | " + " | ".join(SETS) + " |\n| --- | --- |" + " --- |" * len(SETS))
    for row in rows:
        cells = (f"{row[f'{n}_rmse']:.0f}, {row[f'{n}_std']:.0f}, {row[f'{n}_spearman']:.2f}" for n in SETS)
        print(f"| {row['noise']} | {row['seconds']:.0f} |", " | ".join(cells), "|")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def trained(frames: dict[str, Any], name: str, epochs: int, seed: int = 0) -> Any:
    """Train one of the variants."""
    settings = FitSettings(epochs=epochs, batch_size=10, learning_rate=0.02, seed=10 * seed)
    noise = VARIANTS[name]
    if noise is None:
        return train_members(frames["train"], frames["valid"], n_members=5, settings=settings, config=CONFIG)
    noise = dict(noise)
    around, local = noise.pop("around", True), noise.pop("local", False)
    objective = None
    if not around or local:
        kind = "local" if local else "shared"
        weights = SquaredErrors(settings.weights)
        objective = EvidenceLowerBound(weights, kl_weight=KL_WEIGHT, warm_up=0.2, noise=kind, seed=settings.seed)
    return train_variational(
        frames["train"],
        frames["valid"],
        n_members=16,
        settings=settings,
        config=CONFIG,
        noise=noise,
        objective=objective,
    )


def scored(frames: dict[str, Any], name: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train one model and score it on every set, meV/Å."""
    began = time.process_time()
    ensemble = trained(frames, name, epochs, seed)
    row: dict[str, Any] = {"noise": name, "seconds": time.process_time() - began}
    model = MemberUncertainty(ensemble)
    for each in SETS:
        found = residuals(model, frames[each])
        scores, variance = found.force_scores(), found.stacked("forces_var")
        row |= {f"{each}_rmse": 1e3 * scores.rmse, f"{each}_spearman": scores.spearman}
        row[f"{each}_std"] = 1e3 * float(np.sqrt(variance.mean()))
    print(name, seed, file=sys.stderr, flush=True)
    return row


def along_a_bond(frames: dict[str, Any], *, epochs: int) -> None:
    """Print the standard deviation of the energy, meV, for lengths within and beyond those of training."""
    seen = [frame.atoms.get_distance(0, k) for frame in frames["train"] for k in (1, 2, 3)]
    print(f"N-H bonds of the training frames: {min(seen):.2f} to {max(seen):.2f} Å")
    print("| noise on | " + " | ".join(f"{x:.2f} Å" for x in LENGTHS) + " |")
    print("| --- |" + " --- |" * len(LENGTHS))
    start = read(str(files("ase_uq") / "data" / "ammonia" / "start.xyz"))
    for name in VARIANTS:
        model, cells = MemberUncertainty(trained(frames, name, epochs)), []
        for length in LENGTHS:
            atoms = start.copy()
            atoms.set_distance(0, 1, length, fix=0)
            cells.append(f"{1e3 * (model.predict(atoms, ['energy']).energy_std or 0.0):.1f}")
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


def moments(frames: dict[str, Any], *, epochs: int) -> None:
    """Print how far standard deviations of the energy are from those of many draws, rms over frames, and times."""
    potential = trained(frames, "readout, as shipped", epochs).potential
    print("| way | " + " | ".join(SETS) + " | ms a frame |\n| --- |" + " --- |" * (len(SETS) + 1))
    graphs = {name: [build_graph(frame.atoms, 4.0) for frame in frames[name][:30]] for name in SETS}
    ways: dict[str, Any] = {f"{n} draws": sample_members(potential, n, seed=1) for n in (8, 16, 64)}
    ways["first order in the noise"] = None
    exact = {name: spread(sample_members(potential, MANY, seed=2), graphs[name]) for name in SETS}
    for way, ensemble in ways.items():
        cells, began = [], time.process_time()
        for name in SETS:
            found = linearised(potential, graphs[name]) if ensemble is None else spread(ensemble, graphs[name])
            cells.append(f"{100 * float(np.sqrt(np.mean((found / exact[name] - 1) ** 2))):.0f} %")
        spent = 1e3 * (time.process_time() - began) / sum(len(each) for each in graphs.values())
        print(f"| {way} |", " | ".join(cells), f"| {spent:.1f} |", flush=True)
    for name in SETS:
        every = collate(graphs[name])
        with torch.no_grad():
            drawn = sample_members(potential, MANY, seed=2)
            bias = -potential.energies(every)[0]
            with potential.frozen([getattr(drawn, f"draws_{k}")[1:] for k in range(len(potential.maps()))]):
                bias += potential.energies_from_one_body(every, MANY).mean(dim=0)
        shift = np.abs(bias.numpy()) / exact[name]
        print(f"{name}: mean over draws off the mean weights by {np.median(shift):.2f} std (median)")


def spread(ensemble: Any, graphs: list[Any]) -> np.ndarray:
    """Standard deviation of the energy over draws, frame by frame."""
    with torch.no_grad():
        return np.array([ensemble.energies(graph).std(dim=0).item() for graph in graphs])


def linearised(potential: VariationalPotential, graphs: list[Any]) -> np.ndarray:
    """Standard deviation of the energy to first order: the norm of its gradient by all random numbers, at zero."""
    found = []
    for graph in graphs:
        zeros = [torch.zeros(1, *each.draw_shape, requires_grad=True) for each in potential.maps()]
        with potential.frozen(zeros):
            gradients = torch.autograd.grad(potential.energies(graph).sum(), zeros)
        found.append(float(torch.sqrt(sum((each**2).sum() for each in gradients))))
    return np.array(found)


def average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of everything that is a result."""
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "noise"}
    return {"noise": rows[0]["noise"], **means}


if __name__ == "__main__":
    sys.exit(main())
