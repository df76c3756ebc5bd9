"""Faults of the log: damage, files made by others, interrupts, disks that are full, odd names."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np

from ase_uq.errors import InputError, RunError
from ase_uq.log import checksums, logger, overlaid, staged, writer
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import RunLog, read_log
from tests.faults.fault import Fault
from tests.made.logged_runs import SERIES, distance, fresh, oscillator, record

EARLIER = Path(__file__).parents[1] / "earlier" / "run.h5"
N_FRAMES = 301


def whole_log(folder: Path) -> Path:
    path = folder / "whole.h5"
    atoms, dyn = oscillator()
    record(path, atoms, dyn, N_FRAMES - 1, observables={"d": (distance, "Å")}, store=("positions",))
    return path


def silently_wrong(found: RunLog, whole: RunLog) -> str:
    """Name of what differs from the undamaged log without a word; empty where all is right or told."""
    if found.damage:
        return ""
    if found.n_frames != whole.n_frames:
        return "number of frames"
    pairs = {name: (getattr(found, name), getattr(whole, name)) for name in (*SERIES, "positions")}
    pairs["d"] = found.observables["d"], whole.observables["d"]
    differ = [name for name, (a, b) in pairs.items() if not np.array_equal(a, b, equal_nan=True)]
    if repr(found.attributes) != repr(whole.attributes) or found.units != whole.units:
        differ.append("attributes")
    return ", ".join(differ)


def damaged_at_random(folder: Path, n: int, damage: Callable[[bytearray, np.random.Generator], None]) -> str:
    path = whole_log(folder)
    whole, content, rng = read_log(path), path.read_bytes(), np.random.default_rng(0)
    told, sentences = 0, []
    for _ in range(n):
        changed = bytearray(content)
        damage(changed, rng)
        path.write_bytes(changed)
        try:
            found = read_log(path)
        except InputError as error:
            sentences.append(str(error))
            continue
        assert not silently_wrong(found, whole), silently_wrong(found, whole)
        told += bool(found.damage)
    assert not any("\n" in each or "delete" in each for each in sentences)
    return f"{n} times: {told} told and the rest read, {len(sentences)} refused, the others without effect, none silent"


def flip(content: bytearray, rng: np.random.Generator) -> None:
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))


def flip_in_head(content: bytearray, rng: np.random.Generator) -> None:
    content[rng.integers(12_000)] ^= 1 << int(rng.integers(8))


def zero_block(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(content) // 4096)) * 4096
    content[start : start + 4096] = bytes(4096)


def stale_sector(content: bytearray, rng: np.random.Generator) -> None:
    here, there = (int(each) * 512 for each in rng.integers(0, len(content) // 512, 2))
    content[here : here + 512] = content[there : there + 512]


def cut_anywhere(folder: Path) -> str:
    path = whole_log(folder)
    content, whole = path.read_bytes(), read_log(path)
    for size in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:size])
        try:
            found = read_log(path)
        except InputError:
            continue
        np.testing.assert_array_equal(found.energy, whole.energy[: found.n_frames])
        assert found.damage
    return "what is in the file is read, and the frames that are missing are named"


def changed(folder: Path, change: Callable[[h5py.File], None], source: Path | None = None) -> str:
    """Change a log with h5py and read it."""
    path = folder / "changed.h5"
    path.write_bytes((source or whole_log(folder)).read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return read(path)


def read(path: Path) -> str:
    try:
        found = read_log(path)
    except InputError as error:
        return f"refused: {error}"
    return f"{found.n_frames} frames; {'; '.join(found.damage) or 'nothing told'}"


def replaced(name: str, **options: object) -> Callable[[Path], str]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **options).attrs["unit"] = "eV"

    return lambda folder: changed(folder, change)


def attribute(name: str, value: object) -> Callable[[Path], str]:
    return lambda folder: changed(folder, lambda file: file.attrs.__setitem__(name, value))


def of_observable(name: str, value: object) -> Callable[[Path], str]:
    return lambda folder: changed(folder, lambda file: file["observables/d"].attrs.__setitem__(name, value))


def shorter(folder: Path) -> str:
    """The header of a dataset of an earlier moment than that of the steps, as after a power cut."""
    return changed(folder, lambda file: file["energy"].resize(40, axis=0))


def linked(link: Callable[[Path], object]) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        def change(file: h5py.File) -> None:
            del file["energy"]
            file["energy"] = link(folder)

        return changed(folder, change)

    return inject


def external_storage(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return replaced("energy", shape=(N_FRAMES,), dtype="f8", external=[(str(folder / "pipe"), 0, 8 * N_FRAMES)])(folder)


def virtual_dataset(folder: Path) -> str:
    def change(file: h5py.File) -> None:
        del file["energy"]
        layout = h5py.VirtualLayout((N_FRAMES,), "f8")
        layout[:] = h5py.VirtualSource(folder / "other.h5", "x", (N_FRAMES,))
        file.create_virtual_dataset("energy", layout)

    return changed(folder, change)


def zip_bomb(folder: Path) -> str:
    n, n_chunks = 4 * 10**7, 20

    def change(file: h5py.File) -> None:
        for name, kind in (("step", "i8"), ("energy", "f8"), ("time_fs", "f8")):
            del file[name]
            new = file.create_dataset(name, (n,), kind, chunks=(n // n_chunks,), compression=1)
            for start in range(0, n, n // n_chunks):
                new[start] = 1

    return changed(folder, change)


def infinite_energy(folder: Path) -> str:
    return changed(folder, lambda file: file["energy"].__setitem__(7, np.inf), EARLIER)


def steps_back(folder: Path) -> str:
    return changed(folder, lambda file: file["step"].__setitem__(slice(10, 12), [0, 5]), EARLIER)


def special_file(make: Callable[[Path], Path]) -> Callable[[Path], str]:
    return lambda folder: read(make(folder))


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "run.h5")
    return folder / "run.h5"


def random_bytes(folder: Path) -> str:
    rng, path, answers = np.random.default_rng(0), folder / "run.h5", set()
    for n in (0, 1, 9, 48, 100, 10_000):
        path.write_bytes(b"\x89HDF\r\n\x1a\n\x03"[: n or 3] + rng.bytes(n))
        answers.add(read(path).split(":")[0])
    return ", ".join(sorted(answers))


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------

_TRACED = {module.__file__ for module in (logger, writer, staged, overlaid, checksums)}


def interrupted_at(line: int, path: Path) -> int | None:
    """Log nine frames, interrupted at some line of the seventh, and return how many are there; `None` past the end."""
    path.unlink(missing_ok=True)
    atoms, dyn = oscillator()
    atoms.get_forces()
    log = UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300, flush_every=4)
    for _ in range(6):
        log()
        dyn.run(1)
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename not in _TRACED:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        log()
        log.flush()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    for _ in range(2):
        dyn.run(1)
        log()
    log.close()
    run = read_log(path)
    assert not run.damage
    # The frame at which the interrupt came may be missing, no other.
    assert set(run.step.tolist()) | {6} == set(range(9)), run.step
    assert len(set(run.step.tolist())) == run.n_frames
    return run.n_frames if seen >= line else None


def interrupts(folder: Path) -> str:
    every, line, counts = int(os.environ.get("ASE_UQ_FAULT_STRIDE", "23")), 1, [0, 0]
    while (found := interrupted_at(line, folder / "run.h5")) is not None:
        counts[found == 9] += 1
        line += every
    return f"at {sum(counts)} lines: all frames before are there, in {counts[1]} also that of the interrupt"


def disk_refuses(code: int) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = folder / "run.h5"
        atoms, dyn = oscillator()
        atoms.get_forces()
        log = UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300, flush_every=1000)
        dyn.attach(log)
        dyn.run(300)
        size, told = path.stat().st_size, ""
        with patch.object(staged.os, "pwrite", side_effect=OSError(code, os.strerror(code))):
            try:
                dyn.run(900)
            except RunError as error:
                told = str(error)
        there = read_log(path)
        assert (path.stat().st_size, there.n_frames, there.damage) == (size, 301, ())
        log.close()  # there is space again
        assert read_log(path).n_frames == dyn.nsteps + 1
        return told

    return inject


def size_limit(folder: Path) -> str:
    script = """
        import resource, sys
        from ase_uq.errors import RunError
        from ase_uq.log.logger import UncertaintyLogger
        from tests.made.logged_runs import oscillator
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        atoms, dyn = oscillator()
        log = UncertaintyLogger(sys.argv[1], atoms, dyn=dyn, temperature_K=300, flush_every=50)
        dyn.attach(log)
        try:
            with log:
                dyn.run(5000)
        except RunError as error:
            print(error)
            sys.exit(1)
    """
    done = run_script(script, folder / "run.h5")
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    found = read_log(folder / "run.h5")
    assert found.n_frames > 100
    assert not found.damage
    return f"exit 1, {done.stdout}"


def run_script(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    here = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": here.rstrip(os.pathsep)},
        capture_output=True,
        text=True,
        check=False,
    )


def killed_and_opened(folder: Path) -> str:
    script = """
        import os, signal, sys
        import h5py
        from ase_uq.log.logger import UncertaintyLogger
        from tests.made.logged_runs import oscillator
        atoms, dyn = oscillator()
        log = UncertaintyLogger(sys.argv[1], atoms, dyn=dyn, temperature_K=300, flush_every=50)
        dyn.attach(log)
        dyn.run(400)
        with h5py.File(sys.argv[1]) as file:
            print(len(file["step"]))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_script(script, folder / "run.h5")
    with h5py.File(folder / "run.h5") as file:
        assert len(file["energy"][:]) == int(done.stdout) > 300
    return "h5py opens it while it is written and after the kill"


def odd_name(name: str) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = folder / name
        atoms, dyn = oscillator()
        record(path, atoms, dyn, 5)
        record(path, atoms, fresh(atoms), 3, append=True)
        left = [each for each in folder.iterdir() if each.name != name]
        return f"{read_log(path).n_frames} frames, {len(left)} other files left"

    return inject


def symbolic_link(folder: Path) -> str:
    (folder / "disk").mkdir()
    (folder / "run.h5").symlink_to(folder / "disk" / "real.h5")
    atoms, dyn = oscillator()
    record(folder / "run.h5", atoms, dyn, 5)
    record(folder / "run.h5", atoms, fresh(atoms), 3, append=True)
    assert (folder / "run.h5").is_symlink()
    return f"{read_log(folder / 'disk' / 'real.h5').n_frames} frames in the file that the link means"


def damaged_and_continued(folder: Path) -> str:
    path = folder / "run.h5"
    atoms, dyn = oscillator()
    record(path, atoms, dyn, 40)
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        place = file["energy"].id.get_chunk_info(0).byte_offset
    content[place + 8 * 7] ^= 1
    path.write_bytes(content)
    record(path, atoms, fresh(atoms), 10, append=True)
    run = read_log(path)
    assert set(range(51)) - set(run.step.tolist()) == {7}
    assert (folder / "run.h5.damaged").read_bytes() == bytes(content)
    return "goes on without the damaged frame, the damaged log is kept beside it"


def faults() -> list[Fault]:
    damage = [
        ("200 random bit flips", lambda f: damaged_at_random(f, 200, flip)),
        ("100 bit flips in the headers", lambda f: damaged_at_random(f, 100, flip_in_head)),
        ("60 blocks of zeros, as after a power cut", lambda f: damaged_at_random(f, 60, zero_block)),
        ("60 sectors with the contents of others", lambda f: damaged_at_random(f, 60, stale_sector)),
    ]
    shape = (N_FRAMES, 3)
    made = [
        ("external link", linked(lambda f: h5py.ExternalLink(str(f / "o.h5"), "x")), "link to something else"),
        ("soft link", linked(lambda f: h5py.SoftLink("/time_fs")), "link to something else"),
        ("external raw storage in a FIFO", external_storage, "lies in other files"),
        ("virtual dataset", virtual_dataset, "lies in other files"),
        ("FIFO instead of a log", special_file(pipe), "it is no ordinary file"),
        ("device instead of a log", special_file(lambda f: Path("/dev/zero")), "it is no ordinary file"),
        ("folder instead of a log", special_file(lambda f: f), "it is a folder"),
        ("name that no file can have", special_file(lambda f: f / ("x" * 300)), "can be read|there is none"),
        ("random bytes", random_bytes, "^refused$"),
        ("format version missing", lambda f: changed(f, lambda h: h.attrs.pop("format_version")), "set the attribute"),
        ("format version a text", attribute("format_version", "2"), "a whole number, got '2'"),
        ("format version of the future", attribute("format_version", 9), "upgrade ase_uq"),
        ("format a number", attribute("format", 3), "its format is 3"),
        ("temperature a text", attribute("temperature_K", "hot"), "a positive number as its attribute"),
        ("temperature not a number", attribute("temperature_K", np.nan), "a positive number as its attribute"),
        ("number of members a text", attribute("n_members", "three"), "a number as its attribute"),
        ("elements of no periodic table", attribute("numbers", [1, 900]), "atomic numbers as its attribute"),
        ("elements missing", attribute("numbers", [1]), "has the shape"),
        ("cell of two vectors", attribute("cell", np.eye(2)), "three vectors as its attribute"),
        ("attribute without a value", attribute("note", h5py.Empty("f8")), "a number or a text as its attribute"),
        ("settings edited by hand", attribute("model_hash", "other"), "were changed or are damaged"),
        ("step without an axis", replaced("step", data=3), "one row a frame"),
        ("steps are texts", replaced("step", data=[b"a"] * N_FRAMES), "numbers in 'step'"),
        ("energies are compound", replaced("energy", shape=(9,), dtype=[("a", "f8")]), "numbers in 'energy'"),
        ("energies a table", replaced("energy", shape=shape, dtype="f8"), "has the shape"),
        ("10^12 frames announced", replaced("step", shape=(10**12,), dtype="i8", chunks=(100,)), "refused|frames"),
        ("10^12 energies announced", replaced("energy", shape=(10**12,), dtype="f8", chunks=(9,)), "not in the file"),
        ("frame of a terabyte", replaced("positions", shape=(9, 10**11, 3), dtype="f8", chunks=(1, 9, 3)), "shape"),
        ("compressed to nothing", zip_bomb, "no run compresses like that"),
        ("a period that is a text", of_observable("period", "x"), "a positive number as `period`"),
        ("a period that is no number", of_observable("period", np.nan), "a positive number as `period`"),
        ("members that are a text", of_observable("members", "x"), "a truth value as `members`"),
        ("a dataset shorter than the steps", shorter, "^40 frames; frames 40 to 300 of 301"),
        ("a dataset is missing", lambda f: changed(f, lambda h: h.__delitem__("volume")), "the dataset 'volume'"),
        ("a dataset is a group", lambda f: changed(f, lambda h: (h.pop("volume"), h.create_group("volume"))), "Group"),
        (
            "observables are a dataset",
            lambda f: changed(f, lambda h: (h.pop("observables"), h.create_dataset("observables", data=1))),
            "a group at",
        ),
        ("one infinite energy in an earlier log", infinite_energy, "^80 frames; the energy is not finite in frames 7"),
        ("steps that go back in an earlier log", steps_back, "^79 frames; steps do not increase at frames 10 to 11"),
    ]
    written = [
        ("interrupt at any line of an append", interrupts, "all frames before are there"),
        ("disk full", disk_refuses(errno.ENOSPC), "holds 301 frames up to step 300; free space on the disk"),
        ("quota", disk_refuses(errno.EDQUOT), "free space within your quota"),
        ("error of the disk", disk_refuses(errno.EIO), "look after the disk"),
        ("file-size limit", size_limit, "^exit 1, the log .* could not be written: File too large"),
        ("log opened by h5py while it is written, and killed", killed_and_opened, "h5py opens it"),
        ("log behind a symbolic link", symbolic_link, "^9 frames in the file that the link means"),
        ("damaged log continued", damaged_and_continued, "the damaged log is kept"),
        *(
            (f"log called {name[:24]!r}, {len(name)} letters", odd_name(name), "^9 frames, 0 other files")
            for name in ("-run.h5", "my run.h5", "line\nbreak.h5", "Ωσé.h5", "x" * 252 + ".h5", "@2.h5", "run")
        ),
    ]
    return [
        *(Fault(name, "log", inject, "none silent") for name, inject in damage),
        Fault("cut at any byte", "log", cut_anywhere, "are named", "frames beyond the cut"),
        *(Fault(name, "log", inject, expected) for name, inject, expected in [*made, *written]),
    ]


FAULTS = faults()
