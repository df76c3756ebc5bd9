"""A run of a million steps with log and running averages: memory, size of the log, and averages on the way and after.

    python benchmarks/long_run.py [--quick] [--steps N] [--json FILE] [--out DIR]

A molecule of two atoms in a bond that members see differently, under Langevin dynamics; it costs next to nothing, so
that what is measured is the dynamics of ASE, `UncertaintyLogger` and `OnlineReweighter`, all called at every step.

Memory is the resident size at a tenth, at half and at the end of the run, and its slope over the second half. The size
of the log is predicted from the types and shapes of its columns, before it is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin

from ase_uq import OnlineReweighter, UncertaintyLogger, UQCalculator, reweight_log
from ase_uq.dynamics.allocator import keep_freed_memory
from ase_uq.log.checksums import CHECKSUM
from ase_uq.log.reader import open_log
from ase_uq.uncertainty.prediction import STANDARD, Prediction

TEMPERATURE, FLUSH_EVERY = 300.0, 100
SHARES = (0.1, 0.5, 1.0)
SECTOR = 512  # bytes: a chunk begins a new one


class Bond:
    """M Morse bonds of slightly different length and depth between two atoms."""

    implemented_properties = (*STANDARD, "energy_var", "forces_var", "energy_members")

    def __init__(self, depths: Collection[float], lengths: Collection[float], width: float = 1.5) -> None:
        self.depth, self.length = np.array([*depths]), np.array([*lengths])
        self.width = width
        self.model_hash = f"bond {depths} {lengths} {width}"

    def predict(self, atoms: Atoms, properties: Collection[str] = ()) -> Prediction:  # noqa: ARG002
        """Energies and forces of all members."""
        apart = atoms.positions[1] - atoms.positions[0]
        r = float(np.sqrt(apart @ apart))
        x = np.exp(-self.width * (r - self.length))
        along = 2.0 * self.depth * self.width * (1.0 - x) * x
        pull = along[:, None] * (apart / r)
        return Prediction.from_members(energies=self.depth * (1.0 - x) ** 2, forces=np.stack([pull, -pull], axis=1))


def distance(atoms: Atoms) -> float:
    """Length of the bond, Å."""
    apart = atoms.positions[1] - atoms.positions[0]
    return float(np.sqrt(apart @ apart))


def main() -> int:
    """Run, measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="5,000 steps: checks the path, not the numbers")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the log there")
    options = parser.parse_args()
    steps = 5000 if options.quick else options.steps
    with tempfile.TemporaryDirectory() as folder:
        found = measure((options.out or Path(folder)) / "long.h5", steps)
    tell(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(path: Path, steps: int, *, with_log: bool = True, with_averages: bool = True) -> dict[str, Any]:
    """Run so many steps and return what they cost and left."""
    keep_freed_memory()
    atoms = Atoms("N2", positions=[[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]])
    atoms.calc = UQCalculator(Bond((4.8, 5.0, 5.1, 5.3), (1.095, 1.1, 1.1, 1.11)), forces_var="off")
    dyn = Langevin(
        atoms,
        1.0 * units.fs,
        temperature_K=TEMPERATURE,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(0),
    )
    observables = {"r": (distance, "Å")}
    online = OnlineReweighter(atoms, temperature_K=TEMPERATURE, observables=observables, dyn=dyn)
    log = UncertaintyLogger(
        path,
        atoms,
        dyn=dyn,
        temperature_K=TEMPERATURE,
        observables=observables,
        flush_every=FLUSH_EVERY,
        overwrite=True,
    )
    if with_averages:
        dyn.attach(online)
    if with_log:
        dyn.attach(log)
    sizes: list[tuple[int, float]] = []
    dyn.attach(lambda: sizes.append((dyn.nsteps, resident_kB())), interval=max(1, steps // 100))
    began = time.process_time()
    with log:
        dyn.run(steps)
    seconds = time.process_time() - began
    found: dict[str, Any] = {"steps": steps, "microseconds_per_step": 1e6 * seconds / steps, **memory(sizes, steps)}
    if with_log:
        found |= size_of(path)
    if with_log and with_averages:
        found["averages"] = averages(path, online)
    return found


def memory(sizes: list[tuple[int, float]], steps: int) -> dict[str, Any]:
    """Resident memory along the run, kB, and its slope over the second half, bytes a step."""
    step, size = np.array(sizes).T
    shares = {f"{share:.0%}": float(size[np.searchsorted(step, share * steps)]) for share in SHARES}
    second = step >= 0.5 * steps
    return {"resident_kB": shares, "bytes_per_step": float(1024 * np.polyfit(step[second], size[second], 1)[0])}


def resident_kB() -> float:  # noqa: N802
    """Resident memory of this process, kB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024


def size_of(path: Path) -> dict[str, float]:
    """Bytes a frame of the log, as it is and as its columns say.

    A chunk holds the rows of a flush and its checksum and begins a sector; the index of a dataset has an entry a chunk.
    """
    with open_log(path) as log:
        rows = {
            name: int(np.prod(d.shape[1:], dtype=np.int64)) * d[:1].dtype.itemsize for name, d in log.datasets.items()
        }
        n_frames = log.n_frames
    rows[CHECKSUM] = 4 * len(rows)
    index = 8 + 4 + 4  # where the chunk is, how long, and which filters it has passed
    chunk = sum(SECTOR * -(-(FLUSH_EVERY * row + 4) // SECTOR) + index for row in rows.values())
    return {
        "values_per_frame": float(sum(rows.values())),
        "predicted_per_frame": chunk / FLUSH_EVERY,
        "bytes_per_frame": path.stat().st_size / n_frames,
    }


def averages(path: Path, online: OnlineReweighter) -> dict[str, Any]:
    """The average of the observable on the way, and from the log."""
    on_the_way, after = online.results()["r"], reweight_log(path, ["r"])["r"]
    kept = ("mean", "std_sampling", "std_model", "ess", "n_frames")
    found = {
        name: {each: float(getattr(result, each)) for each in kept}
        for name, result in (("online", on_the_way), ("log", after))
    }
    apart = float(np.abs(np.asarray(on_the_way.member_means) - np.asarray(after.member_means)).max())
    return {
        **found,
        "members_apart": apart,
        "checks_apart": sorted(
            {g.name for g in on_the_way.gates if g.failed} ^ {g.name for g in after.gates if g.failed}
        ),
    }


def tell(found: dict[str, Any]) -> None:
    """Print the tables."""
    sizes = found["resident_kB"]
    print(f"{found['steps']} steps, {found['microseconds_per_step']:.0f} µs each")
    print("resident memory: " + ", ".join(f"{1e-3 * size:.1f} MB at {share}" for share, size in sizes.items()))
    print(f"growth over the second half: {found['bytes_per_step']:.2f} bytes a step")
    if "bytes_per_frame" in found:
        print(
            f"log: {found['bytes_per_frame']:.1f} bytes a frame, predicted {found['predicted_per_frame']:.1f} "
            f"({found['values_per_frame']:.0f} of values)"
        )
    if "averages" in found:
        print("| average of r | mean (Å) | sampling | model | effective frames |\n| --- | --- | --- | --- | --- |")
        for name in ("online", "log"):
            r = found["averages"][name]
            print(f"| {name} | {r['mean']:.9f} | {r['std_sampling']:.3g} | {r['std_model']:.3g} | {r['ess']:.0f} |")
        print(f"means under members differ by up to {found['averages']['members_apart']:.1e} Å")
        print(f"checks that only one of them fails: {', '.join(found['averages']['checks_apart']) or 'none'}")


if __name__ == "__main__":
    raise SystemExit(main())
