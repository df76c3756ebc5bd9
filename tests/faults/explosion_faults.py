"""Faults of runs that explode: they stop, what they did is kept, and every average says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from ase_uq import OnlineReweighter, UncertaintyLogger, WeightedBaseline, read_log, reweight, reweight_log
from ase_uq.log import writer
from ase_uq.log.continuation import exploded_in
from ase_uq.report.build import write_report
from tests.faults.fault import Fault
from tests.faults.run_faults import told
from tests.faults.runs import go
from tests.made.bonds import bound

SAYS = "the run exploded"
OBSERVABLES = {"d": (lambda atoms: atoms.get_distance(0, 1), "Å")}
WHOLE = {"timestep_fs": 12.0, "explosion_limit": 0.0}


def pair() -> Atoms:
    return Atoms("N2", positions=[[0.0, 0.0, 0.0], [1.1, 0.0, 0.0]])


def run(
    path: Path,
    steps: int = 300,
    *,
    atoms: Callable[[], Atoms] = pair,
    calculator: Callable[[], Any] = bound,
    **settings: Any,
) -> Any:
    chosen = {"timestep_fs": 0.5} | settings
    return go(path, steps, atoms=atoms(), calculator=calculator(), observables=OBSERVABLES, **chosen)


def says(warnings: Any) -> bool:
    return any(each.startswith(SAYS) for each in warnings)


def said_everywhere(path: Path, folder: Path) -> None:
    assert says(reweight_log(path, ["d"])["d"].warnings)
    log = read_log(path)
    assert says(reweight_log(log, ["d"])["d"].warnings)
    arrays: dict[str, Any] = {"energy_members": log.energy_members, "energy_reference": log.energy}
    assert says(reweight(log.observables["d"], **arrays, temperature_K=300.0).warnings)
    assert says(reweight_log(path, ["d"], skip_fs=read_log(path).time_fs[-25])["d"].warnings)
    write_report(path, folder / "report.html")
    assert SAYS[1:] in (folder / "report.html").read_text()


def exploding(**settings: Any) -> Callable[[Path], str]:
    """The run ends, its log is whole up to the step that shows it, and cannot be gone on with by mistake."""

    def inject(folder: Path) -> str:
        path = folder / "run.h5"
        found = told(lambda: run(path, **settings))
        log = read_log(path)
        assert log.damage == ()
        assert exploded_in(path)
        assert np.ptp(np.diff(log.step)) == 0 if log.n_frames > 2 else log.n_frames > 0
        assert "exit 2: `restart` needs a run that is sound" in told(lambda: run(path, restart=True, **settings))
        assert read_log(path).n_frames == log.n_frames
        return found

    return inject


def after_a_sound_part(folder: Path) -> str:
    """Bonds break into a hole late: averages over the many frames before say it, too."""
    path = folder / "run.h5"
    found = told(lambda: run(path, 400, calculator=lambda: bound(sound_for=200)))
    assert read_log(path).n_frames > 150
    said_everywhere(path, folder)
    return found


def switched_off(folder: Path) -> str:
    path = folder / "run.h5"
    averages = run(path, **WHOLE)
    assert says(averages["d"].warnings)
    said_everywhere(path, folder)
    return "runs to its end, and every average says that it exploded"


def gone_on_with(folder: Path) -> str:
    """The mark of the first part is not lost when somebody goes on all the same."""
    path = folder / "run.h5"
    assert SAYS in told(lambda: run(path, timestep_fs=12.0))
    run(path, **WHOLE, restart=True)
    said_everywhere(path, folder)
    return f"marked {read_log(path).attributes['exploded']}"


def of_ase(make: Callable[[Atoms], Any], **logged: Any) -> Callable[[Path], str]:
    """Dynamics of ASE with our observers: nobody stops them."""

    def inject(folder: Path) -> str:
        path, atoms = folder / "run.h5", pair()
        atoms.calc = bound()
        dyn = make(atoms)
        online = OnlineReweighter(atoms, temperature_K=300.0, observables=OBSERVABLES, dyn=dyn)
        options = {"temperature_K": 300.0, "observables": OBSERVABLES} | logged
        with UncertaintyLogger(path, atoms, dyn=dyn, **options) as log:
            dyn.attach(log)
            dyn.attach(online)
            dyn.run(200)
        said_everywhere(path, folder)
        (found,) = [each for each in online.results()["d"].warnings if each.startswith(SAYS)]
        return str(found)

    return inject


def no_room_for_the_mark(folder: Path) -> str:
    """The disk is full when the run explodes: the log is whole, and its columns say it."""
    path = folder / "run.h5"
    put, mark = writer.StagedFile._put, writer.FrameWriter.mark_exploded

    def full(*unused: Any) -> None:
        raise OSError(28, "No space left on device")

    def marking(self: Any, found: str) -> None:
        self.flush()
        writer.StagedFile._put = full  # type: ignore[method-assign,assignment]
        try:
            mark(self, found)
        finally:
            writer.StagedFile._put = put  # type: ignore[method-assign]

    writer.FrameWriter.mark_exploded = marking  # type: ignore[method-assign]
    try:
        found = told(lambda: run(path, timestep_fs=12.0))
    finally:
        writer.FrameWriter.mark_exploded = mark  # type: ignore[method-assign]
    log = read_log(path)
    assert log.n_frames > 0
    assert log.damage == ()
    return found


def sound(**settings: Any) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        path = folder / "run.h5"
        averages = run(path, **settings)
        assert not says(averages["d"].warnings)
        assert not says(reweight_log(path, ["d"])["d"].warnings)
        return "runs to its end, and no average says that it exploded"

    return inject


def langevin(timestep_fs: float) -> Callable[[Atoms], Any]:
    return lambda atoms: Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=300.0,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(1),
    )


def stretched() -> Atoms:
    return Atoms("N2", positions=[[0.0, 0.0, 0.0], [0.85, 0.0, 0.0]])


def methane() -> Atoms:
    return molecule("CH4")


ENDED = r"exit 1: the run exploded: at step \d+ .*timestep_fs"
FAULTS = [
    Fault("a time step of 12 fs", "run", exploding(timestep_fs=12.0), ENDED),
    Fault("the same at constant energy", "run", exploding(timestep_fs=16.0, ensemble="nve"), ENDED),
    Fault("a time step of 4 fs with hydrogen", "run", exploding(timestep_fs=4.0, atoms=methane), ENDED),
    Fault("a time step of 100 fs, past all neighbours", "run", exploding(timestep_fs=100.0, atoms=methane), ENDED),
    Fault("the same between two logged frames", "run", exploding(timestep_fs=12.0, interval=50), ENDED),
    Fault(
        "a time step too long for the baseline",
        "run",
        exploding(
            timestep_fs=12.0,
            calculator=lambda: WeightedBaseline(bound(), bound(depth=4.1), sigma_baseline=0.5),
        ),
        ENDED,
    ),
    Fault("a hole in the potential", "run", exploding(calculator=lambda: bound(hole=1.09)), ENDED),
    Fault(
        "energies that are no numbers after some steps",
        "run",
        exploding(calculator=lambda: bound(sound_for=60)),
        r"exit 1: the run exploded: after step \d+ member 0 returned",
    ),
    Fault("the same after many sound frames", "run", after_a_sound_part, r"exit 1: the run exploded: after step \d+"),
    Fault("the watch is switched off", "run", switched_off, "every average says"),
    Fault("an exploded run is gone on with all the same", "run", gone_on_with, r"marked at step \d+ its temperature"),
    Fault("an explosion in ASE's Langevin", "run", of_ase(langevin(12.0)), "the run exploded: in frame"),
    Fault(
        "an explosion in ASE's velocity Verlet",
        "run",
        of_ase(lambda atoms: VelocityVerlet(_warm(atoms), 14 * units.fs)),
        "the run exploded: in frame",
    ),
    Fault(
        "the disk is full when a run explodes", "run", no_room_for_the_mark, r"exit 1: the log .* could not be written"
    ),
    Fault("a bond that starts far too short", "run", sound(atoms=stretched, ensemble="nve"), "no average says"),
    Fault("bonds that break at 6000 K", "run", sound(temperature_K=6000.0, timestep_fs=0.2), "no average says"),
]


def _warm(atoms: Atoms) -> Atoms:
    atoms.set_momenta(np.random.default_rng(0).normal(size=(2, 3)) * np.sqrt(14.0 * units.kB * 300.0))
    return atoms
