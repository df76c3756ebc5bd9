"""Memory that a step of a shallow ensemble takes, against its number of members.

    python benchmarks/memory_per_step.py [--quick] [--json FILE]

Each row is a process of its own: the largest resident size after some steps, minus that after everything was imported.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
from pathlib import Path

import torch
from systems import SYSTEMS

from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import EquivariantPotential, ShallowEnsemble, evaluate
from ase_uq.potentials.graph import Neighbours, build_graph
from ase_uq.uncertainty.force_variance import Exact, Off

CUTOFF, CHANNELS, STEPS = 4.5, 32, 5


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="the metal only, few members")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    options = parser.parse_args()
    systems, members = (["metal64"], [1, 8]) if options.quick else (["metal64", "water192", "water1536"], [1, 2, 8, 32])
    rows = [measure(system, n, exact=exact) for system in systems for exact in (False, True) for n in members]
    print("| system | force variance | " + " | ".join(f"M = {n}" for n in members) + " |")
    print("| --- | --- |" + " --- |" * len(members))
    for system in systems:
        for exact in (False, True):
            found = [row["megabytes"] for row in rows if (row["system"], row["exact"]) == (system, exact)]
            cells = " | ".join(f"{value:.0f} MB ({value / found[0]:.2f})" for value in found)
            print(f"| {system} | {'exact' if exact else 'off'} | {cells} |")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(system: str, n_members: int, *, exact: bool) -> dict[str, object]:
    """Return the megabytes that steps take in a fresh process; M = 1 is the body alone."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        megabytes = pool.apply(_megabytes, (system, n_members, exact))
    return {"system": system, "members": n_members, "exact": exact, "megabytes": megabytes}


def _megabytes(system: str, n_members: int, exact: bool) -> float:
    torch.set_num_threads(1)
    atoms = SYSTEMS[system]()
    body = EquivariantPotential(sorted(set(atoms.symbols)), cutoff=CUTOFF, channels=CHANNELS).requires_grad_(False)
    # What torch and the neighbour list set up once is no part of a step.
    evaluate(body, build_graph(atoms[:3], CUTOFF))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if n_members == 1:
        neighbours, body = Neighbours(CUTOFF), body.for_inference()
        for _ in range(STEPS):
            evaluate(body, neighbours.graph(atoms), stress=bool(atoms.pbc.any()))
    else:
        model = MemberUncertainty(ShallowEnsemble(body, n_members))
        for _ in range(STEPS):
            model.predict_combined(atoms, forces_var=Exact() if exact else Off())
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0


if __name__ == "__main__":
    sys.exit(main())
