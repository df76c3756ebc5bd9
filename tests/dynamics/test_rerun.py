"""An old trajectory gets the log it would have had."""

import json

import numpy as np
import pytest
from ase import units
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin

from ase_uq import InputError, UncertaintyLogger, UQCalculator, read_log, reweight, save
from ase_uq.dynamics.rerun import rerun
from ase_uq.models.members import MemberUncertainty
from tests.made.potentials import ensemble, shallow
from tests.made.shell import ase_uq, good
from tests.made.structures import copper, water

KINDS = {"deep": ensemble, "shallow": shallow}
DISTANCE = {"r": (lambda atoms: atoms.get_distance(0, 1, mic=True), "Å")}


def run(model, path, steps=40):
    """A logged run and its trajectory, as ASE would have kept it."""
    atoms = copper()
    atoms.calc = UQCalculator(model)
    dyn = Langevin(atoms, 2.0 * units.fs, temperature_K=600.0, friction=0.05, fixcm=False, rng=np.random.RandomState(0))
    frames = []

    def keep():
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(frame, energy=atoms.get_potential_energy())
        frames.append(frame)

    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=600.0, observables=DISTANCE) as log:
        dyn.attach(log)
        dyn.attach(keep)
        dyn.run(steps)
    return frames


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_log_of_a_trajectory_is_that_of_its_run(tmp_path, kind, batch_size):
    model = MemberUncertainty(KINDS[kind](), alpha=1.4)
    frames = run(model, tmp_path / "run.h5")
    options = {"temperature_K": 600.0, "interval_fs": 2.0, "observables": DISTANCE, "batch_size": batch_size}
    assert rerun(model, frames, tmp_path / "again.h5", **options) == "trajectory"
    before, after = read_log(tmp_path / "run.h5"), read_log(tmp_path / "again.h5")
    assert after.n_frames == before.n_frames == 41
    for name in ("time_fs", "energy", "energy_members", "energy_var", "kinetic_energy", "temperature_K", "volume"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-9, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(after.force_std_max, before.force_std_max, rtol=1e-7)
    results = [
        reweight(
            log.observables["r"], energy_members=log.energy_members, energy_reference=log.energy, temperature_K=600
        )
        for log in (before, after)
    ]
    assert results[1].mean == pytest.approx(results[0].mean, rel=1e-9)
    assert results[1].std_model == pytest.approx(results[0].std_model, rel=1e-6)


def test_a_run_of_another_potential_keeps_its_energies(tmp_path):
    model = MemberUncertainty(shallow())
    frames = run(model, tmp_path / "run.h5", steps=5)
    for frame in frames:
        energy = LennardJones(sigma=2.2, rc=6.0).get_potential_energy(frame)
        frame.calc = SinglePointCalculator(frame, energy=energy)
    rerun(model, frames, tmp_path / "again.h5", temperature_K=600.0)
    log = read_log(tmp_path / "again.h5")
    np.testing.assert_allclose(log.energy, [frame.get_potential_energy() for frame in frames])
    np.testing.assert_allclose(log.energy_members, [model.predict(frame).energy_members for frame in frames])
    assert log.attributes["driver"] == "trajectory"


@pytest.mark.parametrize("kind", KINDS)
def test_without_energies_the_mean_of_the_members_drove_it(tmp_path, kind):
    model = MemberUncertainty(KINDS[kind]())
    frames = [frame.copy() for frame in run(model, tmp_path / "run.h5", steps=5)]
    assert rerun(model, frames, tmp_path / "again.h5", temperature_K=600.0, forces_var="off") == "model"
    log = read_log(tmp_path / "again.h5")
    np.testing.assert_allclose(log.energy, log.energy_members.mean(axis=1))
    assert (log.force_std_max is None) == (kind == "shallow")


def test_means_are_the_means_of_all():
    model = MemberUncertainty(shallow(), alpha=1.7)
    atoms = [copper(), water(), copper()]
    for quick, full in zip(model.predict_many(atoms, forces_var=False), model.predict_many(atoms), strict=True):
        np.testing.assert_allclose(quick.energy_members, full.energy_members, rtol=1e-12)
        np.testing.assert_allclose(quick.forces, full.forces, atol=1e-11)
        assert quick.forces_var is None
        assert (quick.stress is None) == (full.stress is None)
        if full.stress is not None:
            np.testing.assert_allclose(quick.stress, full.stress, atol=1e-12)


def test_what_is_no_run_is_refused(tmp_path):
    model = MemberUncertainty(shallow())
    frames = run(model, tmp_path / "run.h5", steps=3)
    for wrong, message in (
        ([], "at least one structure"),
        ([*frames, water()], "frame 4 is H2O and the first Cu4"),
        ([*frames, frames[0].copy()], "must all have energies or none, frame 4 differs"),
    ):
        with pytest.raises(InputError, match=message):
            rerun(model, wrong, tmp_path / "again.h5", temperature_K=600.0)
        assert not (tmp_path / "again.h5").exists()
    with pytest.raises(InputError, match="must not exist yet"):
        rerun(model, frames, tmp_path / "run.h5", temperature_K=600.0)


def test_the_command(tmp_path):
    model = MemberUncertainty(shallow())
    save(model, tmp_path / "model.pt")
    frames = run(model, tmp_path / "run.h5", steps=30)
    write(tmp_path / "old.traj", frames)
    write(tmp_path / "bare.xyz", [frame.copy() for frame in frames])
    common = ["--temperature", 600, "--interval-fs", 2, "--observable", "r=distance:0,1"]
    done = json.loads(good("rerun", "model.pt", "old.traj", *common, "--out", "old.h5", "--json", cwd=tmp_path).stdout)
    assert done == {"log": "old.h5", "n_frames": 31, "driver": "trajectory"}
    outputs = [
        json.loads(good("reweight", name, "--observable", "r", "--json", cwd=tmp_path).stdout)
        for name in ("run.h5", "old.h5")
    ]
    assert outputs[1]["mean"] == pytest.approx(outputs[0]["mean"], rel=1e-8)
    warned = good("rerun", "model.pt", "bare.xyz", *common, "--forces-var", "off", "--out", "bare.h5", cwd=tmp_path)
    assert warned.stdout.startswith("warning: the frames have no energies")
    refused = ase_uq("rerun", "model.pt", "old.traj", *common, "--out", "old.h5", cwd=tmp_path)
    assert refused.returncode == 2
    good("report", "old.h5", "--out", "report.html", cwd=tmp_path)
    assert "driven by what gave an old trajectory its energies" in (tmp_path / "report.html").read_text(
        encoding="utf-8"
    )


def test_the_energy_of_a_frame_is_the_one_its_forces_followed(tmp_path):
    model = MemberUncertainty(shallow())
    frames = run(model, tmp_path / "run.h5", steps=5)
    free = [0.3 * i for i, _ in enumerate(frames)]
    for frame, value in zip(frames, free, strict=True):
        frame.calc = SinglePointCalculator(frame, energy=7.0, free_energy=value)
    rerun(model, frames, tmp_path / "again.h5", temperature_K=600.0)
    np.testing.assert_array_equal(read_log(tmp_path / "again.h5").energy, free)
    frames[3].calc = SinglePointCalculator(frames[3], energy=7.0)
    with pytest.raises(InputError, match="frame 3 has `energy` where the first has `free_energy`"):
        rerun(model, frames, tmp_path / "mixed.h5", temperature_K=600.0)
    frames[3].calc = SinglePointCalculator(frames[3], free_energy=np.nan)
    with pytest.raises(InputError, match="`frames` must have one finite energy each, frame 3 has not"):
        rerun(model, frames, tmp_path / "nan.h5", temperature_K=600.0)
