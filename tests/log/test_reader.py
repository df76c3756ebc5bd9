"""The file of a run against crashes: killed writers, files cut at every byte, continued logs."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log
from tests.made.logged_runs import SERIES, UNITS, assert_same, distance, fresh, oscillator, record


def run_script(script, *arguments):
    # The environment of the parent and no other: its variables choose the code paths of BLAS and torch.
    here = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": here.rstrip(os.pathsep)},
        stderr=subprocess.DEVNULL,
    )


def test_a_forgotten_close_loses_nothing_at_exit(tmp_path):
    script = """
        import sys
        from tests.made.logged_runs import oscillator
        from ase_uq.log.logger import UncertaintyLogger
        atoms, dyn = oscillator()
        log = UncertaintyLogger(sys.argv[1], atoms, dyn=dyn, temperature_K=300)
        dyn.attach(log)
        for i, _ in enumerate(dyn.irun(1000)):
            if i == 41:
                raise RuntimeError("the user's script fails")
    """
    done = run_script(script, tmp_path / "run.h5")
    assert done.wait() == 1
    assert read_log(tmp_path / "run.h5").n_frames == 42


ENDLESS = """
    import sys
    import numpy as np
    from tests.made.logged_runs import oscillator, distance
    from ase_uq.log.logger import UncertaintyLogger
    path, progress, append = sys.argv[1], open(sys.argv[2], "a"), sys.argv[3] == "append"
    atoms, dyn = oscillator()
    log = UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300, observables={"d": distance}, flush_every=20)
    dyn.attach(log)
    def tell():
        log.flush()
        progress.write(f"{dyn.nsteps}\\n")
        progress.flush()
    dyn.attach(tell, interval=33)
    dyn.run(10**8)
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_run_keeps_every_flushed_frame(tmp_path, seed):
    path, progress = tmp_path / "run.h5", tmp_path / "progress"
    progress.touch()
    process = run_script(ENDLESS, path, progress, "new")
    try:
        while progress.stat().st_size == 0:
            assert process.poll() is None
            time.sleep(0.01)
        end = time.monotonic() + np.random.default_rng(seed).uniform(0.02, 0.5)
        lengths = [0]
        while time.monotonic() < end:
            lengths.append(read_log(path).n_frames)  # while the other process writes
        assert lengths == sorted(lengths)
    finally:
        process.kill()
        process.wait()
    promised = int(progress.read_text().rstrip("\n").rsplit("\n")[-1])
    run = read_log(path)
    assert run.n_frames >= promised + 1
    atoms, dyn = oscillator()
    record(tmp_path / "whole.h5", atoms, dyn, run.n_frames - 1, observables={"d": distance})
    assert_same(run, read_log(tmp_path / "whole.h5"))


@pytest.fixture(scope="module")
def flushed(tmp_path_factory):
    """A finished log, and after every flush the size of the file and the number of frames promised."""
    path = tmp_path_factory.mktemp("cut") / "run.h5"
    atoms, dyn = oscillator()
    log = UncertaintyLogger(
        path, atoms, dyn=dyn, temperature_K=300, observables={"d": distance}, store=("positions",), flush_every=13
    )
    promises = []

    def promise():
        log.flush()
        promises.append((path.stat().st_size, dyn.nsteps + 1))

    with log:
        dyn.attach(log)
        dyn.attach(promise, interval=9)
        dyn.run(900)
    return path, promises


def test_a_file_cut_at_any_byte_is_readable_up_to_the_last_flushed_frame(tmp_path, flushed):
    path, promises = flushed
    content, whole = path.read_bytes(), read_log(path)
    assert whole.n_frames == 901
    cut, refused, lengths = tmp_path / "cut.h5", 0, []
    positions = np.unique(
        np.concatenate(
            [
                np.linspace(0, len(content), 150).astype(int),
                np.random.default_rng(0).integers(0, len(content), 60),
                [size + d for size, _ in promises[::10] for d in (-1, 0, 1) if size + d <= len(content)],
            ]
        )
    )
    for size in positions:
        cut.write_bytes(content[:size])
        promised = max((frames for at, frames in promises if at <= size), default=0)
        if promised == 0:
            # The file before its first frame; it never existed under this name, but a disk may lose the rest.
            with pytest.raises(InputError, match=r"^`.*cut.h5` .* cut .*$"):
                read_log(cut)
            refused += 1
            continue
        run = read_log(cut)
        assert run.n_frames >= promised
        lengths.append(run.n_frames)
        for name in (*SERIES, "positions"):
            np.testing.assert_array_equal(getattr(run, name), getattr(whole, name)[: run.n_frames])
        np.testing.assert_array_equal(run.observables["d"], whole.observables["d"][: run.n_frames])
    assert refused > 0
    assert lengths == sorted(lengths)
    assert lengths[-1] == 901
    assert len(set(lengths)) > 20


def test_a_cut_file_can_be_continued(tmp_path, flushed):
    content = flushed[0].read_bytes()
    path = tmp_path / "run.h5"
    path.write_bytes(content[: int(0.6 * len(content))])
    reached = read_log(path).n_frames - 1
    assert 0 < reached < 900
    atoms, dyn = oscillator()
    dyn.run(reached)
    dyn = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    record(path, atoms, dyn, 900 - reached, observables={"d": distance}, store=("positions",), append=True)
    run, whole = read_log(path), read_log(flushed[0])
    assert_same(run, whole)
    np.testing.assert_array_equal(run.positions, whole.positions)


def test_a_killed_and_restarted_run_equals_an_uninterrupted_one(tmp_path):
    path, progress = tmp_path / "run.h5", tmp_path / "progress"
    progress.touch()
    process = run_script(ENDLESS, path, progress, "new")
    try:
        while progress.stat().st_size < 20:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    checkpoint = int(progress.read_text().split()[-2])  # a checkpoint older than the crash
    atoms, dyn = oscillator()
    dyn.run(checkpoint)
    record(path, atoms, fresh(atoms), 50, observables={"d": distance}, append=True, start_step=checkpoint)
    atoms, dyn = oscillator()
    record(tmp_path / "whole.h5", atoms, dyn, checkpoint + 50, observables={"d": distance})
    assert_same(read_log(path), read_log(tmp_path / "whole.h5"))


def test_files_that_are_no_log_are_refused_in_one_sentence(tmp_path):
    missing, text, foreign, newer, empty = (tmp_path / f"{name}.h5" for name in ("a", "b", "c", "d", "e"))
    text.write_text("step energy\n0 1.0\n")
    empty.touch()
    for path, attributes in ((foreign, {"format": "h5md"}), (newer, {"format": "ase_uq", "format_version": 99})):
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
    cases = {
        missing: "must be a log file, there is none",
        text: "must be an HDF5 log of ase_uq, it is no HDF5 file",
        foreign: "must be a log of ase_uq, its format is 'h5md'",
        newer: "has format version 99, this ase_uq reads up to 1; upgrade",
        empty: "ends before its first frame: it was cut off, or never written",
    }
    for path, sentence in cases.items():
        with pytest.raises(InputError, match=sentence) as caught:
            read_log(path)
        assert "\n" not in str(caught.value)
    atoms, dyn = oscillator()
    with pytest.raises(InputError, match="must be a log of ase_uq, its format is 'h5md'"):
        UncertaintyLogger(foreign, atoms, dyn=dyn, temperature_K=300, append=True)


def test_a_repacked_log_is_read(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 40, observables={"d": distance})
    for chunks in (None, True):
        with h5py.File(tmp_path / "run.h5") as old, h5py.File(tmp_path / "repacked.h5", "w") as new:
            new.attrs.update(old.attrs)
            for name in (*UNITS, "observables/d"):
                new.create_dataset(name, data=old[name][:], chunks=chunks, compression="gzip" if chunks else None)
                new[name].attrs.update(old[name].attrs)
        assert_same(read_log(tmp_path / "repacked.h5"), read_log(tmp_path / "run.h5"))
