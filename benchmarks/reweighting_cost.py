"""What averages with error bars cost: logs read once, and the observer next to a step of dynamics.

    python benchmarks/reweighting_cost.py [--quick] [--json FILE]

Logs are written here, a million frames of 32 members; every row is a process of its own: CPU time, and the largest
resident size minus that after everything was imported. The script of i-PI gets the same frames, fewer of them, as text
files, which is what it reads. The observer (g(r) of O-O in 100 bins at every tenth step of 192 atoms of water) is timed
in turn with steps of dynamics in one process; the model is untrained, which changes no time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from systems import water

import ase_uq.averages
from ase_uq import OnlineReweighter, UQCalculator
from ase_uq.dynamics.allocator import keep_freed_memory
from ase_uq.log.columns import KINDS, Column
from ase_uq.log.writer import FrameWriter
from ase_uq.observables import RadialDistribution

KELVIN, MEMBERS = 300.0, 32
KT = units.kB * KELVIN


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the frames, few steps, no compilation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    options = parser.parse_args()
    scale = 100 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        rows = log_rows(Path(folder), scale)
        rows.append(ipi_row(Path(folder), 50_000 // scale))
    print("| frames | observables | method | CPU s | memory MB |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        memory = "" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        about = (row["frames"], row["observables"], row["method"])
        print("|", " | ".join(map(str, (*about, f"{row['cpu_s']:.2f}", memory))), "|")
    shares = [observer_share(compiled=compiled, quick=options.quick) for compiled in (False, not options.quick)]
    print("\n| model of 192 atoms | step ms | observer ms | share of ten steps |\n| --- | --- | --- | --- |")
    for share in shares:
        print(f"| {share['model']} | {share['step_ms']:.1f} | {share['observer_ms']:.2f} | {share['share']:.2%} |")
    if options.json is not None:
        options.json.write_text(json.dumps({"logs": rows, "observer": shares}, indent=2) + "\n", encoding="utf-8")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Logs
# ---------------------------------------------------------------------------------------------------------------------


def log_rows(folder: Path, scale: int) -> list[dict[str, Any]]:
    """Time all methods on a log with one observable, and two of them on one with 200."""
    rows = []
    for n_observables, methods in ((1, ("cea", "direct", "gap")), (200, ("cea", "direct"))):
        n_frames = 1_000_000 // scale
        path = write_log(folder / f"{n_observables}.h5", n_frames, n_observables)
        for method in methods:
            cpu_s, megabytes = in_a_process(_reweight, path, n_observables, method)
            about = {"frames": n_frames, "observables": n_observables, "method": method}
            rows.append({**about, "cpu_s": cpu_s, "megabytes": megabytes})
        path.unlink()
    return rows


def write_log(path: Path, n_frames: int, n_observables: int) -> Path:
    """Write a log of independent frames whose members move by 0.3 kT."""
    scalars = ("step", "time_fs", "energy", "kinetic_energy", "temperature_K", "volume")
    names = [f"o{k}" for k in range(n_observables)]
    columns = [KINDS[name].column() for name in scalars]
    columns.append(KINDS["energy_members_minus_energy"].column((MEMBERS,)))
    columns += [Column(f"observables/{name}", "") for name in names]
    attributes = {"temperature_K": KELVIN, "n_members": MEMBERS, "alpha": 1.0, "timestep_fs": 1.0, "ensemble": "nvt"}
    writer = FrameWriter(path, columns, attributes, flush_every=256)
    writer.publish()
    rng = np.random.default_rng(0)
    for start in range(0, n_frames, 10_000):
        n = min(10_000, n_frames - start)
        members = 0.3 * KT * rng.normal(size=(n, MEMBERS))
        frame = {name: np.arange(start, start + n) for name in scalars}
        frame |= {f"observables/{name}": rng.normal(size=n) for name in names}
        frame["energy_members_minus_energy"] = members - members.mean(axis=1, keepdims=True)
        writer.extend(frame)
    writer.close()
    return path


def ipi_row(folder: Path, n_frames: int) -> dict[str, Any]:
    """Time i-PI's script on text files."""
    rng = np.random.default_rng(0)
    np.savetxt(folder / "members", KT * 0.3 * rng.normal(size=(n_frames, MEMBERS)))
    np.savetxt(folder / "observable", rng.normal(size=n_frames))
    script = next(f for f in distribution("ipi").files or () if f.name == "i-pi-committee-reweight").locate()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(script), str(folder / "members"), str(folder / "observable"), "--kt", str(KT)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"frames": n_frames, "observables": 1, "method": "i-PI, cumulant", "cpu_s": cpu_s, "megabytes": None}


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function gives in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _reweight(path: Path, n_observables: int, method: str) -> tuple[float, float]:
    # The largest size so far is that of the imports: forget it.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = _status("VmRSS"), time.process_time()
    names = [f"o{k}" for k in range(n_observables)]
    ase_uq.averages.of_run(path, names, method=method)
    return time.process_time() - began, _status("VmHWM") - before


def _status(name: str) -> float:
    """Return a size of this process from Linux, MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024.0


# ---------------------------------------------------------------------------------------------------------------------
# Observer
# ---------------------------------------------------------------------------------------------------------------------


def observer_share(*, compiled: bool, quick: bool) -> dict[str, Any]:
    """Time the observer and steps of dynamics in turn."""
    import torch

    from ase_uq.models.members import MemberUncertainty
    from ase_uq.potentials import EquivariantPotential, ShallowEnsemble

    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    atoms = water()
    body = EquivariantPotential(["H", "O"], cutoff=4.5, channels=32).to(torch.float32)
    model = MemberUncertainty(ShallowEnsemble(body, n_members=8), compile="auto" if compiled else "off")
    atoms.calc = UQCalculator(model, forces_var="off")
    # So small a step that an untrained model cannot blow the box up.
    dyn = Langevin(atoms, 0.001 * units.fs, temperature_K=1.0, friction=0.01, fixcm=False)
    rdf = RadialDistribution("O", "O", r_max=6.0, n_bins=100)
    online = OnlineReweighter(atoms, temperature_K=KELVIN, observables={"g": rdf})
    dyn.run(5)
    steps, calls = [], []
    for _ in range(10 if quick else 80):
        for _ in range(3):
            began = time.perf_counter()
            dyn.run(1)
            steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        online()
        calls.append(time.perf_counter() - began)
    # The mean of the calls: every 64th sums what the others left waiting.
    step, call = statistics.median(steps), statistics.fmean(calls)
    name = "shallow 8, compiled" if compiled else "shallow 8, eager"
    return {"model": name, "step_ms": 1e3 * step, "observer_ms": 1e3 * call, "share": call / (10 * step)}


if __name__ == "__main__":
    sys.exit(main())
