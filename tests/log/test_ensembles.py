"""The ensemble of a run is that of its dynamics, and what depends on it knows it."""

import json
import logging

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.md.andersen import Andersen
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.melchionna import MelchionnaNPT
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, MaskedMTKNPT, NoseHooverChainNVT
from ase.md.nptberendsen import Inhomogeneous_NPTBerendsen, NPTBerendsen
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.verlet import VelocityVerlet
from typer.testing import CliRunner

from ase_uq import CommitteeUncertainty, OnlineReweighter, UQCalculator, read_log, reweight_log
from ase_uq.averages.run_checks import run_gates
from ase_uq.cli import app
from ase_uq.errors import InputError
from ase_uq.log.ensembles import ensemble_of
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.observables import parse_observables, pressure, pressure_gpa

P, DT, TEMPERATURE = 0.3 * units.GPa, 2 * units.fs, {"temperature_K": 60.0}
MTK = {**TEMPERATURE, "pressure_au": P, "tdamp": 100 * units.fs, "pdamp": 1000 * units.fs}
BERENDSEN = {**TEMPERATURE, "pressure_au": P, "compressibility_au": 0.3}
BAOAB = {"T_tau": 50 * units.fs, "rng": 0}
DYNAMICS = {
    "nve": [
        lambda a: VelocityVerlet(a, DT),
        lambda a: MelchionnaNPT(a, DT, **TEMPERATURE),
        lambda a: LangevinBAOAB(a, DT, rng=0),
        lambda a: type("Mine", (VelocityVerlet,), {})(a, DT),
    ],
    "nvt": [
        lambda a: Langevin(a, DT, friction=0.01, **TEMPERATURE),
        lambda a: type("Mine", (Langevin,), {})(a, DT, friction=0.01, **TEMPERATURE),
        lambda a: Andersen(a, DT, andersen_prob=0.01, **TEMPERATURE),
        lambda a: Bussi(a, DT, taut=100 * units.fs, **TEMPERATURE),
        lambda a: NVTBerendsen(a, DT, taut=100 * units.fs, **TEMPERATURE),
        lambda a: NoseHooverChainNVT(a, DT, tdamp=100 * units.fs, **TEMPERATURE),
        lambda a: MelchionnaNPT(a, DT, ttime=50 * units.fs, **TEMPERATURE),
        lambda a: LangevinBAOAB(a, DT, **TEMPERATURE, **BAOAB),
    ],
    "npt": [
        lambda a: NPTBerendsen(a, DT, **BERENDSEN),
        lambda a: Inhomogeneous_NPTBerendsen(a, DT, **BERENDSEN),
        lambda a: IsotropicMTKNPT(a, DT, **MTK),
        lambda a: MTKNPT(a, DT, **MTK),
        lambda a: MaskedMTKNPT(a, DT, mask=np.array([True, False, False]), **MTK),
        lambda a: MelchionnaNPT(a, DT, externalstress=P, ttime=50 * units.fs, pfactor=1e3, **TEMPERATURE),
        lambda a: LangevinBAOAB(a, DT, externalstress=-P, hydrostatic=True, **TEMPERATURE, **BAOAB),
        lambda a: LangevinBAOAB(a, DT, externalstress=np.diag([-P, -P, -P]), **TEMPERATURE, **BAOAB),
    ],
    "nph": [lambda a: LangevinBAOAB(a, DT, externalstress=-P, hydrostatic=True, rng=0)],
}
CASES = [(name, i) for name, kinds in DYNAMICS.items() for i in range(len(kinds))]


def argon():
    atoms = bulk("Ar", cubic=True)
    atoms.set_cell(np.triu(atoms.cell.array), scale_atoms=True)
    atoms.calc = UQCalculator(
        CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.01, rc=5.0, smooth=True) for s in (3.38, 3.4, 3.42)])
    )
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)) * np.sqrt(40 * units.kB * 60))
    return atoms


def record(path, atoms, dyn, steps=3, **options):
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=60.0, **options) as log:
        dyn.attach(log)
        dyn.run(steps)
    return read_log(path)


@pytest.mark.filterwarnings("ignore")  # ASE's own, about choices of these classes
@pytest.mark.parametrize(("name", "i"), CASES)
def test_every_kind_of_dynamics_is_logged_as_what_it_is(tmp_path, caplog, name, i):
    atoms = argon()
    dyn = DYNAMICS[name][i](atoms)
    run = record(tmp_path / "run.h5", atoms, dyn)
    assert run.attributes["ensemble"] == name
    pressed = name in ("npt", "nph")
    assert ("pressure_GPa" in run.attributes) == pressed
    if pressed:
        assert run.attributes["pressure_GPa"] == pytest.approx(0.3)
    assert not [r for r in caplog.records if "volume" in r.message or "samples" in r.message]
    assert [g.failed for g in run_gates(run) if g.name == "change of a fixed volume"] in ([], [False])


def test_dynamics_of_others_are_not_known():
    assert ensemble_of(None) == ("", None)
    assert ensemble_of(object()) == ("", None)


def test_a_volume_that_moves_under_nvt_is_called_out(tmp_path, caplog):
    atoms = argon()
    run = record(tmp_path / "run.h5", atoms, IsotropicMTKNPT(atoms, DT, **MTK), ensemble="nvt")
    assert "'nvt' was given, and IsotropicMTKNPT samples 'npt'" in caplog.text
    assert [r.levelno for r in caplog.records if "the volume moves" in r.message] == [logging.WARNING]
    assert any(g.failed and "the volume changes" in g.sentence for g in run_gates(run))


def biased_coin(atoms):
    return float(atoms.positions[0, 0])


def test_constant_energy_is_said_wherever_averages_are(tmp_path):
    atoms = argon()
    dyn, observables = VelocityVerlet(atoms, DT), {"x": biased_coin}
    online = OnlineReweighter(atoms, temperature_K=60.0, observables=observables)
    named = OnlineReweighter(atoms, temperature_K=60.0, observables=observables, dyn=dyn)
    for observer in (online, named):
        dyn.attach(observer)
    record(tmp_path / "run.h5", atoms, dyn, steps=100, observables=observables)
    of_log = reweight_log(tmp_path / "run.h5", ["x"])["x"]
    for result in (of_log, online.results()["x"], named.results()["x"]):
        assert any(g.failed and g.name == "run at constant energy" for g in result.gates)
        assert any("constant energy" in warning for warning in result.warnings)
    assert not any("constant energy" in w for w in online.results(numbers_only=True)["x"].warnings)
    call = ["reweight", str(tmp_path / "run.h5"), "--observable", "x", "--json"]
    warnings = json.loads(CliRunner().invoke(app, call).stdout)["warnings"]
    assert len(warnings) == len(set(warnings))
    assert any("constant energy" in warning for warning in warnings)


def test_a_thermostat_is_not_taken_for_constant_energy(tmp_path):
    atoms = argon()
    dyn = Langevin(atoms, DT, temperature_K=60.0, friction=0.01 / units.fs, fixcm=False, rng=np.random.default_rng(0))
    online = OnlineReweighter(atoms, temperature_K=60.0, observables={"x": biased_coin})
    dyn.attach(online)
    record(tmp_path / "run.h5", atoms, dyn, steps=300, observables={"x": biased_coin})
    for result in (online.results()["x"], reweight_log(tmp_path / "run.h5", ["x"])["x"]):
        assert not any(g.failed for g in result.gates if g.name == "run at constant energy")


def test_series_of_a_long_run_stay_short():
    atoms = Atoms("H")
    atoms.calc = UQCalculator(CommitteeUncertainty([Elastic(1.0), Elastic(1.1)]))
    atoms.get_forces()
    online = OnlineReweighter(atoms, temperature_K=60.0, observables={"x": biased_coin})
    for i in range(20_000):
        online._see(atoms.calc)
        assert len(online._run._rows) < 4096
        assert i or online._run._rows
    steps = online._run.run({}).step
    assert np.unique(np.diff(steps)).tolist() == [8]


class Elastic(Calculator):
    """k x^2/2 for every coordinate and K (V - V0)^2/2 for the volume."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k, stiffness=0.0):
        super().__init__()
        self.k, self.stiffness = k, stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x, volume = self.atoms.positions, self.atoms.get_volume() if self.atoms.cell.rank == 3 else 64.0
        energy = 0.5 * self.k * (x**2).sum() + 0.5 * self.stiffness * (volume - 64.0) ** 2
        self.results = {"energy": energy, "forces": -self.k * x}


KELVIN = 300.0
KT = units.kB * KELVIN
PRESSURE = 20.0 * units.GPa


def sampled(path, *, moves, n=6000, dyn=None, **options):
    """Frames drawn from the ensemble of `Elastic` members about k = 5, and at PRESSURE if the volume moves."""
    rng = np.random.default_rng(0)
    atoms = Atoms("H2", cell=[4, 4, 4], pbc=True)
    atoms.calc = UQCalculator(CommitteeUncertainty([Elastic(k, 0.01) for k in (4.9, 5.0, 5.1)]))
    mean, width = 64.0 - PRESSURE / 0.01, np.sqrt(KT / 0.01)
    with UncertaintyLogger(path, atoms, temperature_K=KELVIN, timestep_fs=1.0, dyn=dyn, **options) as log:
        for _ in range(n):
            edge = np.cbrt(mean + width * rng.normal()) if moves else 4.0
            atoms.set_cell([edge] * 3)
            atoms.positions = rng.normal(size=(2, 3)) * np.sqrt(KT / 5.0)
            atoms.get_forces()
            log()
            if dyn is not None:
                dyn.nsteps += 1


class Barostat:
    """What of an ASE barostat the log reads."""

    def __init__(self, pressure):
        self.pressure, self.nsteps, self.dt = pressure, 0, units.fs


NPTBarostat = type("NPTBerendsen", (Barostat,), {})


@pytest.mark.slow
def test_heat_capacity_at_constant_volume_and_pressure_in_closed_form(tmp_path):
    """Every quadratic term gives kB/2: six coordinates, and with a barostat the volume."""
    sampled(tmp_path / "nvt.h5", moves=False)
    found = reweight_log(tmp_path / "nvt.h5", ["heat_capacity"])["heat_capacity"]
    assert found.mean == pytest.approx(6 * units.kB / 2, rel=0.06)
    sampled(tmp_path / "npt.h5", moves=True, dyn=NPTBarostat(PRESSURE))
    found = reweight_log(tmp_path / "npt.h5", ["heat_capacity"])["heat_capacity"]
    assert found.mean == pytest.approx(7 * units.kB / 2, rel=0.06)
    for name, fixed in (("nvt", "volume"), ("npt", "pressure")):
        call = ["reweight", str(tmp_path / f"{name}.h5"), "--observable", "heat_capacity"]
        assert (
            f"of the whole cell at constant {fixed}, of the configuration alone" in CliRunner().invoke(app, call).stdout
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"moves": True, "ensemble": "npt"}, "needs the pressure it was held at"),
        ({"moves": True, "ensemble": "nvt"}, "needs the pressure it was held at"),
    ],
)
def test_heat_capacity_of_what_has_none_is_refused(tmp_path, options, sentence):
    sampled(tmp_path / "run.h5", n=40, **options)
    with pytest.raises(InputError, match=sentence):
        reweight_log(tmp_path / "run.h5", ["heat_capacity"])


def test_heat_capacity_at_constant_energy_is_called_out(tmp_path):
    sampled(tmp_path / "run.h5", n=40, moves=False, ensemble="nve")
    found = reweight_log(tmp_path / "run.h5", ["heat_capacity", "energy"])
    assert any("are not those of a heat bath" in warning for warning in found["heat_capacity"].warnings)
    assert not any("are not those of a heat bath" in warning for warning in found["energy"].warnings)


def test_pressure_in_gpa(tmp_path):
    atoms = argon()
    assert pressure_gpa(atoms) == pytest.approx(pressure(atoms) / units.GPa)
    function, unit = parse_observables(["pressure_GPa"], atoms)["pressure_GPa"]
    assert (unit, function(atoms)) == ("GPa", pressure_gpa(atoms))
    dyn = Langevin(atoms, DT, temperature_K=60.0, friction=0.01 / units.fs, fixcm=False)
    record(tmp_path / "run.h5", atoms, dyn, steps=60, observables={"p": (pressure, "eV/Å^3")})
    out = CliRunner().invoke(app, ["reweight", str(tmp_path / "run.h5"), "--observable", "p"]).stdout
    assert "GPa" in out
