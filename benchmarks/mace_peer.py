"""The side of `peers.py` that runs in an environment with mace-torch (and without ase_uq).

    python benchmarks/mace_peer.py train FRAMES --minutes 10 --seed 0 --out MODEL
    python benchmarks/mace_peer.py new Cu --out MODEL
    python benchmarks/mace_peer.py serve MODEL ...

`train` takes MACE's own model, batches, loss and optimiser (Adam with AMSGrad, a learning rate of 0.01, weights
averaged over the last hundred steps) for a given time of one thread, along the cosine schedule that `ase-uq train`
follows; `new` makes a model that has learned nothing. `serve` answers one request a line, in JSON:

    {"predict": FRAMES}                             mean forces of the committee, and their variances
    {"atoms": [[Z...], [[x, y, z]...], cell]}       nothing; a Langevin run of these atoms is set up
    {"steps": n}                                    milliseconds each of n steps of it took
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
import mace  # noqa: E402, F401  # before e3nn, which does not import without it
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase import Atoms, units  # noqa: E402
from ase.data import atomic_numbers  # noqa: E402
from ase.io import read  # noqa: E402
from ase.md.langevin import Langevin  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import data, modules, tools  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402

LEARNING_RATE = 0.01
BATCH_SIZE = 5
FORCES_WEIGHT = 100.0


def main() -> int:
    """Train one model, or serve several."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    training = tasks.add_parser("train")
    training.add_argument("frames", type=Path)
    training.add_argument("--minutes", type=float, required=True)
    training.add_argument("--out", type=Path, required=True)
    making = tasks.add_parser("new")
    making.add_argument("elements", nargs="+")
    making.add_argument("--out", type=Path, required=True)
    for each in (training, making):
        each.add_argument("--channels", type=int, default=32)
        each.add_argument("--cutoff", type=float, default=4.5)
        each.add_argument("--seed", type=int, default=0)
    serving = tasks.add_parser("serve")
    serving.add_argument("models", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    if options.task == "train":
        train(options)
    elif options.task == "new":
        torch.manual_seed(options.seed)
        table = tools.AtomicNumberTable(sorted(atomic_numbers[symbol] for symbol in options.elements))
        # A small scale keeps the dynamics of a model that has learned nothing within bounds.
        torch.save(new_model(table, options, neighbours=20.0, scale=0.02), options.out)
    else:
        serve(options.models)
    return 0


def train(options: argparse.Namespace) -> None:
    """Train until the time is over; keep the averaged weights."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    frames = read(options.frames, index=":")
    # One composition: the mean energy is what atomic energies would be fitted to, and keeps float32 from rounding.
    shift = float(np.mean([frame.info["REF_energy"] for frame in frames]))
    table = tools.AtomicNumberTable(sorted({int(z) for frame in frames for z in frame.numbers}))
    batches = [
        data.AtomicData.from_config(
            data.Configuration(
                atomic_numbers=frame.numbers,
                positions=frame.positions,
                properties={"energy": frame.info["REF_energy"] - shift, "forces": frame.arrays["REF_forces"]},
                property_weights={"energy": 1.0, "forces": 1.0},
                cell=np.zeros((3, 3)),
                pbc=(False, False, False),
            ),
            z_table=table,
            cutoff=options.cutoff,
        )
        for frame in frames
    ]
    neighbours = float(np.mean([graph.edge_index.shape[1] / len(graph.positions) for graph in batches]))
    scale = float(np.sqrt(np.mean([np.mean(frame.arrays["REF_forces"] ** 2) for frame in frames])))
    model = new_model(table, options, neighbours, scale)
    averaged = copy.deepcopy(model)
    loss = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=FORCES_WEIGHT)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, amsgrad=True)
    began, steps = time.process_time(), 0
    while (progress := (time.process_time() - began) / (60.0 * options.minutes)) < 1.0:
        if steps % (len(batches) // BATCH_SIZE) == 0:
            order = rng.permutation(len(batches))
        first = steps * BATCH_SIZE % (len(batches) // BATCH_SIZE * BATCH_SIZE)
        batch = torch_geometric.Batch.from_data_list([batches[k] for k in order[first : first + BATCH_SIZE]])
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1.0 + np.cos(np.pi * progress))
        optimizer.zero_grad()
        value = loss(pred=model(batch.to_dict(), training=True), ref=batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        steps += 1
        with torch.no_grad():
            decay = min(0.99, (1 + steps) / (10 + steps))
            for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1.0 - decay)
        if steps % 50 == 0:
            print(f"step {steps}, {progress:.2f} of the time, loss {value.item():.4f}", file=sys.stderr, flush=True)
    print(json.dumps({"epochs": steps * BATCH_SIZE / len(batches), "seconds": time.process_time() - began}))
    torch.save(averaged, options.out)


def new_model(table: Any, options: argparse.Namespace, neighbours: float, scale: float) -> torch.nn.Module:
    """Return a MACE of two layers with vectors among the features, products of three factors."""
    model: torch.nn.Module = modules.ScaleShiftMACE(
        r_max=options.cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps(f"{options.channels}x0e + {options.channels}x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(table)),
        avg_num_neighbors=neighbours,
        atomic_numbers=table.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=scale,
        atomic_inter_shift=0.0,
    )
    return model


def serve(models: list[Path]) -> None:
    """Answer requests until the input ends."""
    calc = MACECalculator(model_paths=[str(path) for path in models], device="cpu", default_dtype="float32")
    dynamics = None
    for line in sys.stdin:
        request = json.loads(line)
        if "predict" in request:
            print(json.dumps(predict(calc, read(request["predict"], index=":"))), flush=True)
        elif "atoms" in request:
            numbers, positions, cell = request["atoms"]
            atoms = Atoms(numbers, positions=positions, cell=cell, pbc=cell is not None)
            atoms.calc = calc
            rng = np.random.RandomState(0)
            dynamics = Langevin(atoms, 0.2 * units.fs, temperature_K=30.0, friction=0.01, fixcm=False, rng=rng)
            dynamics.run(3)
            print("{}", flush=True)
        else:
            assert dynamics is not None
            began = time.process_time()
            for _ in range(request["steps"]):
                dynamics.step()
            print(json.dumps({"ms": 1e3 * (time.process_time() - began) / request["steps"]}), flush=True)


def predict(calc: Any, frames: list[Atoms]) -> dict[str, Any]:
    """Return forces of the committee's mean and their variance over members, frame by frame."""
    forces, variances = [], []
    for frame in frames:
        atoms = Atoms(frame.numbers, positions=frame.positions)
        atoms.calc = calc
        forces.append(atoms.get_forces().tolist())
        members = calc.results.get("forces_comm")
        variances.append(None if members is None else members.var(axis=0, ddof=1).tolist())
    return {"forces": forces, "variances": variances}


if __name__ == "__main__":
    sys.exit(main())
