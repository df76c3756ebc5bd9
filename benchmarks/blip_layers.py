"""Where the noise of a variational (BLIP) potential goes, and how much: on the ammonia frames of the package.

    python benchmarks/blip_layers.py [--quick] [--json FILE]

Sixteen draws against a deep ensemble of five, all with the same settings and 150 epochs. Members learn frames near one
minimum; "inversion" and "hot" are far from it. Force RMSE, square root of the mean predicted variance, and the rank
correlation of errors and predicted widths, means over seeds.
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    options = parser.parse_args()
    data = files("ase_uq") / "data" / "ammonia"
    frames = {name: read_frames(data / f"{name}.xyz") for name in ("train", *SETS)}
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


def trained(frames: dict[str, Any], variant: tuple[Any, ...], epochs: int, seed: int) -> dict[str, Any]:
    """Train one model and score it on every set, meV/Å."""
    name, layers, kl_weight = variant
    settings = FitSettings(epochs=epochs, batch_size=10, learning_rate=0.02, seed=10 * seed)
    began = time.monotonic()
    common: dict[str, Any] = {"settings": settings, "config": CONFIG}
    if layers is None:
        ensemble: Any = train_members(frames["train"], frames["valid"], n_members=5, **common)
    else:
        common |= {"layers": layers, "kl_weight": kl_weight}
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
