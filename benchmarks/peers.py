"""Our shallow ensemble against a committee of MACE models: errors and time of a step, uncertainty included.

    python benchmarks/peers.py --peer-python ENVIRONMENT/bin/python --out DIR [--minutes 10] [--quick] [--json FILE]

MACE runs in an environment of its own (`pip install torch==2.13.0`, then `pip install mace-torch==0.3.16`), through
`mace_peer.py`. Every model is trained on the 500 frames of 3bpa for the same time of one thread: our ensemble of eight
as a whole, by the clock and with a tenth of the frames held out, and each of the eight MACE models for itself, in
process time and on all frames. A model that is already in DIR is not trained again. Steps of
ASE's Langevin dynamics are timed in turn, ours and theirs, on one thread and in single precision.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from ase import Atoms, units
from ase.io import read, write
from ase.md.langevin import Langevin
from systems import DEFAULT_ROOT, SYSTEMS

from ase_uq import UQCalculator, load
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, EquivariantPotential, ShallowEnsemble, evaluate
from ase_uq.potentials.graph import Neighbours
from ase_uq.uncertainty.force_variance import Exact, ForceVariance, Off

MEMBERS = 8
SIZE = {"cutoff": 4.5, "channels": 32, "hidden_l_max": 1}
TESTS = ("test_300K", "test_600K")
Step = Callable[[], float]


class Peer:
    """A committee of MACE models in a process of its own."""

    def __init__(self, python: Path, models: list[Path]) -> None:
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("mace_peer.py"), "serve", *models],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError("the peer has stopped; run its command by hand to see why")

    def stepper(self, atoms: Atoms, steps: int) -> Step:
        """Return what runs a few steps and tells the milliseconds each took."""
        cell = atoms.cell.tolist() if atoms.pbc.any() else None
        self.ask(atoms=[atoms.numbers.tolist(), atoms.positions.tolist(), cell])
        return lambda: float(self.ask(steps=steps)["ms"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def main() -> int:
    """Train, evaluate, time, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--peer-python", type=Path, required=True, help="Python of the environment with mace-torch")
    parser.add_argument("--out", type=Path, required=True, help="folder for models and the figure")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="seconds of training and few rounds: checks the path")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows too")
    options = parser.parse_args()
    if options.quick:
        options.minutes, options.rounds = 0.1, 2
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    theirs, ours = train(options)
    errors = force_errors(options, theirs, ours)
    rows = [row for name in ("mol27", "metal64", "water192") for row in times(name, options, theirs, ours)]
    print(table(rows, errors))
    draw(rows, errors, options.out / "peers.png")
    if options.json is not None:
        options.json.write_text(json.dumps({"times": rows, "errors": errors}, indent=2) + "\n", encoding="utf-8")
    return 0


def train(options: argparse.Namespace) -> tuple[list[Path], Path]:
    """Return the models, theirs and ours, on the same frames."""
    data = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_ROOT)) / "3bpa"
    for name in ("train_300K", *TESTS):
        write(options.out / f"{name}.xyz", read(data / f"{name}.xyz.gz", index=":"))
    frames_file = options.out / "train_300K.xyz"
    theirs = [options.out / f"mace_{seed}.model" for seed in range(MEMBERS)]
    for seed, path in enumerate(theirs):
        if not path.exists():
            minutes = ["--minutes", str(options.minutes)]
            peer(options, "train", frames_file, *minutes, "--seed", str(seed), "--out", path)
    ours = options.out / "shallow.pt"
    if not ours.exists():
        size = [str(part) for name, value in SIZE.items() for part in (f"--{name.replace('_', '-')}", value)]
        method = ["--method", "shallow", "--members", str(MEMBERS), "--minutes", str(options.minutes)]
        run("ase-uq", "train", frames_file, *method, *size, "--out", ours)
    return theirs, ours


def peer(options: argparse.Namespace, *arguments: object) -> None:
    """Run a command of `mace_peer.py`."""
    run(options.peer_python, Path(__file__).with_name("mace_peer.py"), *arguments)


def run(*command: object) -> None:
    """Print a command and run it on one thread."""
    print("$", *command, file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, env=environment)


def force_errors(options: argparse.Namespace, theirs: list[Path], ours: Path) -> list[dict[str, Any]]:
    """Return mean absolute and root-mean-square errors of force components, meV/Å."""
    found = []
    model = load(ours)
    for test in TESTS:
        frames = read(options.out / f"{test}.xyz", index=":")
        labels = np.concatenate([frame.arrays["REF_forces"] for frame in frames])
        forces = {"shallow 8": np.concatenate([model.predict(frame).forces for frame in frames])}
        for name, members in (("MACE 1", theirs[:1]), (f"MACE {MEMBERS}", theirs)):
            committee = Peer(options.peer_python, members)
            answer = committee.ask(predict=str(options.out / f"{test}.xyz"))
            forces[name] = np.concatenate([np.array(frame) for frame in answer["forces"]])
            committee.close()
        for name, predicted in forces.items():
            off = 1e3 * (predicted - labels)
            mae, rmse = float(np.abs(off).mean()), float(np.sqrt((off**2).mean()))
            found.append({"test": test, "model": name, "mae": mae, "rmse": rmse})
    return found


def times(name: str, options: argparse.Namespace, theirs: list[Path], ours: Path) -> list[dict[str, Any]]:
    """Return milliseconds of a Langevin step for every model; trained ones for the molecule they know."""
    atoms = SYSTEMS[name]()
    elements = sorted(set(atoms.symbols))
    bodies = [EquivariantPotential(elements, seed=seed, **SIZE) for seed in range(MEMBERS)]  # type: ignore[arg-type]
    if name != "mol27":
        theirs = [options.out / f"{name}_{seed}.model" for seed in range(MEMBERS)]
        for seed, path in enumerate(theirs):
            peer(options, "new", *elements, "--seed", str(seed), "--out", path)

    def shallow(**choices: Any) -> MemberUncertainty:
        if name == "mol27":
            return load(ours, **choices)
        return MemberUncertainty(ShallowEnsemble(bodies[0].requires_grad_(False), MEMBERS), **choices)

    committees = {f"MACE {count}": Peer(options.peer_python, theirs[:count]) for count in (1, MEMBERS)}
    n_steps = 3 if len(atoms) > 100 else 10
    steps: dict[str, Step] = {key: each.stepper(atoms, n_steps) for key, each in committees.items()}
    neighbours = Neighbours(4.5)
    plain = [body.requires_grad_(False) for body in bodies]
    steps |= {
        "our members in a plain loop, no dynamics": timed(
            lambda: [evaluate(body, neighbours.graph(atoms)) for body in plain]
        ),
        "deep 8": stepper(MemberUncertainty(DeepEnsemble(bodies)), Exact(), atoms, n_steps),
        "shallow 8": stepper(shallow(), Off(), atoms, n_steps),
        "shallow 8, force variance": stepper(shallow(), Exact(), atoms, n_steps),
        "shallow 8, compiled": stepper(shallow(compile="auto"), Off(), atoms, n_steps),
        "shallow 8, force variance, compiled": stepper(shallow(compile="auto"), Exact(), atoms, n_steps),
    }
    taken: dict[str, list[float]] = {key: [] for key in steps}
    for _ in range(options.rounds):
        for key, step in steps.items():
            taken[key].append(step())
    for each in committees.values():
        each.close()
    return [{"system": name, "variant": key, "ms": float(np.median(found))} for key, found in taken.items()]


def stepper(model: MemberUncertainty, forces_var: ForceVariance, atoms: Atoms, steps: int) -> Step:
    """Return what runs a few Langevin steps and tells the milliseconds each took."""
    own = atoms.copy()
    own.calc = UQCalculator(model, forces_var=forces_var)
    rng = np.random.RandomState(0)
    dynamics = Langevin(own, 0.2 * units.fs, temperature_K=30.0, friction=0.01, fixcm=False, rng=rng)
    dynamics.run(3)
    return timed(dynamics.step, steps)


def timed(action: Callable[[], Any], repeats: int = 1) -> Step:
    """Return what repeats an action and tells the milliseconds of process time each took."""

    def measure() -> float:
        began = time.process_time()
        for _ in range(repeats):
            action()
        return 1e3 * (time.process_time() - began) / repeats

    return measure


def table(rows: list[dict[str, Any]], errors: list[dict[str, Any]]) -> str:
    """Return times and errors as Markdown tables."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    ms = {(row["system"], row["variant"]): row["ms"] for row in rows}
    lines = ["| ms a step (MACE 8 is so many times slower) | " + " | ".join(systems) + " |"]
    lines.append("| --- |" + " --- |" * len(systems))
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = (f"{ms[s, variant]:.1f} ({ms[s, f'MACE {MEMBERS}'] / ms[s, variant]:.1f})" for s in systems)
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    lines += ["", "| forces, MAE, RMSE (meV/Å) | " + " | ".join(TESTS) + " |", "| --- | --- | --- |"]
    for model in dict.fromkeys(row["model"] for row in errors):
        of_model = [row for row in errors if row["model"] == model]
        lines.append(f"| {model} | " + " | ".join(f"{row['mae']:.1f}, {row['rmse']:.1f}" for row in of_model) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], errors: list[dict[str, Any]], path: Path) -> None:
    """Draw error against time, one panel for each test file; down and left is better."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(TESTS), figsize=(9.6, 4.2), layout="constrained", sharex=True)
    ms = {row["variant"]: row["ms"] for row in rows if row["system"] == "mol27"}
    for axis, test in zip(axes, TESTS, strict=True):
        mae = {row["model"]: row["mae"] for row in errors if row["test"] == test}
        for variant, time_ms in ms.items():
            kind = variant.split(",")[0]
            if kind not in mae:
                continue
            is_ours = kind.startswith("shallow")
            full = variant in (f"MACE {MEMBERS}",) or "force variance" in variant
            colour = "#0b6e99" if is_ours else "#c1541c"
            axis.plot(time_ms, mae[kind], "o", ms=9, color=colour, mfc=colour if full else "white", mew=1.8)
            compiled = "compiled" in variant
            label = "ours, compiled" if compiled else variant.replace("shallow 8", "ours").split(",")[0]
            place = {"xytext": (0, -12 if compiled else 12), "va": "top" if compiled else "bottom", "ha": "center"}
            axis.annotate(label, (time_ms, mae[kind]), textcoords="offset points", fontsize=8, **place)
        axis.set(xscale="log", xlabel="ms a step, 27 atoms", title=test.replace("test_", "3BPA, "))
        axis.set_ylim(0.0, 1.25 * max(mae.values()))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, which="major", color="0.92")
        axis.margins(x=0.15)
    axes[0].set_ylabel("force MAE (meV/Å)")
    meaning = "filled: variance of energy and forces at every step; open: of energy (ours), or none (MACE 1)"
    figure.suptitle(meaning, fontsize=9, color="0.35")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    sys.exit(main())
