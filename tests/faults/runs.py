"""A run of a small committee, whole or interrupted, for faults to be injected into."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from ase_uq import CommitteeUncertainty, UQCalculator, WeightedBaseline, read_log
from ase_uq.dynamics.driver import MDSettings, run_md
from ase_uq.observables import parse_observables

LJ = {"epsilon": 0.01, "sigma": 1.0}


class Spring(Calculator):
    """Weights in an attribute, as calculators of model files have them."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x = atoms.positions
        self.results = {"energy": 0.5 * self.k * (x**2).sum(), "forces": -self.k * x}


def committee(scale: float = 1.0, **options: Any) -> UQCalculator:
    members = [LennardJones(sigma=scale * s, epsilon=0.01) for s in (0.9, 1.0, 1.1)]
    return UQCalculator(CommitteeUncertainty(members), **options)


def springs(*stiffness: float) -> UQCalculator:
    return UQCalculator(CommitteeUncertainty([Spring(k) for k in stiffness]))


def blended(*, width: float = 0.5, epsilon: float = 0.01) -> WeightedBaseline:
    return WeightedBaseline(committee(), LennardJones(sigma=1.0, epsilon=epsilon), sigma_baseline=width)


def go(
    path: Path,
    steps: int,
    *,
    atoms: Atoms | None = None,
    calculator: Any = None,
    observables: Any = None,
    restart: bool = False,
    overwrite: bool = False,
    on_status: Callable[[Any], None] | None = None,
    traj: Path | None = None,
    store: Sequence[str] = (),
    **settings: Any,
) -> Any:
    """Run molecular dynamics of a water molecule; return the averages."""
    chosen = MDSettings(**{"temperature_K": 300.0, "timestep_fs": 0.2, "seed": 3, "steps": steps, **settings})
    atoms = molecule("H2O") if atoms is None else atoms
    found = parse_observables(["d=distance:0,1"], atoms) if observables is None else observables
    options: dict[str, Any] = {"restart": restart, "overwrite": overwrite, "on_status": on_status}
    options |= {"traj": traj, "store": store}
    return run_md(atoms, calculator or committee(), chosen, log=path, observables=found, **options)


def at_step(step: int, action: Callable[[], None]) -> Callable[[Any], None]:
    """Return a call-back that does something once, when a run has done so many steps, of which it is told sometimes."""
    done: list[int] = []

    def on_status(status: Any) -> None:
        if status.step >= step and not done:
            done.append(status.step)
            action()

    return on_status


def same(one: Path, other: Path) -> None:
    """Assert that two logs are equal to the last bit."""
    first, second = read_log(one), read_log(other)
    for name in ("step", "energy", "kinetic_energy", "energy_members_minus_energy"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    for name, values in first.observables.items():
        np.testing.assert_array_equal(values, second.observables[name], err_msg=name)


class Holder:
    """A process that does something with a log and then waits, until it is told to end."""

    def __init__(self, work: Callable[[], Any]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._kept = work()
                os.write(write, b"x")
                time.sleep(600)
            finally:
                os._exit(1)
        os.close(write)
        assert os.read(read, 1) == b"x", "the other process has failed"
        os.close(read)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()
