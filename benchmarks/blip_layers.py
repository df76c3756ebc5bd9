"""Where the noise of a variational (BLIP) potential goes, and how much: on the ammonia frames of the package.

    python benchmarks/blip_layers.py [--quick] [--bond] [--json FILE]

Sixteen draws against a deep ensemble of five, all with the same settings and 150 epochs. Members learn frames near one
minimum; "inversion" and "hot" are far from it. Force RMSE, square root of the mean predicted variance, and the rank
correlation of errors and predicted widths, means over seeds. With `--bond` instead: the standard deviation of the
energy along one N-H bond, after 60 epochs.
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
from ase.io import read

from ase_uq.evaluation import residuals
from ase_uq.members import MemberUncertainty
from ase_uq.training import FitSettings, read_frames, train_members
from ase_uq.training.variational import train_variational

CONFIG = {"cutoff": 4.0, "channels": 16, "n_layers": 1, "radial_width": 32}
SETS = ("valid", "test_inversion", "test_hot")
LAYERS = (("readout",), ("radial",), ("radial", "readout"))
KL_WEIGHTS = (3e-3, 1e-3, 3e-4)


def main() -> int:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="five epochs, one seed; the numbers mean nothing")
    parser.add_argument("--bond", action="store_true", help="the energy along one bond instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    options = parser.parse_args()
    data = files("ase_uq") / "data" / "ammonia"
    frames = {name: read_frames(data / f"{name}.xyz") for name in ("train", *SETS)}
    if options.bond:
        along_a_bond(frames, epochs=2 if options.quick else 60)
        return 0
    epochs, seeds = (5, 1) if options.quick else (150, 2)
    variants = [("deep 5", None, None), *((" + ".join(names), names, w) for names in LAYERS for w in KL_WEIGHTS)]
    rows = [average([trained(frames, variant, epochs, seed) for seed in range(seeds)]) for variant in variants]
    print(
        "| noise on | KL weight | training s | " + " | ".join(SETS) + " |\n| --- | --- | --- |" + " --- |" * len(SETS)
    )
    for row in rows:
        cells = (f"{row[f'{n}_rmse']:.0f}, {row[f'{n}_std']:.0f}, {row[f'{n}_spearman']:.2f}" for n in SETS)
        print(f"| {row['noise']} | {row['kl_weight'] or ''} | {row['seconds']:.0f} |", " | ".join(cells), "|")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def along_a_bond(frames: dict[str, Any], *, epochs: int) -> None:
    """Print the standard deviation of the energy, meV, for lengths within and beyond those of training."""
    seen = [frame.atoms.get_distance(0, k) for frame in frames["train"] for k in (1, 2, 3)]
    print(f"N-H bonds of the training frames: {min(seen):.2f} to {max(seen):.2f} Å")
    lengths = (0.85, 1.0, 1.15, 1.3, 1.45, 1.6)
    print("| noise on | KL weight | " + " | ".join(f"{x:.2f} Å" for x in lengths) + " |")
    print("| --- | --- |" + " --- |" * len(lengths))
    start = read(str(files("ase_uq") / "data" / "ammonia" / "start.xyz"))
    common: dict[str, Any] = {
        "settings": FitSettings(epochs=epochs, batch_size=10, learning_rate=0.02),
        "config": CONFIG,
    }
    for layers, kl_weight in ((None, None), *((names, w) for names in LAYERS for w in (1e-2, 1e-3))):
        if layers is None:
            ensemble: Any = train_members(frames["train"], frames["valid"], n_members=4, **common)
        else:
            options = {"noise": {"layers": layers}, "kl_weight": kl_weight, "n_members": 16}
            ensemble = train_variational(frames["train"], frames["valid"], **options, **common)
        model, cells = MemberUncertainty(ensemble), []
        for length in lengths:
            atoms = start.copy()
            atoms.set_distance(0, 1, length, fix=0)
            cells.append(f"{1e3 * (model.predict(atoms, ['energy']).energy_std or 0.0):.1f}")
        print(f"| {' + '.join(layers or ('deep 4',))} | {kl_weight or ''} |", " | ".join(cells), "|", flush=True)


def trained(frames: dict[str, Any], variant: tuple[Any, ...], epochs: int, seed: int) -> dict[str, Any]:
    """Train one model and score it on every set, meV/Å."""
    name, layers, kl_weight = variant
    settings = FitSettings(epochs=epochs, batch_size=10, learning_rate=0.02, seed=10 * seed)
    began = time.monotonic()
    common: dict[str, Any] = {"settings": settings, "config": CONFIG}
    if layers is None:
        ensemble: Any = train_members(frames["train"], frames["valid"], n_members=5, **common)
    else:
        common |= {"noise": {"layers": layers}, "kl_weight": kl_weight}
        ensemble = train_variational(frames["train"], frames["valid"], n_members=16, **common)
    row: dict[str, Any] = {"noise": name, "kl_weight": kl_weight, "seconds": time.monotonic() - began}
    model = MemberUncertainty(ensemble)
    for each in SETS:
        found = residuals(model, frames[each])
        scores, variance = found.force_scores(), found.stacked("forces_var")
        row |= {f"{each}_rmse": 1e3 * scores.rmse, f"{each}_spearman": scores.spearman}
        row[f"{each}_std"] = 1e3 * float(np.sqrt(variance.mean()))
    print(name, kl_weight, file=sys.stderr, flush=True)
    return row


def average(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of everything that is a result."""
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key not in ("noise", "kl_weight")}
    return {"noise": rows[0]["noise"], "kl_weight": rows[0]["kl_weight"], **means}


if __name__ == "__main__":
    sys.exit(main())
