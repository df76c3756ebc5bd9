"""Faults of trainings and of their labels: what stops them, what is gone on with, and what is written in the frames."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ase import Atoms
from ase.io import write
from ase.units import GPa

from ase_uq.locks import Owner
from ase_uq.training import Deep, FitSettings, Frame, Shallow, TrainingRun
from ase_uq.training.data import read_training_data
from tests.faults.fault import Fault
from tests.faults.run_faults import told
from tests.made.alloys import emt_frames, labelled
from tests.made.shell import ase_uq

TINY = ["--members", 2, "--jobs", 1, "--epochs", 1, "--channels", 4, "--layers", 1, "--l-max", 1, "--cutoff", 3]
SIZES = {"cutoff": 3.0, "channels": 4, "n_layers": 1, "l_max": 1, "radial_width": 8}
SETTINGS = FitSettings(epochs=2, batch_size=4)


def frames() -> tuple[list[Frame], list[Frame]]:
    found = labelled(12, 0)
    return found[:8], found[8:]


def run(folder: Path, data: Any = None, **options: Any) -> TrainingRun:
    known = {"method": Deep(n_members=2), "settings": SETTINGS, "config": SIZES, "state_dir": folder / "state"}
    return TrainingRun(*(data or frames()), **{**known, **options})


def stopped(folder: Path, how: Callable[[], Any]) -> str:
    """End a training after its first epoch, and check that it goes on to where it would have come."""

    def stop(part: int, record: Any) -> None:
        how()

    said = told(lambda: run(folder, on_epoch=stop).complete())
    resumed = run(folder, resume=True).complete()
    assert resumed.model_hash == run(folder / "whole", state_dir=None).complete().model_hash  # type: ignore[attr-defined]
    return said


def interrupted(folder: Path) -> None:
    def stop(part: int, record: Any) -> None:
        raise KeyboardInterrupt

    assert "kept" in told(lambda: run(folder, on_epoch=stop).complete())


def ctrl_c() -> None:
    raise KeyboardInterrupt


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def full_disk(folder: Path) -> str:
    def full(model: Any) -> None:
        raise OSError(28, "No space left on device")

    said = told(lambda: run(folder).complete(save=full))
    epochs: list[int] = []
    run(folder, resume=True, on_epoch=lambda part, record: epochs.append(record.epoch)).complete()
    assert not epochs
    return said


def full_disk_midway(folder: Path) -> str:
    interrupted(folder)
    before = (folder / "state" / "member_0.pt").read_bytes()
    opened = Path.open

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name.startswith(".member"):
            raise OSError(28, "No space left on device")
        return opened(self, *arguments, **options)

    with mock.patch.object(Path, "open", full):
        said = told(lambda: run(folder, resume=True).complete())
    assert (folder / "state" / "member_0.pt").read_bytes() == before
    return said


def resumed(**options: Any) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        interrupted(folder)
        before = (folder / "state" / "member_0.pt").read_bytes()
        said = told(lambda: run(folder, resume=True, **options).complete())
        assert (folder / "state" / "member_0.pt").read_bytes() == before
        return said

    return inject


def resumed_with(change: Callable[[list[Frame], list[Frame]], Any]) -> Callable[[Path], str]:
    return lambda folder: resumed(data=change(*frames()))(folder)


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        interrupted(folder)
        path = folder / "state" / name
        path.write_bytes(change(path.read_bytes()))
        return told(lambda: run(folder, resume=True).complete())

    return inject


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 4
    return bytes(changed)


def at_once(folder: Path) -> str:
    found: list[str] = []

    def second(part: int, record: Any) -> None:
        if not found:
            found.append(told(lambda: run(folder, resume=True).complete()))

    run(folder, on_epoch=second).complete()
    return found[0]


def locked(**owner: Any) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        interrupted(folder)
        entries = {name: getattr(Owner.this(), name) for name in Owner.__slots__}
        (folder / "state" / "lock").write_text(json.dumps({**entries, **owner}))
        return told(lambda: run(folder, resume=True).complete())

    return inject


def shell(prepare: Callable[[Path], Any], *options: Any, command: str = "train") -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        write(folder / "train.xyz", emt_frames(12))
        prepare(folder)
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        done = ase_uq(command, "train.xyz", *TINY, *options, cwd=folder)
        assert all(path.read_bytes() == content for path, content in before.items())
        assert "Traceback" not in done.stderr
        return f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1]}"

    return inject


# --- labels -----------------------------------------------------------------------------------------------------------


def labels(change: Callable[[list[Atoms]], Any], n: int = 12, **reading: Any) -> Callable[[Path], str]:
    """Read a file whose frames were changed; what is said of it where it is not refused."""

    def inject(folder: Path) -> str:
        structures = emt_frames(n)
        changed = change(structures)
        write(folder / "a.xyz", structures if changed is None else changed)
        found: list[str] = []

        def read() -> None:
            data = read_training_data(folder / "a.xyz", **reading)
            found.extend([*data.notes, *data.warnings])

        said = told(read)
        return f"{said}: {' '.join(found)}" if found else said

    return inject


def each(chosen: slice, key: str, value: Any) -> Callable[[list[Atoms]], None]:
    def change(structures: list[Atoms]) -> None:
        for atoms in structures[chosen]:
            atoms.info[key] = value(atoms) if callable(value) else value

    return change


def moved_energies(chosen: slice, offset: float) -> Callable[[list[Atoms]], None]:
    return each(chosen, "REF_energy", lambda atoms: atoms.info["REF_energy"] + offset)


def stresses(factor: float) -> Callable[[list[Atoms]], None]:
    return each(slice(None), "REF_stress", lambda atoms: factor * atoms.info["REF_stress"])


def other_source(structures: list[Atoms]) -> None:
    for atoms in structures[9:]:
        atoms.info["energy"] = atoms.info.pop("REF_energy") + 100.0
        atoms.arrays["forces"] = atoms.arrays.pop("REF_forces")


def virials(structures: list[Atoms]) -> None:
    for atoms in structures:
        xx, yy, zz, yz, xz, xy = -atoms.get_volume() * atoms.info.pop("REF_stress")
        atoms.info["REF_virial"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def no_forces(chosen: slice) -> Callable[[list[Atoms]], None]:
    def change(structures: list[Atoms]) -> None:
        for atoms in structures[chosen]:
            del atoms.arrays["REF_forces"]

    return change


def not_finite(structures: list[Atoms]) -> None:
    structures[4].arrays["REF_forces"][2, 1] = np.inf


def with_atoms(*symbols: str) -> Callable[[list[Atoms]], list[Atoms]]:
    def change(structures: list[Atoms]) -> list[Atoms]:
        single = [Atoms(s, info={"REF_energy": -50.0, "config_type": "IsolatedAtom"}) for s in symbols]
        return [*single, *structures]

    return change


def one_sided(items: Sequence[Frame]) -> list[Frame]:
    return [replace(item, energy=item.energy - 1e6) for item in items]


FAULTS = [
    *(
        Fault(name, "training", inject, expected)
        for name, inject, expected in (
            ("Ctrl-C", lambda folder: stopped(folder, ctrl_c), "exit 130: interrupted; what was trained is kept"),
            ("SIGTERM", lambda folder: stopped(folder, terminated), "exit 130: interrupted; what was trained is kept"),
            ("disk full when the model is written", full_disk, "exit 1: .*could not be written .No space left"),
            ("disk full when a state is written", full_disk_midway, "exit 1: .*the last one that was is kept"),
            ("resumed with another method", resumed(method=Shallow(n_members=2)), "`method` must be 'deep'"),
            ("resumed with more members", resumed(method=Deep(n_members=3)), "`n_members` must be 2 as in"),
            ("resumed with other sizes", resumed(config={**SIZES, "channels": 8}), "`channels` must be 4 as in"),
            ("resumed with another cut-off", resumed(config={**SIZES, "cutoff": 3.5}), "`cutoff` must be 3.0 as in"),
            ("resumed with another seed", resumed(settings=replace(SETTINGS, seed=4)), "`seed` must be 0 as in"),
            ("resumed with another batch size", resumed(settings=replace(SETTINGS, batch_size=2)), "`batch_size` must"),
            ("resumed with other zeros", resumed(e0s={"Au": 0.0, "Cu": 0.0}), "`e0s` must be left out as in"),
            (
                "resumed with other energies",
                resumed_with(lambda a, b: (one_sided(a), b)),
                "the training frames are not",
            ),
            ("resumed with fewer frames", resumed_with(lambda a, b: (a[:5], b)), "the training frames are not those"),
            ("resumed with another validation", resumed_with(lambda a, b: (a, b[1:])), "the validation frames are not"),
            ("resumed with another split", resumed_with(lambda a, b: (a[1:], [*b, a[0]])), "are split into 7 to train"),
            (
                "state truncated",
                damaged("member_0.pt", lambda b: b[:200]),
                "exit 2: .*could not be read, it is damaged",
            ),
            ("one bit of a state flipped", damaged("member_0.pt", flipped), "exit 2: .*does not match its own hash"),
            (
                "state of random bytes",
                damaged("member_0.pt", lambda b: bytes(7 * k % 251 for k in range(999))),
                "damaged",
            ),
            (
                "description of the training cut",
                damaged("training.json", lambda b: b[:20]),
                "exit 2: .*could not be read",
            ),
            ("two trainings at once", at_once, "exit 2: .*is under way in process"),
            ("lock of a dead process", locked(started="long ago"), "^exit 0$"),
            ("lock of another machine", locked(host="node17"), "exit 2: .*if it is no longer there, delete"),
            ("OUT is there", shell(lambda f: (f / "m.pt").write_text("x"), "--out", "m.pt"), "exit 2.*exists already"),
            ("OUT is a folder", shell(lambda f: (f / "m.pt").mkdir(), "--out", "m.pt"), "exit 2.*it is a folder"),
            ("OUT without a folder", shell(lambda f: None, "--out", "no/m.pt"), "exit 2.*does not exist"),
            ("OUT is DATA", shell(lambda f: None, "--overwrite", "--out", "train.xyz"), "exit 2.*must stay"),
            ("OUT is a pipe", shell(lambda f: os.mkfifo(f / "p"), "--overwrite", "--out", "p"), "exit 2.*a pipe"),
            ("OUT has too long a name", shell(lambda f: None, "--out", "m" * 300), "exit 2.*name"),
        )
    ),
    *(
        Fault(name, "labels", inject, expected)
        for name, inject, expected in (
            ("energies of two sources", labels(other_source), "exit 2: .*one source: .*9 and 3 of 12 frames"),
            ("one energy off by 120 eV", labels(moved_energies(slice(3, 4), 120.0)), "exit 2: .*off what its composit"),
            ("a quarter of the energies off by 120 eV", labels(moved_energies(slice(0, 3), 120.0)), "exit 2: "),
            (
                "half of six energies off by 120 eV",
                labels(moved_energies(slice(0, 3), 120.0), n=6),
                "exit 2: .*two groups",
            ),
            ("stress in GPa", labels(stresses(1.0 / GPa)), "exit 2: .*GPa"),
            ("stress in kbar of the other sign", labels(stresses(-10.0 / GPa)), "exit 2: .*kbar"),
            ("stress of the other sign", labels(stresses(-1.0)), "exit 2: stresses .* of the other sign"),
            ("stress in Hartree/Bohr^3", labels(stresses(1.0 / 183.63)), "exit 2: stresses .* times the size"),
            ("virials instead of stress", labels(virials), "exit 0: .*stress = -`REF_virial` / volume .in 12 of 12"),
            ("text for an energy", labels(each(slice(2, 3), "REF_energy", "failed")), "exit 2: frame 2 .*got 'failed'"),
            (
                "asterisks for a stress",
                labels(each(slice(2, 3), "REF_stress", "*****")),
                "exit 2: frame 2 .*stress label",
            ),
            ("nan for an energy", labels(each(slice(1, 2), "REF_energy", np.nan)), "exit 2: frame 1 .*finite, got nan"),
            ("inf for a force", labels(not_finite), "exit 2: frame 4 .*forces label must be finite, got inf at atom 2"),
            ("some frames without forces", labels(no_forces(slice(0, 2))), "exit 0: .*2 of 12 frames have no forces"),
            ("all frames without forces", labels(no_forces(slice(None))), "exit 2: .*as all others, has no forces"),
            (
                "weights of frames",
                labels(each(slice(0, 2), "config_weight", 3)),
                "exit 0: .*2 of 12 frames have weights",
            ),
            ("a negative weight", labels(each(slice(0, 1), "config_weight", -1)), "exit 2: frame 0 .*at least 0"),
            ("charges that differ", labels(each(slice(0, 5), "charge", 1)), "exit 2: .*differ in `charge`"),
            ("one charge for all", labels(each(slice(None), "total_charge", -1)), "exit 0: .*for this charge alone"),
            ("spins that differ", labels(each(slice(0, 5), "multiplicity", 3)), "exit 2: .*differ in `multiplicity`"),
            ("isolated atoms", labels(with_atoms("Cu", "Au")), "exit 0: isolated atoms .* are the zeros of energy"),
            ("isolated atoms of some elements", labels(with_atoms("Cu")), "exit 0: .*of Au there is none"),
            ("zeros that are no numbers", labels(lambda s: None, e0s="Cu:x,Au:1"), "exit 2: `e0s` must be energies"),
            ("zeros without an element", labels(lambda s: None, e0s="Cu:-1"), "exit 2: .*Au is missing from Cu"),
        )
    ),
]
