"""What a step costs with uncertainty, in units of one deterministic model of the same size.

    python benchmarks/overhead_per_step.py [--quick] [--json FILE] [--systems mol27 ...] [--dtype float32]

The unit is energy and forces of one `EquivariantPotential`, plain and eager, neighbours included, with the same threads
and precision. Everything that is wrapped for inference takes its radial functions from tables; what that saves a single
model has a row of its own. All variants are evaluated in turn, round after round, on atoms that move a little every
time; the table shows medians over rounds of process CPU time. The heads of the shallow ensembles are random: what they
cost does not depend on what they have learned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from systems import SYSTEMS

from ase_uq import UncertaintyLogger, UQCalculator, WeightedBaseline
from ase_uq.dynamics.allocator import keep_freed_memory
from ase_uq.models.llpr import LLPRUncertainty
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import (
    DeepEnsemble,
    EquivariantPotential,
    ShallowEnsemble,
    VariationalEnsemble,
    evaluate,
    make_variational,
    sample_members,
)
from ase_uq.potentials.graph import Neighbours
from ase_uq.uncertainty.force_variance import Exact, ForceVariance, LowRank, Off, Stochastic

CUTOFF = 4.5
EVERY = 10
Step = Callable[[Atoms], Any]


class Harmonic(Calculator):
    """A baseline that costs nothing: springs to where the atoms started."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.origin = atoms.positions.copy()

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Fill energy, forces and a stress of zero."""
        super().calculate(atoms, properties, system_changes)
        moved = self.atoms.positions - self.origin
        self.results = {"energy": 0.5 * float((moved**2).sum()), "forces": -moved, "stress": np.zeros(6)}


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of the two small systems")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=["mol27", "metal64", "water192"])
    parser.add_argument("--members", nargs="+", type=int, default=[2, 4, 8, 16, 32])
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--compile", action="store_true", help="also the compiled model, a minute more for each system")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with TEXT in their names, beside the unit")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = parser.parse_args()
    if options.quick:
        options.systems, options.rounds, options.members, options.channels = ["mol27", "metal64"], 3, [2, 8], 8
    torch.set_num_threads(1)
    keep_freed_memory()  # page faults would make the unit vary by a factor of two from run to run
    rows = [row for name in options.systems for row in measure(name, options)]
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each variant of a system."""
    atoms = SYSTEMS[name]()
    steps = {key: step for key, step in variants(atoms, options).items() if key == "one model" or options.only in key}
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    rng = np.random.default_rng(0)
    for round_ in range(options.rounds + 2):
        atoms.positions += rng.normal(scale=0.003, size=atoms.positions.shape)
        for variant, step in steps.items():
            began = time.process_time()
            part = step(atoms)  # some measure a part of what they do
            spent = part if isinstance(part, float) else time.process_time() - began
            if round_ >= 2:  # the first two warm up, and give low_rank its directions
                seconds[variant].append(spent)
    unit = float(np.median(seconds["one model"]))
    print(f"{name}: {len(atoms)} atoms, one model {1e3 * unit:.1f} ms", file=sys.stderr, flush=True)
    return [
        {"system": name, "variant": variant, "ms": 1e3 * float(np.median(s)), "ratio": float(np.median(s)) / unit}
        for variant, s in seconds.items()
    ]


def variants(atoms: Atoms, options: argparse.Namespace) -> dict[str, Step]:
    """Return what is measured, by name; "one model" is the unit."""
    size = {"cutoff": CUTOFF, "channels": options.channels, "dtype": options.dtype}

    def body(seed: int = 0) -> EquivariantPotential:
        return EquivariantPotential(sorted(set(atoms.symbols)), seed=seed, **size).requires_grad_(False)

    def shallow(n_members: int) -> MemberUncertainty:
        return MemberUncertainty(ShallowEnsemble(body(), n_members))

    def predict(model: MemberUncertainty, forces_var: ForceVariance) -> Step:
        return lambda moved: model.predict_combined(moved, forces_var=forces_var)

    single, neighbours = body(), Neighbours(CUTOFF)
    rattled = [atoms.copy() for _ in range(30)]
    for seed, frame in enumerate(rattled):
        frame.rattle(0.05, seed=seed)
    llpr = LLPRUncertainty.fit(body(), rattled if len(atoms) < 100 else rattled[:3])
    tabulated = single.for_inference()
    blip = MemberUncertainty(sample_members(make_variational(body()), 8))
    steps: dict[str, Step] = {
        "one model": lambda moved: evaluate(single, neighbours.graph(moved)),
        "one model, radial functions from a table": lambda moved: evaluate(tabulated, neighbours.graph(moved)),
    }
    for n_members in options.members:
        steps[f"shallow {n_members}, energy variance"] = predict(shallow(n_members), Off())
    steps |= {
        "in a run: calculator, Prediction and log": in_a_run(shallow(8), atoms, "around"),
        "in a run: neighbours": in_a_run(shallow(8), atoms, "neighbours"),
        "in a run: ASE's integrator": integrator_step(atoms),
        "of shallow 8: forward pass": forward_step(shallow(8), atoms),
        "LLPR, energy variance": predict(llpr, Off()),
        "shallow 8, weighted baseline": baseline_step(shallow(8), atoms),
        "shallow 8, energy variance, Langevin step": langevin_step(shallow(8), atoms),
        "shallow 8, stochastic": predict(shallow(8), Stochastic()),
        "shallow 8, low rank 2": predict(shallow(8), FixedRank(2)),
        "shallow 8, low rank 3": predict(shallow(8), FixedRank(3)),
        "shallow 8, exact": predict(shallow(8), Exact()),
        f"shallow 8, exact every {EVERY} ({EVERY} steps)": every_step(shallow(8)),
        "BLIP 8, energy variance": predict(blip, Off()),
        "BLIP 8, stochastic": predict(blip, Stochastic()),
        "BLIP 8, exact": predict(blip, Exact()),
        "BLIP 16, logged run as shipped": logged_step(sample_members(make_variational(body()), 16), atoms),
    }
    for n_members in options.members:
        if n_members <= 8:
            deep = MemberUncertainty(DeepEnsemble([body(seed) for seed in range(n_members)]))
            steps[f"deep {n_members}, exact"] = predict(deep, Exact())
    if options.compile:
        fast = MemberUncertainty(ShallowEnsemble(body(), 8), compile="auto")
        steps["compiled shallow 8, energy variance"] = predict(fast, Off())
        steps["compiled shallow 8, weighted baseline"] = baseline_step(fast, atoms)
        steps["compiled shallow 8, energy variance, Langevin step"] = langevin_step(fast, atoms)
        steps["compiled shallow 8, exact"] = predict(fast, Exact())
        deep = MemberUncertainty(DeepEnsemble([body(seed) for seed in range(8)]), compile="auto")
        steps["compiled deep 8, exact"] = predict(deep, Exact())
    return steps


class FixedRank(LowRank):
    """Low rank with a given number of directions: the price without the question which rank is needed."""

    def __init__(self, rank: int) -> None:
        super().__init__(check_every=10**9)
        self._fixed = rank

    def learn(self, forces_members: np.ndarray[Any, Any]) -> None:
        """Keep the leading directions, whatever they miss."""
        deviations = (forces_members - forces_members.mean(axis=0)).reshape(len(forces_members), -1)
        self._kept = np.linalg.svd(deviations, full_matrices=False)[0][:, : self._fixed].T


def every_step(model: MemberUncertainty) -> Step:
    """Return as many steps as lie between two exact variances of forces."""
    calc = UQCalculator(model, every=EVERY)

    def steps(moved: Atoms) -> None:
        own = moved.copy()
        for _ in range(EVERY):
            own.positions[0, 0] += 1e-4
            calc.get_property("forces", own)

    return steps


def baseline_step(model: MemberUncertainty, atoms: Atoms) -> Step:
    """Return a step of the weighted baseline, forces included, through ASE."""
    calc = WeightedBaseline(UQCalculator(model, forces_var="off"), Harmonic(atoms), sigma_baseline=1.0)
    return lambda moved: calc.get_property("forces", moved)


def langevin_step(model: MemberUncertainty, atoms: Atoms) -> Step:
    """Return a whole step of ASE's Langevin dynamics on atoms of its own."""
    own = atoms.copy()
    own.calc = UQCalculator(model, forces_var="off")
    rng = np.random.RandomState(0)
    dynamics = Langevin(own, 0.5 * units.fs, temperature_K=300.0, friction=0.01, fixcm=False, rng=rng)
    return lambda _: dynamics.step()


def logged_step(ensemble: VariationalEnsemble, atoms: Atoms) -> Step:
    """Return a step of Langevin dynamics with both variances, logged, as `ase-uq md` runs it."""
    model, own = MemberUncertainty(ensemble), atoms.copy()
    own.calc = UQCalculator(model)
    rng = np.random.RandomState(0)
    dynamics = Langevin(own, 0.1 * units.fs, temperature_K=10.0, friction=0.01, fixcm=False, rng=rng)
    dynamics.max_steps = 10**9  # as in a long run: the log is written in blocks, not at what looks like the end
    log = UncertaintyLogger(Path(tempfile.mkdtemp()) / "run.h5", own, dyn=dynamics, temperature_K=10.0)

    def one(_: Atoms) -> None:
        dynamics.step()
        dynamics.nsteps += 1
        log()

    return one


class Free:
    """Forces for the asking: what remains of a step is ASE's integrator."""

    def __init__(self, atoms: Atoms) -> None:
        self.forces = np.zeros((len(atoms), 3))

    def get_forces(self, atoms: Atoms) -> np.ndarray[Any, Any]:  # noqa: ARG002
        """No forces."""
        return self.forces


def forward_step(model: MemberUncertainty, atoms: Atoms) -> Step:
    """Return the energies alone, ready to be differentiated, neighbours not included."""
    graph, potential = Neighbours(CUTOFF).graph(atoms), model._evaluator.potential
    moving = replace(graph, positions=graph.positions.requires_grad_(True))
    return lambda _: potential.energies(moving)


def integrator_step(atoms: Atoms) -> Step:
    """Return a step of ASE's Langevin dynamics that asks nobody for forces."""
    own = atoms.copy()
    own.calc = Free(atoms)
    rng = np.random.RandomState(0)
    dynamics = Langevin(own, 0.1 * units.fs, temperature_K=10.0, friction=0.01, fixcm=False, rng=rng)
    return lambda _: dynamics.step()


def in_a_run(model: MemberUncertainty, atoms: Atoms, part: str) -> Step:
    """Return a few steps of a run that is logged at every step; it tells the seconds that `part` of one took.

    "neighbours", or "around": what is neither the model nor ASE's integrator.
    """
    own = atoms.copy()
    watched = Watched(model)
    own.calc = UQCalculator(watched, forces_var="off")  # type: ignore[arg-type]
    rng = np.random.RandomState(0)
    dynamics = Langevin(own, 0.1 * units.fs, temperature_K=10.0, friction=0.01, fixcm=False, rng=rng)
    dynamics.max_steps = 10**9  # as in a long run: the log is written in blocks, not at what looks like the end
    log = UncertaintyLogger(Path(tempfile.mkdtemp()) / "run.h5", own, dyn=dynamics, temperature_K=10.0)
    alone = integrator_step(atoms)

    def one() -> float:
        began = time.process_time()
        alone(atoms)
        between = time.process_time()
        dynamics.step()
        dynamics.nsteps += 1
        log()
        around = time.process_time() - between - watched.seconds["model"] - (between - began)
        return around if part == "around" else watched.seconds["neighbours"]

    return lambda _: float(np.median([one() for _ in range(7)]))


class Watched:
    """A model, and the seconds its last evaluation took: in all, and for the neighbours."""

    def __init__(self, model: MemberUncertainty) -> None:
        self.seconds = {"model": 0.0, "neighbours": 0.0}
        self.predict = model.predict
        self.predict_combined = self._timed(model.predict_combined, "model")
        model._neighbours.graph = self._timed(model._neighbours.graph, "neighbours")  # type: ignore[method-assign]

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            result = function(*arguments, **options)
            self.seconds[name] = time.process_time() - began
            return result

        return timed


def table(rows: list[dict[str, Any]]) -> str:
    """Return the ratios as a Markdown table, one column a system."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    lines = ["| variant | " + " | ".join(systems) + " |", "| --- |" + " --- |" * len(systems)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        cells = [row for row in rows if row["variant"] == variant]
        in_ms = variant.startswith(("in a run", "of ")) or variant == "one model"
        shown = [f"{row['ms']:.2f} ms" if in_ms else f"{row['ratio']:.2f}" for row in cells]
        lines.append(f"| {variant} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
