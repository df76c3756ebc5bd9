"""What comes from outside of a run: shells that write over its files, forks, copies, odd states, killed starts."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ase.build import molecule

from ase_uq import UncertaintyLogger, read_log, reweight_log
from ase_uq.dynamics.keeper import Keeper
from ase_uq.dynamics.restart import read_restart, state_path
from ase_uq.log.owned import OwnedLog, _copy
from tests.faults.fault import Fault
from tests.faults.run_faults import started, told
from tests.faults.runs import at_step, committee, go, same

# ---------------------------------------------------------------------------------------------------------------------
# Somebody writes into the file of a running run
# ---------------------------------------------------------------------------------------------------------------------


def written_over(how: Callable[[Path], None]) -> Callable[[Path], str]:
    """The run stops, keeps what it can, touches nothing of the other program's, and can be gone on with."""

    def inject(folder: Path) -> str:
        path, made = folder / "run.h5", []

        def act() -> None:
            how(path)
            made.append(path.read_bytes())

        found = told(lambda: go(path, 5000, on_status=at_step(150, act)))
        assert path.read_bytes() == made[0], "the file of the other program was written to"
        kept = folder / "run.recovered.h5"
        done = read_restart(state_path(kept)).step
        go(kept, done + 20, restart=True)
        steps = read_log(kept).step
        assert steps[-1] == done + 20
        assert (np.diff(steps) > 0).all()
        go(folder / "whole.h5", done + 20)
        whole = read_log(folder / "whole.h5")
        np.testing.assert_array_equal(read_log(kept).energy, whole.energy[np.isin(whole.step, steps)])
        return found

    return inject


def empty(path: Path) -> None:
    os.truncate(path, 0)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def copy_another(path: Path) -> None:
    go(path.with_name("other.h5"), 60, overwrite=True)
    path.write_bytes(path.with_name("other.h5").read_bytes())


def copy_one_as_long(path: Path) -> None:
    """Of the same size, with the same layout: it differs in what it holds alone."""
    content = bytearray(path.read_bytes())
    at = content.find(b'"friction_per_ps"')
    content[at : at + 8] = b"FRICTION"
    path.write_bytes(content)


def fill_with_text(path: Path) -> None:
    path.write_bytes(b"some text\n" * (path.stat().st_size // 8))


# ---------------------------------------------------------------------------------------------------------------------
# Processes that were forked with the log open
# ---------------------------------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], Any]) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, told(work).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as stream:
        return stream.read()


def forked(folder: Path) -> str:
    atoms = molecule("H2O")
    atoms.calc = committee()
    atoms.get_forces()
    path = folder / "run.h5"
    log = UncertaintyLogger(path, atoms, temperature_K=300.0, timestep_fs=1.0)
    for _ in range(5):
        log()
    child = in_a_child(log.close)
    assert path.with_name("run.h5.lock").exists(), "the child has given the lock of its parent away"
    log()
    log.close()
    assert read_log(path).step.tolist() == list(range(6))
    return child


def forked_owner(folder: Path) -> str:
    with OwnedLog(folder / "run.h5") as own:
        in_a_child(own.release)
        return told(lambda: go(folder / "run.h5", 10))


def another_folder(folder: Path) -> str:
    """A calculator or an observable changes the working folder of the process for good; the log has a relative name."""
    (folder / "elsewhere").mkdir()
    with contextlib.chdir(folder):
        found = told(lambda: go(Path("run.h5"), 250, on_status=at_step(1, lambda: os.chdir("elsewhere"))))
    assert read_log(folder / "run.h5").step[-1] == read_restart(state_path(folder / "run.h5")).step == 250
    assert not list((folder / "elsewhere").iterdir())
    return found


def four_threads(folder: Path) -> str:
    atoms = molecule("H2O")
    atoms.calc = committee()
    atoms.get_forces()
    log = UncertaintyLogger(folder / "run.h5", atoms, temperature_K=300.0, timestep_fs=1.0, flush_every=3)
    with log, ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(lambda: [log() for _ in range(50)]) for _ in range(4)]:
            done.result()
    assert read_log(folder / "run.h5").step.tolist() == list(range(200))
    return "200 frames in order"


def no_room_for_a_copy(folder: Path) -> str:
    """The disk is full, and somebody deletes the log to make room: its place is free when the run ends."""
    (folder / "in").mkdir()
    path = folder / "in" / "run.h5"

    def act() -> None:
        path.unlink()
        path.touch()  # somebody else's by now

    refuse = mock.patch("ase_uq.log.owned._copy", _full)
    with mock.patch.object(tempfile, "tempdir", str(folder)), refuse:
        found = told(lambda: go(path, 5000, on_status=at_step(1, act)))
    kept = folder / "run.recovered.h5"
    done = read_restart(state_path(kept)).step
    assert read_log(kept).step[-1] >= done > 0
    return found


def _full(descriptor: int, size: int, path: Path) -> None:
    if path.parent.name == "in":
        raise OSError(errno.ENOSPC, "No space left on device")
    _copy(descriptor, size, path)


# ---------------------------------------------------------------------------------------------------------------------
# Killed when the log was ahead of its first state
# ---------------------------------------------------------------------------------------------------------------------


def killed_ahead_of_the_state(folder: Path) -> str:
    """The log is written every hundred frames, the state after five seconds: a killed run may have only its first."""
    path, kept = folder / "run.h5", Keeper.keep

    def once(self: Keeper) -> None:
        if self.step == 0:
            kept(self)
            self._kept_at = np.inf

    Keeper.keep = once  # type: ignore[method-assign]
    try:
        go(path, 250)
    finally:
        Keeper.keep = kept  # type: ignore[method-assign]
    state = read_restart(state_path(path)).step
    found = told(lambda: go(path, 300, restart=True))
    go(folder / "whole.h5", 300)
    same(path, folder / "whole.h5")
    return f"log at 250, state at {state}: {found}"


# ---------------------------------------------------------------------------------------------------------------------
# Logs and states that do not go together
# ---------------------------------------------------------------------------------------------------------------------


def state_of_a_later_log(folder: Path) -> str:
    path = started(folder, 5, interval=10)
    shutil.copy(path, folder / "early.h5")
    go(path, 48, interval=10, restart=True)
    shutil.copy(state_path(path), state_path(folder / "early.h5"))
    found = told(lambda: go(folder / "early.h5", 60, interval=10, restart=True))
    assert read_log(folder / "early.h5").step.tolist() == [0]
    return found


def state_with(**changes: Callable[[Any], Any]) -> Callable[[Path], str]:
    """A state whose entries are not what they should be."""

    def inject(folder: Path) -> str:
        path = started(folder)
        with np.load(state_path(path)) as old:
            kept = {**old, **{name: change(old[name]) for name, change in changes.items()}}
        with state_path(path).open("wb") as file:
            np.savez(file, **kept)
        found = told(lambda: go(path, 60, restart=True))
        assert read_log(path).n_frames == 31
        return found

    return inject


def generator(**changes: Any) -> Callable[[Any], str]:
    return lambda old: json.dumps({**json.loads(str(old)), **changes})


# ---------------------------------------------------------------------------------------------------------------------
# The same frames twice
# ---------------------------------------------------------------------------------------------------------------------


def averaged_with(twin: Callable[[Path, Path], object], *, long: bool = False) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path, other = started(folder, 60), folder / "other.h5"
        twin(path, other)
        if long:
            shutil.copy(state_path(path), state_path(other))
            go(path, 90, restart=True)
            go(other, 120, restart=True)
        return told(lambda: reweight_log([path, other], ["d"]))

    return inject


def same_seed(_: Path, other: Path) -> None:
    go(other, 60)


def read_twice(folder: Path) -> str:
    path = started(folder, 60)
    return told(lambda: reweight_log([read_log(path), read_log(path)], ["d"]))


def other_seed(folder: Path) -> str:
    path = started(folder, 60)
    go(folder / "other.h5", 60, seed=4)
    halves = [read_log(path).frames(part) for part in (slice(0, 31), slice(31, None))]
    assert reweight_log(halves, ["d"])["d"].n_frames == 61
    return told(lambda: reweight_log([path, folder / "other.h5"], ["d"]))


OVER = r"exit 1: .*run.h5 was overwritten by another program.*\d+ could be kept, they are in .*run.recovered.h5"
NO_STATE = "exit 2: the state file .* could not be read"
TWICE = "exit 2: `runs` must be different runs.*the same frames"
FORK = "exit 2: `log` must be written by the process that began it"
HELD = "frames that had left the memory and are no longer in the file"


def as_type(kind: type) -> Callable[[Any], Any]:
    return lambda old: old.astype(kind)


def copied(path: Path, other: Path) -> None:
    shutil.copy(path, other)


def linked(path: Path, other: Path) -> None:
    os.link(path, other)


FAULTS = [
    Fault("the log is emptied under the run", "run", written_over(empty), OVER, HELD),
    Fault("the log is cut to its half under the run", "run", written_over(halve), OVER, HELD),
    Fault("another log is copied over it in place", "run", written_over(copy_another), OVER, HELD),
    Fault("the same, of the same size", "run", written_over(copy_one_as_long), OVER, HELD),
    Fault("a text is written over it", "run", written_over(fill_with_text), OVER, HELD),
    Fault("a forked process closes the log", "run", forked, FORK),
    Fault("a forked process gives the lock back", "run", forked_owner, "exit 2: the run that writes .* is under way"),
    Fault("the working folder changes under the run", "run", another_folder, "exit 0"),
    Fault("four threads call one logger", "run", four_threads, "200 frames in order"),
    Fault("the log is replaced on a full disk", "run", no_room_for_a_copy, "exit 1: .*replaced.*run.recovered.h5"),
    Fault("killed when only its first state was there", "run", killed_ahead_of_the_state, "state at 0: exit 0"),
    Fault("a state of later than the log", "run", state_of_a_later_log, "exit 2: .*must not leave a gap.*0, got 48"),
    Fault("a state before the start", "run", state_with(step=lambda _: -5), NO_STATE),
    Fault("a state between steps", "run", state_with(step=lambda _: 30.7), NO_STATE),
    Fault("a state with a cell that is not finite", "run", state_with(cell=lambda old: old + np.inf), NO_STATE),
    Fault("a state with texts as positions", "run", state_with(positions=as_type(str)), NO_STATE),
    Fault("a state with whole numbers as positions", "run", state_with(positions=as_type(int)), NO_STATE),
    Fault("a state of another generator", "run", state_with(rng=generator(bit_generator="MT19937")), NO_STATE),
    Fault("a state without a generator", "run", state_with(rng=lambda _: "[]"), NO_STATE),
    Fault("a state with an odd calculator", "run", state_with(calculator=lambda _: "[1, 2]"), NO_STATE),
    Fault("a state with an odd definition", "run", state_with(definition=lambda _: "[1]"), NO_STATE),
    Fault("averages over a log and its copy", "run", averaged_with(copied), TWICE),
    Fault("averages over a log and a hard link to it", "run", averaged_with(linked), TWICE),
    Fault("averages over both parts of a copied run", "run", averaged_with(copied, long=True), TWICE),
    Fault("averages over two runs with one seed", "run", averaged_with(same_seed), TWICE),
    Fault("averages over a log that was read twice", "run", read_twice, TWICE),
    Fault("averages over two runs, or two parts of one", "run", other_seed, "exit 0"),
]
