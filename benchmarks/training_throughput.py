"""How many frames a second training gets through, in units of one deterministic model.

    python benchmarks/training_throughput.py [--quick] [--json FILE] [--peer-python ENVIRONMENT/bin/python]

A step is what `ase-uq train` does with five frames: forces, loss, gradients by all weights, Adam, weights averaged.
One thread, single precision; the variants take turns, the table shows medians of process CPU time. With the Python of
an environment that has mace-torch, a MACE model of the same size trains for half a minute, too (see `mace_peer.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import write
from systems import DEFAULT_ROOT
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ase_uq.potentials import EquivariantPotential
from ase_uq.structures.frames import Frame, read_frames
from ase_uq.training.batches import Batches
from ase_uq.training.losses import Objective, SquaredErrors
from ase_uq.training.reference import fit_reference
from ase_uq.training.settings import Weights

BATCH_SIZE = 5
PEER_MINUTES = 0.5
# Data set: training file, and the size of the model it is trained with elsewhere in these benchmarks.
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "3bpa": ("3bpa/train_300K.xyz.gz", {"channels": 32, "hidden_l_max": 1}),
    "ammonia": ("ammonia/all.xyz.gz", {"channels": 32}),
    "Cu": ("mlearn/Cu_train.xyz.gz", {"channels": 32}),
}


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of ammonia alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with mace-torch")
    options = parser.parse_args()
    names = ["ammonia"] if options.quick else list(SETS)
    rounds = 3 if options.quick else options.rounds
    torch.set_num_threads(1)
    rows = [row for name in names for row in measure(name, rounds)]
    if options.peer_python is not None:
        rows.append(peer(options.peer_python, next(row for row in rows if row["variant"] == "one model")))
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each way to train."""
    frames = training_frames(name)[: 3 * BATCH_SIZE]
    steps = {
        "one model": step(frames, name, SquaredErrors(Weights(10.0, 1.0, 1.0))),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    for round_ in range(rounds + 1):
        for variant, action in steps.items():
            began = time.process_time()
            action()
            if round_:
                seconds[variant].append(time.process_time() - began)
    unit = float(np.median(seconds["one model"]))
    return [
        {
            "dataset": name,
            "variant": variant,
            "frames_per_second": BATCH_SIZE / float(np.median(taken)),
            "ratio": float(np.median(taken)) / unit,
        }
        for variant, taken in seconds.items()
    ]


def training_frames(name: str) -> list[Frame]:
    """Return the frames of a data set."""
    return list(read_frames(Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT)) / SETS[name][0]))


def step(frames: list[Frame], name: str, objective: Objective) -> Callable[[], None]:
    """Return one step of training; every call takes the next batch."""
    reference = fit_reference(frames, cutoff=4.5)
    potential: Any = EquivariantPotential(reference.elements, cutoff=4.5, **SETS[name][1])
    potential.set_reference(shifts=reference.shifts, scale=reference.scale, mean_neighbours=reference.mean_neighbours)
    optimizer = torch.optim.Adam(potential.parameters(), lr=1e-4, amsgrad=True)
    averaged = AveragedModel(potential, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    data = Batches(frames, cutoff=4.5, batch_size=BATCH_SIZE)
    batches = (batch for epoch in itertools.count() for batch in data.shuffled(seed=0, epoch=epoch))

    def action() -> None:
        batch = next(batches)
        optimizer.zero_grad(set_to_none=True)
        objective(potential, batch.graph, batch.labels, training=True).loss.backward()
        torch.nn.utils.clip_grad_norm_(potential.parameters(), 10.0)
        optimizer.step()
        averaged.update_parameters(potential)

    return action


def peer(python: Path, unit: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a MACE model that trains on the frames of `unit`."""
    frames = training_frames(unit["dataset"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.xyz"
        labelled = []
        for frame in frames:
            atoms = frame.atoms.copy()
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = frame.energy, frame.forces
            labelled.append(atoms)
        write(path, labelled)
        script = [python, Path(__file__).with_name("mace_peer.py"), "train", path]
        options = ["--minutes", PEER_MINUTES, "--out", Path(folder) / "model"]
        done = subprocess.run(
            [str(part) for part in (*script, *options)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    found = json.loads(done.stdout.splitlines()[-1])
    speed = found["epochs"] * len(frames) / found["seconds"]
    ratio = unit["frames_per_second"] / speed
    return {"dataset": unit["dataset"], "variant": "MACE", "frames_per_second": speed, "ratio": ratio}


def table(rows: list[dict[str, Any]]) -> str:
    """Return frames a second, and the time of a step in units of one model, as a Markdown table."""
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    lines = ["| frames/s (time of a step) | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        found = {row["dataset"]: row for row in rows if row["variant"] == variant}
        cells = [
            f"{found[name]['frames_per_second']:.0f} ({found[name]['ratio']:.1f})" if name in found else "-"
            for name in names
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
