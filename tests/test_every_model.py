"""Every kind of model through all that the package does with a model: file, calculator, log, averages, command line.

What a model cannot do it refuses in one sentence that names the field or the class.
"""

import json

import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.lj import LennardJones
from ase.io import write
from ase.md.verlet import VelocityVerlet

from ase_uq import (
    CommitteeUncertainty,
    InputError,
    ThresholdSwitch,
    UncertaintyLogger,
    UQCalculator,
    WeightedBaseline,
    load,
    read_log,
    save,
)
from ase_uq.dynamics.rerun import rerun
from ase_uq.models import checkpoint
from ase_uq.models.llpr import LLPRUncertainty, posterior_covariance
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import ARCHITECTURES, DeepEnsemble, ShallowEnsemble, make_variational, sample_members, stored
from ase_uq.report.build import write_report
from ase_uq.testing import assert_uncertainty_model
from ase_uq.uncertainty.prediction import Prediction
from ase_uq.validation.residuals import residuals, with_factors
from tests.made.alloys import emt_frames, labelled
from tests.made.foreign import ForeignPotential
from tests.made.models import LJ, NoisyPotential, WidthPerAtom
from tests.made.potentials import potential
from tests.made.shell import ase_uq, good
from tests.made.structures import rattled
from tests.made.toy import ToyPotential

SMALL = {"elements": ("Au", "Cu"), "cutoff": 3.5, "channels": 4, "radial_width": 8, "n_layers": 1, "l_max": 1}
WIDTHS = {"Cu": 0.2, "Au": 0.3}


def body(seed=0):
    return potential(seed, **SMALL)


def llpr():
    features = body().n_features
    return LLPRUncertainty(body(), posterior_covariance(1e4 * torch.eye(features, dtype=torch.float64)), n_members=6)


MODELS = {
    "deep": lambda: MemberUncertainty(DeepEnsemble([body(seed) for seed in range(4)])),
    "shallow": lambda: MemberUncertainty(ShallowEnsemble(body(), 5, seed=1)),
    "llpr": llpr,
    "blip": lambda: MemberUncertainty(sample_members(make_variational(body()), n_members=4, seed=0)),
    "committee": lambda: CommitteeUncertainty([LennardJones(**LJ | {"sigma": s}) for s in (2.25, 2.3, 2.33, 2.36)]),
    "noisy": lambda: MemberUncertainty(NoisyPotential(ShallowEnsemble(body(), 5, seed=1), 0.05)),
    "foreign": lambda: MemberUncertainty(DeepEnsemble([ForeignPotential(("Au", "Cu"), seed=s) for s in range(4)])),
    "toy architecture": lambda: MemberUncertainty(ShallowEnsemble(ToyPotential(("Au", "Cu")), 5, seed=1)),
    "memberless": lambda: WidthPerAtom(WIDTHS, energy_width=0.1),
    "forces only": lambda: WidthPerAtom(WIDTHS),
}
WITHOUT_A_FILE = {
    "committee": "`model` must be made of potentials of ase_uq to be saved, got CommitteeUncertainty",
    "foreign": "ForeignPotential",
}
WITHOUT_MEMBERS = ("memberless", "forces only")
FILES = [name for name in MODELS if name not in WITHOUT_A_FILE]

every_model = pytest.mark.parametrize("name", MODELS)
every_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture(autouse=True)
def more_classes(monkeypatch):
    """A new method, and a new potential, is one line here and there."""
    monkeypatch.setattr(checkpoint, "STORABLE", (*checkpoint.STORABLE, WidthPerAtom))
    monkeypatch.setitem(ARCHITECTURES, "toy", ToyPotential)
    monkeypatch.setattr(stored, "COMPOSED", (*stored.COMPOSED, NoisyPotential))


def copper():
    return rattled(emt_frames(1, elements=("Cu",))[0], 2, 0.02)


def lennard_jones():
    return LennardJones(**LJ)


def driven(atoms, calculator, path, n=24, **options):
    atoms.calc = calculator
    dyn = VelocityVerlet(atoms, 0.5 * units.fs)
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300.0, ensemble="nve", **options) as log:
        dyn.attach(log)
        dyn.run(n)
    return read_log(path)


@every_model
def test_it_is_an_uncertainty_model(name):
    assert_uncertainty_model(MODELS[name](), copper(), step=3e-5, tolerance=1e-4)


@every_model
def test_a_file_gives_the_same_numbers_or_is_refused(name, tmp_path):
    model = MODELS[name]()
    if name in WITHOUT_A_FILE:
        with pytest.raises(InputError, match=WITHOUT_A_FILE[name]):
            save(model, tmp_path / "m.pt")
        assert list(tmp_path.iterdir()) == []
        return
    model = model.calibrated(1.5, {"data": "somewhere"}, alpha_forces=2.0)
    save(model, tmp_path / "m.pt")
    again = load(tmp_path / "m.pt")
    assert type(again) is type(model)
    assert (again.model_hash, again.calibration) == (model.model_hash, {"data": "somewhere"})
    one, two = model.predict(copper()), again.predict(copper())
    for field in (
        "energy",
        "energy_var",
        "forces",
        "forces_var",
        "stress_var",
        "energy_members",
        "energy_var_aleatoric",
    ):
        before, after = getattr(one, field), getattr(two, field)
        assert (before is None) == (after is None)
        if before is not None:
            # A file does not keep how weights lie in memory, and so not the last digit of a sum.
            np.testing.assert_allclose(after, before, rtol=1e-8, atol=1e-10 * np.abs(before).max())


@every_model
def test_a_calculator_publishes_what_there_is(name):
    atoms = copper()
    atoms.calc = UQCalculator(MODELS[name]())
    atoms.get_stress()
    results = atoms.calc.results
    assert ("energy_members" in results) == (name not in WITHOUT_MEMBERS)
    assert ("energy_var" in results) == (name != "forces only")
    assert results["forces_var"].shape == (4, 3)
    assert set(results) <= set(atoms.calc.implemented_properties)


@every_model
def test_a_log_a_report_and_a_rerun_hold_what_there_is(name, tmp_path):
    model, frames = MODELS[name](), []
    atoms = copper()
    observables = {"r": lambda a: a.get_distance(0, 1)}
    run = driven(atoms, UQCalculator(model), tmp_path / "run.h5", observables=observables, store=["positions"])
    members = model.predict(atoms, ()).n_members
    assert run.attributes["n_members"] == (members or 0)
    assert (run.energy_members is None) == (members is None)
    assert (run.energy_var is None) == (name == "forces only")
    assert (run.force_std_max > 0.0).all()
    write_report(tmp_path / "run.h5", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert ("Model error: none, the model has no members." in page) == (members is None)
    for positions in run.positions:
        frame = copper()
        frame.positions = positions
        frames.append(frame)
    rerun(model, frames, tmp_path / "again.h5", temperature_K=300.0, interval_fs=0.5)
    again = read_log(tmp_path / "again.h5")
    np.testing.assert_allclose(again.energy, run.energy, atol=1e-4)
    np.testing.assert_allclose(again.force_std_max, run.force_std_max, rtol=1e-3)
    assert (again.energy_members is None) == (members is None)
    rerun(model, frames, tmp_path / "quick.h5", temperature_K=300.0, interval_fs=0.5, forces_var="off")
    np.testing.assert_allclose(read_log(tmp_path / "quick.h5").energy, again.energy, rtol=1e-12)


@every_model
def test_a_threshold_needs_a_variance_of_the_energy(name, tmp_path):
    model, atoms = MODELS[name](), copper()
    if name == "forces only":
        with pytest.raises(InputError, match="ThresholdSwitch needs `energy_var`, which this model does not provide"):
            ThresholdSwitch(UQCalculator(model), lennard_jones(), threshold=0.1)
        return
    alone, std = model.predict(atoms, ()), np.sqrt(model.predict(atoms, ()).energy_var_epistemic)
    plain = copper()
    plain.calc = lennard_jones()
    for factor, energy, forces in (
        (1.01, alone.energy, alone.forces),
        (0.99, plain.get_potential_energy(), plain.get_forces()),
    ):
        atoms = copper()
        atoms.calc = ThresholdSwitch(UQCalculator(model), lennard_jones(), threshold=factor * std)
        np.testing.assert_allclose(atoms.get_potential_energy(), energy, rtol=1e-10)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-10)
        assert atoms.calc.results["weight"] == float(factor > 1)
    run = driven(
        copper(), ThresholdSwitch(UQCalculator(model), lennard_jones(), threshold=1.01 * std), tmp_path / "t.h5"
    )
    assert set(run.weight) <= {0.0, 1.0}


@every_model
def test_a_baseline_needs_members(name):
    model, atoms = MODELS[name](), copper()
    if name in WITHOUT_MEMBERS:
        with pytest.raises(
            InputError, match="WeightedBaseline needs `energy_members`, which this model does not provide"
        ):
            WeightedBaseline.aligned(UQCalculator(model), lennard_jones(), emt_frames(6), sigma_baseline=0.2)
        return
    frames = [rattled(copper(), seed) for seed in range(6)]
    atoms.calc = WeightedBaseline.aligned(UQCalculator(model), lennard_jones(), frames, sigma_baseline=0.2)
    step, energies = 1e-4, []
    force = atoms.get_forces()[1, 2]
    assert 0.0 < atoms.calc.results["weight"] < 1.0
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        moved.calc = atoms.calc
        energies.append(moved.get_potential_energy())
    assert force == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-5)


@every_model
def test_it_is_calibrated_on_what_it_knows(name):
    model, frames = MODELS[name](), labelled(16, seed=3)
    found = residuals(model, frames)
    assert found.force_scores().coverage_95 is not None
    assert (found.energy_scores().nll is None) == (name == "forces only")
    fitted = found.factors()
    assert ("energy" in fitted) == (name != "forces only")
    once = with_factors(model, fitted)
    first, second = model.predict(frames[0].atoms, ()), once.predict(frames[0].atoms, ())
    factor = fitted["forces"].alpha
    np.testing.assert_allclose(second.forces_var_epistemic, factor**2 * first.forces_var_epistemic, rtol=1e-6)
    np.testing.assert_array_equal(second.forces_var_aleatoric, first.forces_var_aleatoric)
    # Factors replace those there are: fitted again they are the same.
    again = residuals(once, frames).factors()
    for key, each in fitted.items():
        assert again[key].alpha == pytest.approx(each.alpha, rel=1e-4)


@every_file
def test_the_command_line(name, tmp_path):
    save(MODELS[name](), tmp_path / "m.pt")
    write(tmp_path / "valid.xyz", emt_frames(16, seed=3))
    write(tmp_path / "start.xyz", copper())
    shown = good("calibrate", "m.pt", "valid.xyz", "--out", "c.pt", cwd=tmp_path).stdout
    assert ("no members" in shown) == (name in WITHOUT_MEMBERS)
    told = json.loads(good("evaluate", "c.pt", "valid.xyz", "--json", "--plot", "e.png", cwd=tmp_path).stdout)
    assert (told["energy"]["coverage_68"] is None) == (name == "forces only")
    assert (told["mean_share"] is None) == (name in WITHOUT_MEMBERS)
    table = good("evaluate", "c.pt", "valid.xyz", cwd=tmp_path).stdout
    assert ("no members" in table) == (name in WITHOUT_MEMBERS)
    # A run of a potential that was never trained may go anywhere: a few short steps.
    common = ["--temperature", 100, "--steps", 30, "--timestep", 0.1, "--store", "positions"]
    observed = ["--log", "r.h5", "--observable", "r=distance:0,1", "--json"]
    md = good("md", "c.pt", "start.xyz", *common, *observed, cwd=tmp_path)
    assert (json.loads(md.stdout)["averages"] == {}) == (name in WITHOUT_MEMBERS)
    good("report", "r.h5", "--out", "r.html", cwd=tmp_path)
    assert read_log(tmp_path / "r.h5").attributes["model_hash"] == load(tmp_path / "c.pt").model_hash
    longer = [*common[:3], 40, *common[4:]]
    good("md", "c.pt", "start.xyz", *longer, *observed[:-1], "--restart", cwd=tmp_path)
    assert read_log(tmp_path / "r.h5").n_frames == 41
    write(tmp_path / "frames.xyz", [copper() for _ in range(3)])
    good("rerun", "c.pt", "frames.xyz", "--temperature", 100, "--out", "again.h5", cwd=tmp_path)
    blended = ["--baseline", "emt", "--sigma-baseline", 0.2, "--log", "b.h5"]
    done = ase_uq("md", "c.pt", "start.xyz", *common, *blended, cwd=tmp_path)
    if name in WITHOUT_MEMBERS:
        assert done.returncode == 2
        assert "WeightedBaseline needs `energy_members`" in done.stderr
        done = ase_uq("reweight", "r.h5", "--observable", "r", cwd=tmp_path)
        assert (done.returncode, "has no `energy_members`" in done.stderr) == (2, True)
    else:
        assert done.returncode == 0, done.stderr


def test_what_a_model_does_not_take_is_named(tmp_path):
    save(MODELS["memberless"](), tmp_path / "m.pt")
    with pytest.raises(InputError, match="`device` must be left out for a WidthPerAtom"):
        load(tmp_path / "m.pt", device="cpu")
    write(tmp_path / "valid.xyz", emt_frames(12))
    done = ase_uq("calibrate", "m.pt", "valid.xyz", "--llpr", "valid.xyz", cwd=tmp_path)
    assert done.returncode == 2
    assert "`--llpr` needs a model that holds a potential" in done.stderr


def test_a_model_that_cannot_be_calibrated_says_so():
    class Fixed:
        def predict(self, atoms, properties):
            return WidthPerAtom(WIDTHS).predict(atoms)

    fitted = residuals(Fixed(), labelled(16, seed=3)).factors()
    with pytest.raises(InputError, match=r"`model` must have `calibrated\(alpha, calibration, ...\)`, Fixed has none"):
        with_factors(Fixed(), fitted)


class Unwritable(WidthPerAtom):
    extra: object = object()

    def state(self):
        return {**super().state(), **self.extra}


@pytest.mark.parametrize(
    ("extra", "words"),
    [({"thing": object()}, "must have a state of tensors and of what JSON can hold"), ({"a/b": 1}, "no slash")],
)
def test_a_state_that_no_file_can_hold(monkeypatch, tmp_path, extra, words):
    monkeypatch.setattr(checkpoint, "STORABLE", (*checkpoint.STORABLE, Unwritable))
    model = Unwritable(WIDTHS)
    model.extra = extra
    with pytest.raises(InputError, match=words):
        save(model, tmp_path / "m.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "must have a variance of energy, forces or stress, this one has none"),
        ({"energy_var_aleatoric": -1.0}, "energy_var_aleatoric must not be negative"),
        ({"forces_var_epistemic": np.full((4, 3), np.nan)}, "forces_var_epistemic must be finite"),
        ({"forces_var_aleatoric": np.ones(4)}, r"forces_var must have shape \(4, 3\), got \(4,\)"),
        ({"energy_var_epistemic": 1.0, "mean_share": 0.2}, "mean_share must be None without energy_members"),
    ],
)
def test_a_model_that_is_none_is_told_why(given, words):
    class Wrong:
        def predict(self, atoms, properties):
            known = WidthPerAtom(WIDTHS).predict(atoms)
            return Prediction(known.energy, known.forces, known.stress, **given)

    with pytest.raises(AssertionError, match=words):
        assert_uncertainty_model(Wrong(), copper())
