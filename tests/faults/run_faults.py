"""Faults of runs: two at once, what belongs to another run, what is taken away, interrupts and kills."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin

from ase_uq import InputError, read_log
from ase_uq.dynamics import driver, keeper
from ase_uq.dynamics.restart import read_restart, state_path
from ase_uq.errors import Interrupted, RunError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.owned import OwnedLog
from ase_uq.observables import parse_observables
from tests.faults.fault import Fault
from tests.faults.kills import KINDS, killed
from tests.faults.runs import Holder, Spring, at_step, blended, committee, go, same, springs


def told(work: Callable[[], Any]) -> str:
    """Return what the command line would print: one sentence and an exit code."""
    try:
        work()
    except InputError as error:
        return f"exit 2: {error}"
    except RunError as error:
        return f"exit 1: {error}"
    except Interrupted as stopped:
        return f"exit 130: {stopped}"
    return "exit 0"


def started(folder: Path, steps: int = 30, **options: Any) -> Path:
    go(folder / "run.h5", steps, **options)
    return folder / "run.h5"


# ---------------------------------------------------------------------------------------------------------------------
# Two writers
# ---------------------------------------------------------------------------------------------------------------------


def beside_another(**options: Any) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = started(folder)
        frames = read_log(path).n_frames
        with Holder(lambda: OwnedLog(path).take()):
            found = told(lambda: go(path, 60, **options))
            assert read_log(path).n_frames == frames
        # The other process is gone, and has left its lock.
        go(path, 60, restart=True)
        assert read_log(path).n_frames == 61
        return found

    return inject


def two_threads(folder: Path) -> str:
    path, found, barrier = folder / "run.h5", [], threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        found.append(told(lambda: go(path, 200)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    go(folder / "alone.h5", 200)
    same(path, folder / "alone.h5")
    return "; ".join(sorted(found))


def two_loggers(folder: Path) -> str:
    path, atoms = folder / "run.h5", molecule("H2O")
    atoms.calc = committee()
    dyn = Langevin(atoms, 0.2 * units.fs, temperature_K=300.0, friction=0.01, fixcm=False)
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300.0) as log:
        dyn.attach(log)
        dyn.run(5)
        found = told(lambda: UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300.0, overwrite=True))
        dyn.run(5)
    assert read_log(path).n_frames == 11
    return found


def written_meanwhile(folder: Path) -> str:
    path, atoms = folder / "run.h5", molecule("H2O")
    atoms.calc = committee()
    dyn = Langevin(atoms, 0.2 * units.fs, temperature_K=300.0, friction=0.01, fixcm=False)
    log = UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300.0)
    dyn.attach(log)
    started(folder)
    found = told(lambda: dyn.run(5))
    assert read_log(path).n_frames == 31
    return found


def by_a_link(folder: Path) -> str:
    path = started(folder)
    (folder / "link.h5").symlink_to(path)
    with Holder(lambda: OwnedLog(path).take()):
        return told(lambda: go(folder / "link.h5", 60, overwrite=True))


def with_lock(**changes: Any) -> Callable[[Path], str]:
    """A lock whose owner has other attributes than a process of this machine that is alive."""

    def inject(folder: Path) -> str:
        path = started(folder)
        lock = folder / "run.h5.lock"
        with OwnedLog(path):
            owner = json.loads(lock.read_text())
        lock.write_text(json.dumps({**owner, **changes}))
        found = told(lambda: go(path, 60, restart=True))
        if lock.exists():
            lock.unlink()
            go(path, 60, restart=True)
        assert read_log(path).n_frames == 61
        return found

    return inject


def unreadable_lock(folder: Path) -> str:
    path = started(folder)
    (folder / "run.h5.lock").write_bytes(b"\x00\xff")
    return told(lambda: go(path, 60, restart=True))


# ---------------------------------------------------------------------------------------------------------------------
# What is taken away
# ---------------------------------------------------------------------------------------------------------------------


def taken_away(how: Callable[[Path], None]) -> Callable[[Path], str]:
    """Something happens to the log of a run; its frames are there, and it goes on as if nothing had happened."""

    def inject(folder: Path) -> str:
        (folder / "in").mkdir()
        path = folder / "in" / "run.h5"
        found = told(lambda: go(path, 5000, on_status=at_step(1, lambda: how(path))))
        kept = path if "run.recovered.h5" not in found else folder / "in" / "run.recovered.h5"
        done = read_restart(state_path(kept)).step
        assert read_log(kept).step[-1] >= done > 0
        go(kept, done + 20, restart=True)
        go(folder / "whole.h5", done + 20)
        same(kept, folder / "whole.h5")
        return found

    return inject


def replace_by_another(path: Path) -> None:
    go(path.with_name("other.h5"), 5)
    path.with_name("other.h5").replace(path)


def without(*endings: str) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = started(folder)
        for ending in endings:
            path.with_name(path.name + ending).unlink()
        return told(lambda: go(path, 60, restart=True))

    return inject


def state_damaged(damage: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = started(folder)
        state = state_path(path)
        state.write_bytes(damage(state.read_bytes()))
        found = told(lambda: go(path, 60, restart=True))
        assert read_log(path).n_frames == 31
        return found

    return inject


def state_of_other_shape(folder: Path) -> str:
    path = started(folder)
    with np.load(state_path(path)) as old:
        kept = {**old, "momenta": np.zeros((2, 3))}
    with state_path(path).open("wb") as file:
        np.savez(file, **kept)
    return told(lambda: go(path, 60, restart=True))


# ---------------------------------------------------------------------------------------------------------------------
# What belongs to another run
# ---------------------------------------------------------------------------------------------------------------------


def state_of_another(folder: Path) -> str:
    path = started(folder)
    go(folder / "other.h5", 20)
    shutil.copy(state_path(folder / "other.h5"), state_path(path))
    found = told(lambda: go(path, 60, restart=True))
    assert read_log(path).n_frames == 31
    return found


def killed_at_its_start(folder: Path) -> str:
    """A run is over; a new one over it is killed between its first frame and its first state."""
    path = started(folder, 100, seed=1)

    def work() -> None:
        driver.Keeper.__call__ = lambda *unused: os._exit(0)  # type: ignore[method-assign,assignment]
        go(path, 100, overwrite=True)

    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert read_log(path).n_frames == 1
    assert read_restart(state_path(path)).step == 100
    found = told(lambda: go(path, 120, restart=True))
    go(folder / "whole.h5", 120)
    same(path, folder / "whole.h5")
    return found


def begun_over_an_old_one(folder: Path) -> str:
    """A run is over; a new one over it is interrupted after some steps, and its state put back by an older copy."""
    path = started(folder, 50, seed=1)
    shutil.copy(state_path(path), folder / "old")
    go(path, 40, overwrite=True)
    shutil.copy(folder / "old", state_path(path))
    return told(lambda: go(path, 120, restart=True))


def gone_on_with(before: dict[str, Any], now: dict[str, Any]) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = started(folder, **{name: make() for name, make in before.items()})
        frames = read_log(path).n_frames
        found = told(lambda: go(path, 60, restart=True, **{name: make() for name, make in now.items()}))
        assert read_log(path).n_frames == frames
        # The right ones go on.
        go(path, 60, restart=True, **{name: make() for name, make in before.items()})
        return found

    return inject


def water(*, mass: float | None = None, fixed: bool = False, charge: float = 0.0, periodic: bool = False) -> Any:
    atoms = molecule("H2O", vacuum=6.0)
    if mass is not None:
        atoms.set_masses([16.0, mass, mass])
    if fixed:
        atoms.set_constraint(FixAtoms([0]))
    if charge:
        atoms.set_initial_charges([charge, 0.0, 0.0])
    atoms.pbc = periodic
    return atoms


def closing_over(i: int) -> Any:
    return {"d": (lambda atoms: atoms.get_distance(0, i), "Å")}


WHICH = [1]


def reading_a_global(atoms: Any) -> float:
    return float(atoms.get_distance(0, WHICH[0]))


def set_global(i: int) -> Any:
    WHICH[0] = i
    return {"d": (reading_a_global, "Å")}


def of_text(text: str) -> Any:
    return parse_observables([text], molecule("H2O"))


def differs(name: str, before: dict[str, Any], now: dict[str, Any], expected: str) -> Fault:
    return Fault(f"restart with {name}", "run", gone_on_with(before, now), rf"exit 2: .*{expected}.* there, .* here\)")


SAME: dict[str, Any] = {}
OTHER = [
    differs("an observable of other atoms", SAME, {"observables": lambda: of_text("d=distance:0,2")}, "observables.d"),
    differs(
        "an observable that closes over another number",
        {"observables": lambda: closing_over(1)},
        {"observables": lambda: closing_over(2)},
        "observables.d",
    ),
    differs(
        "an observable that reads another global",
        {"observables": lambda: set_global(1)},
        {"observables": lambda: set_global(2)},
        "observables.d",
    ),
    differs(
        "other bins",
        {"observables": lambda: of_text("g=angles:H-O-H,1.3,90")},
        {"observables": lambda: of_text("g=angles:H-O-H,1.2,90")},
        "observables.g",
    ),
    differs("another friction", SAME, {"friction_per_ps": lambda: 5.0}, r"dynamics.friction_per_ps \(10.0"),
    differs("another temperature", SAME, {"temperature_K": lambda: 310.0}, "dynamics.temperature_K"),
    differs("another time step", SAME, {"timestep_fs": lambda: 0.3}, "timestep_fs"),
    differs("another ensemble", SAME, {"ensemble": lambda: "nve"}, "dynamics.class"),
    differs("other masses", {"atoms": lambda: water(mass=1.0)}, {"atoms": lambda: water(mass=2.0)}, "atoms.masses"),
    differs("a constraint", {"atoms": water}, {"atoms": lambda: water(fixed=True)}, "atoms.constraints"),
    differs("charges", {"atoms": water}, {"atoms": lambda: water(charge=1.0)}, "atoms.initial_charges"),
    differs("a periodic cell", {"atoms": water}, {"atoms": lambda: water(periodic=True)}, "atoms.pbc"),
    differs("another sigma of the members", SAME, {"calculator": lambda: committee(1.01)}, "model_hash"),
    differs(
        "members with other weights in an attribute",
        {"calculator": lambda: springs(5.0, 5.1)},
        {"calculator": lambda: springs(5.0, 5.2)},
        "model_hash",
    ),
    differs(
        "another baseline",
        {"calculator": blended},
        {"calculator": lambda: blended(epsilon=0.011)},
        "baseline.fingerprint",
    ),
    differs(
        "another width of the baseline", {"calculator": blended}, {"calculator": lambda: blended(width=0.6)}, "baseline"
    ),
    differs("other variances of forces", SAME, {"calculator": lambda: committee(every=3)}, r"forces_var.every \(1"),
]


def another_interval(folder: Path) -> str:
    path = started(folder)
    found = told(lambda: go(path, 60, restart=True, interval=5))
    assert read_log(path).n_frames == 31
    return found


def other_atoms(folder: Path) -> str:
    path = started(folder)
    return told(lambda: go(path, 60, restart=True, atoms=molecule("NH3")))


def pooled(folder: Path) -> str:
    paths = []
    for name, stiffness in (("a", (1.0, 1.1)), ("b", (1.2, 1.3))):
        paths.append(folder / f"{name}.h5")
        go(paths[-1], 60, calculator=springs(*stiffness))
    from ase_uq import reweight_log

    return told(lambda: reweight_log(paths, ["d"]))


def used_members(folder: Path) -> str:
    """Members that have been used give the hash of those that have not."""
    hashes = []
    for name in ("a", "b"):
        calculator = springs(5.0, 5.1)
        if name == "b":
            for member in calculator.model.calculators:
                assert isinstance(member, Spring)
                member.get_potential_energy(molecule("NH3"))
        go(folder / f"{name}.h5", 5, calculator=calculator)
        hashes.append(read_log(folder / f"{name}.h5").attributes["model_hash"])
    assert hashes[0] == hashes[1]
    return "the same hash"


# ---------------------------------------------------------------------------------------------------------------------
# Interrupts, kills, phases
# ---------------------------------------------------------------------------------------------------------------------


def exists_already(folder: Path) -> str:
    path = started(folder)
    return told(lambda: go(path, 60))


def exists_without_state(folder: Path) -> str:
    path = started(folder)
    state_path(path).unlink()
    return told(lambda: go(path, 60))


def interrupted(folder: Path) -> str:
    def stop() -> None:
        raise KeyboardInterrupt

    path = folder / "run.h5"
    found = told(lambda: go(path, 5000, on_status=at_step(1, stop)))
    done = read_restart(state_path(path)).step
    go(path, done + 20, restart=True)
    go(folder / "whole.h5", done + 20)
    same(path, folder / "whole.h5")
    return found


def phase_of_the_interval(folder: Path) -> str:
    path = started(folder, 37, interval=10)
    go(path, 60, interval=10, restart=True)
    steps = read_log(path).step.tolist()
    assert steps == list(range(0, 61, 10))
    return f"frames at {steps}"


def averages_after_a_restart(folder: Path) -> str:
    whole = go(folder / "whole.h5", 300)
    path = started(folder, 130)
    parts = go(path, 300, restart=True)
    assert parts["d"].n_frames == whole["d"].n_frames == 31
    assert parts["d"].mean == whole["d"].mean
    assert parts["d"].std_model == whole["d"].std_model
    return f"averages over {parts['d'].n_frames} frames, those of the uninterrupted run"


def state_full_disk(folder: Path) -> str:
    path = started(folder)
    write = keeper.RestartState.write
    try:

        def fail(*unused: Any) -> None:
            raise OSError(28, "No space left on device")

        keeper.RestartState.write = fail  # type: ignore[method-assign,assignment]
        found = told(lambda: go(path, 60, restart=True))
    finally:
        keeper.RestartState.write = write  # type: ignore[method-assign]
    go(path, 60, restart=True)
    go(folder / "whole.h5", 60)
    same(path, folder / "whole.h5")
    return found


def long_name(folder: Path) -> str:
    path = folder / f"{'x' * 230}.h5"
    go(path, 20)
    go(path, 40, restart=True)
    assert read_log(path).n_frames == 41
    return "runs and restarts"


def kill(kind: str) -> Fault:
    inject = functools.partial(_kill, kind)
    return Fault(f"two SIGKILLs at random moments, {kind}", "run", inject, "those of the uninterrupted run")


def _kill(kind: str, folder: Path) -> str:
    return killed(kind, folder, kills=2, steps=120, rng=np.random.default_rng(len(kind)))


UNDER_WAY = r"exit 2: the run that writes `.*` is under way in process \d+ on \S+, since"
BOTH_OR_NONE = "`restart` needs the log"
FAULTS = [
    Fault("a restart while another process writes the log", "run", beside_another(restart=True), UNDER_WAY),
    Fault("--overwrite while another process writes the log", "run", beside_another(overwrite=True), UNDER_WAY),
    Fault("a new run while another process writes the log", "run", beside_another(), UNDER_WAY),
    Fault("the same by a symbolic link", "run", by_a_link, UNDER_WAY),
    Fault("two threads start one run", "run", two_threads, f"exit 0; {UNDER_WAY}"),
    Fault("a second logger in one process", "run", two_loggers, UNDER_WAY),
    Fault("the log is written after its logger was made", "run", written_meanwhile, "exit 2: .* was written since"),
    Fault("a lock whose process number is used by another now", "run", with_lock(started="1"), "exit 0"),
    Fault("a lock of before the machine was started anew", "run", with_lock(boot="x"), "exit 0"),
    Fault("a lock of another host", "run", with_lock(host="node7"), r"exit 2: .*process \d+ on node7.*delete `"),
    Fault("a lock that cannot be read", "run", unreadable_lock, "exit 2: the lock .* delete it"),
    Fault("the log is deleted under the run", "run", taken_away(Path.unlink), "exit 1: .*deleted or moved.*frames are"),
    Fault(
        "the log is moved under the run",
        "run",
        taken_away(lambda path: path.rename(path.with_name("moved.h5")) and None),
        "exit 1: .*deleted or moved.*frames are in",
    ),
    Fault("the log is replaced", "run", taken_away(replace_by_another), "exit 1: .*replaced by another.*recovered.h5"),
    Fault(
        "the folder is deleted under the run",
        "run",
        taken_away(lambda path: shutil.rmtree(path.parent)),
        "exit 1: .*deleted or moved.*frames are in",
    ),
    Fault("the state is missing", "run", without(".restart"), f"exit 2: {BOTH_OR_NONE}.*is missing"),
    Fault("the log is missing", "run", without(""), f"exit 2: {BOTH_OR_NONE}.*there is none"),
    Fault("log and state are missing", "run", without("", ".restart"), "exit 2: .*start without restart=True"),
    Fault("the state is cut off", "run", state_damaged(lambda data: data[:50]), "exit 2: .*could not be read"),
    Fault("the state is empty", "run", state_damaged(lambda _: b""), "exit 2: .*could not be read"),
    Fault("the state is something else", "run", state_damaged(lambda _: b"text\n"), "exit 2: .*could not be read"),
    Fault("the state has other shapes", "run", state_of_other_shape, "exit 2: .*could not be read"),
    Fault("the state of another run", "run", state_of_another, "exit 2: .*belongs to another run"),
    Fault("a run over a finished one is killed at once, then --restart", "run", killed_at_its_start, "exit 0"),
    Fault("a run over a finished one, with the old state", "run", begun_over_an_old_one, "belongs to another run"),
    *OTHER,
    Fault("restart with another interval", "run", another_interval, "exit 2: `interval` must be that of the log"),
    Fault("restart with other atoms", "run", other_atoms, "exit 2: .*the elements differ"),
    Fault("averages over committees that differ in weights", "run", pooled, "exit 2: .*other model_hash|model_hash"),
    Fault("members that were used before", "run", used_members, "the same hash"),
    Fault("a new run where a log is", "run", exists_already, "exit 2: .*restart=True.*overwrite=True"),
    Fault(
        "a new run where a log without state is", "run", exists_without_state, "exit 2: .*replace it by overwrite=True"
    ),
    Fault("Ctrl-C", "run", interrupted, r"exit 130: interrupted after step \d+ of 5000; the log is .*restart=True"),
    Fault("a stop between two frames", "run", phase_of_the_interval, r"\[0, 10, 20, 30, 40, 50, 60\]"),
    Fault("averages after a restart", "run", averages_after_a_restart, "those of the uninterrupted run"),
    Fault("no room for the state", "run", state_full_disk, "exit 1: the state .* could not be written"),
    Fault("a name too long for companions", "run", long_name, "runs and restarts"),
    *(kill(kind) for kind in KINDS),
]
