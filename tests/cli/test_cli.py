"""The command line as a user meets it: results on stdout, one line on stderr, exit codes 0, 1 and 2."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.stress import voigt_6_to_full_3x3_stress

from ase_uq import CommitteeUncertainty, UncertaintyLogger, UQCalculator, load, read_log
from ase_uq.cli import main
from ase_uq.training.learning_curve import read_learning_curve
from tests.made.alloys import emt_frames
from tests.made.shell import ase_uq, good

TINY = ["--epochs", "3", "--members", "4", "--cutoff", "3.5", "--channels", "8", "--layers", "1", "--jobs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which a model was trained and calibrated, and a run was made."""
    path = tmp_path_factory.mktemp("cli")
    write(path / "train.xyz", emt_frames(24))
    write(path / "valid.xyz", emt_frames(30, seed=5))
    write(path / "start.xyz", bulk("Cu", cubic=True))
    good("train", "train.xyz", *TINY, "--out", "model.pt", cwd=path)
    good("calibrate", "model.pt", "valid.xyz", "--out", "calibrated.pt", cwd=path)
    good("md", "calibrated.pt", "start.xyz", "--temperature", 300, "--steps", 60, "--log", "run.h5",
         "--observable", "r=distance:0,1", "--baseline", "emt", "--sigma-baseline", 0.1, cwd=path)  # fmt: skip
    return path


def test_forces_get_a_factor_of_their_own_and_errors_are_as_large_as_expected(folder):
    fitted = load(folder / "calibrated.pt")
    assert fitted.alpha_forces not in (None, fitted.alpha)
    assert fitted.calibration["alpha_forces"] == fitted.alpha_forces
    assert fitted.calibration["forces"]["n_structures"] == 30
    assert fitted.calibration["centred"] == "composition"
    scores = json.loads(good("evaluate", "calibrated.pt", "valid.xyz", "--json", cwd=folder).stdout)
    assert (scores["alpha"], scores["alpha_forces"]) == (fitted.alpha, fitted.alpha_forces)
    for part in ("energy_centred", "forces"):
        assert scores[part]["coverage_68"] == pytest.approx(0.683, abs=0.15)
    atoms = read(folder / "valid.xyz", 0)
    both = [load(folder / name).predict(atoms) for name in ("model.pt", "calibrated.pt")]
    np.testing.assert_allclose(both[1].forces_var, fitted.alpha_forces**2 * both[0].forces_var, rtol=1e-9)
    # A member has the factor of its energy, so that its forces stay the gradient of it.
    deviations = [p.forces_members - p.forces for p in both]
    np.testing.assert_allclose(deviations[1], fitted.alpha * deviations[0], atol=1e-9)


def test_a_shallow_ensemble_goes_the_whole_way(folder):
    good("train", "train.xyz", *TINY[:-2], "--method", "shallow", "--out", "shallow.pt", cwd=folder)
    scores = json.loads(good("evaluate", "shallow.pt", "valid.xyz", "--json", cwd=folder).stdout)
    assert scores["forces"]["rmse"] > 0
    assert scores["forces"]["spearman"] is not None
    run = [
        "--temperature",
        300,
        "--steps",
        12,
        "--compile",
        "off",
        "--forces-var",
        "stochastic",
        "--every",
        4,
        "--overwrite",
    ]
    good("md", "shallow.pt", "start.xyz", *run, "--log", "shallow.h5", cwd=folder)
    log = read_log(folder / "shallow.h5")
    assert np.isfinite(log.force_std_max).sum() == 4
    assert np.isfinite(log.energy_var).all()


def test_blip_goes_the_whole_way(folder):
    good("train", "train.xyz", *TINY[:-2], "--method", "blip", "--kl-weight", 1e-3, "--out", "blip.pt", cwd=folder)
    good("train", "train.xyz", *TINY[:-2], "--method", "blip", "--from", "model.pt", "--out", "tuned.pt", cwd=folder)
    scores = json.loads(good("evaluate", "blip.pt", "valid.xyz", "--json", cwd=folder).stdout)
    assert scores["forces"]["spearman"] is not None
    good("calibrate", "blip.pt", "valid.xyz", "--out", "blip_calibrated.pt", cwd=folder)
    good("md", "blip_calibrated.pt", "start.xyz", "--temperature", 300, "--steps", 30, "--forces-var", "stochastic",
         "--observable", "r=distance:0,1", "--log", "blip.h5", cwd=folder)  # fmt: skip
    log = read_log(folder / "blip.h5")
    good("md", "blip.pt", "start.xyz", "--temperature", 300, "--steps", 2, "--log", "usual.h5", cwd=folder)
    assert read_log(folder / "usual.h5").attributes["forces_var"] == "stochastic"
    assert log.attributes["model"] == "VariationalEnsemble, 4 members drawn with seed 0"
    terms = load(folder / "blip.pt").training["parts"][0]["terms"]
    assert set(terms) == {"errors", "divergence", "divergence_around", "dropout", "dropout_around"}
    assert load(folder / "blip.pt").training["kl_weight"] == 1e-3
    assert log.energy_members.shape == (31, 4)
    assert np.isfinite(log.force_std_max).all()
    good("reweight", "blip.h5", "--observable", "r", cwd=folder)
    other = ["--method", "shallow", "--kl-weight", 1, "--out", "x.pt"]
    wrong = ase_uq("train", "train.xyz", *TINY[:-2], *other, cwd=folder)
    assert "`--kl-weight` is an option of --method blip, not of shallow" in wrong.stderr


def test_training_leaves_its_learning_curves_beside_the_model(folder):
    good("train", "train.xyz", *TINY[:-2], "--method", "shallow", "--out", "phases.pt", cwd=folder)
    for name, parts, epochs in (("model.pt", 4, 3), ("phases.pt", 1, 3)):
        rows = read_learning_curve(folder / f"{name}.curve.csv")
        assert len(rows) == parts
        assert min(len(found) for found in rows.values()) >= 1
        assert max(len(found) for found in rows.values()) == epochs
        assert all(row["valid_stress_rmse_eV_per_A3"] > 0 for found in rows.values() for row in found)
        assert (folder / f"{name}.curve.png").stat().st_size > 10_000


def test_what_is_noted_of_the_labels_when_training(folder):
    frames = read(folder / "train.xyz", ":8")
    for atoms in frames[::2]:
        atoms.info["REF_virial"] = -atoms.get_volume() * voigt_6_to_full_3x3_stress(atoms.info.pop("REF_stress"))
    for atoms in frames[1::4]:
        del atoms.info["REF_stress"]
    write(folder / "virials.xyz", frames)
    said = good("train", "virials.xyz", *TINY, "--members", 2, "--epochs", 1, "--out", "v.pt", cwd=folder).stderr
    assert "note: virials.xyz: stress = -`REF_virial` / volume (in 4 of 8 frames)." in said
    assert "note: virials.xyz: 6 of 8 periodic frames have a stress" in said
    assert re.search(r"member 1: epoch 1, validation [\d.]+ meV/Å, [\d.e+]+ meV/atom, [\d.]+ GPa", said)


def test_labels_that_do_not_belong_together_are_told_before_training(folder):
    frames = read(folder / "train.xyz", ":24")
    write(folder / "again.xyz", [*frames[20:], *emt_frames(3, seed=9)])
    once = ["--members", 2, "--epochs", 1, "--out", "told.pt", "--json"]
    done = good("train", "train.xyz", "--valid", "again.xyz", *TINY, *once, cwd=folder)
    assert "warning: 4 of 7 validation frames are also in training" in done.stderr
    assert [said for said in json.loads(done.stdout)["warnings"] if said.startswith("4 of 7")]
    for atoms in frames[::2]:
        atoms.info["REF_energy"] += 100.0
    write(folder / "zeros.xyz", frames)
    refused = ase_uq("train", "zeros.xyz", *TINY, "--out", "zeros.pt", cwd=folder)
    assert refused.returncode == 2
    assert "two zeros or methods in one set" in refused.stderr
    assert not list(folder.glob("zeros.pt*"))


def test_llpr_from_the_command_line(folder):
    good("calibrate", "model.pt", "valid.xyz", "--llpr", "train.xyz", "--out", "llpr.pt", cwd=folder)
    model = load(folder / "llpr.pt")
    assert model.training["method"] == "llpr"
    assert model.calibration["n_structures"] == 30
    # The mean is the first member of the committee it was made of.
    atoms = read(folder / "start.xyz")
    alone = load(folder / "model.pt").predict(atoms).energy_members[0]
    assert model.predict(atoms).energy == pytest.approx(alone, abs=1e-6)


def test_help_of_every_command_gives_units(tmp_path):
    listed = good("--help", cwd=tmp_path).stdout
    for command in ("demo", "train", "evaluate", "calibrate", "md", "reweight", "report"):
        assert command in listed
        assert "--json" in good(command, "--help", cwd=tmp_path).stdout
    assert re.search(r"fs", good("md", "--help", cwd=tmp_path).stdout)
    assert re.search(r"eV/Å", good("train", "--help", cwd=tmp_path).stdout)


def test_evaluate_prints_the_contract(folder):
    result = json.loads(good("evaluate", "calibrated.pt", "valid.xyz", "--json", "--plot", "e.png", cwd=folder).stdout)
    assert (result["n_structures"], result["n_atoms"]) == (30, 120)
    for part in ("energy", "forces"):
        names = ("mae", "rmse", "nll", "coverage_68", "coverage_95", "miscalibration_area", "spearman", "crps")
        for name in (*names, "within_1_sigma", "within_1.96_sigma"):
            assert isinstance(result[part][name], float), (part, name)
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")
    table = good("evaluate", "calibrated.pt", "valid.xyz", cwd=folder).stdout
    assert f"{1e3 * result['forces']['rmse']:.2f} meV/Å" in table
    assert f"{1e3 * result['energy']['mae']:.2f} meV/atom" in table
    # What is compared with nothing tells nothing.
    assert {"model", "constant", "a + b |F|"} == set(result["widths"]["forces"])
    for name, width in result["widths"]["forces"].items():
        assert f"forces: {name}" in table
        assert f"{1e3 * width['crps']:.2f}" in table
    for words in ("one sigma", "intervals", "zero by symmetry"):
        assert words in table


def test_evaluate_agrees_with_the_model_in_python(folder):
    result = json.loads(good("evaluate", "model.pt", "valid.xyz", "--json", cwd=folder).stdout)
    model = load(folder / "model.pt")
    errors = []
    for atoms in read(folder / "valid.xyz", ":"):
        errors.append((model.predict(atoms).energy - atoms.info["REF_energy"]) / len(atoms))
    assert result["energy"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_calibration_travels_in_the_file(folder):
    raw, calibrated = load(folder / "model.pt"), load(folder / "calibrated.pt")
    assert raw.calibration is None
    assert calibrated.alpha != 1.0
    assert calibrated.calibration["n_structures"] == 30
    assert calibrated.calibration["data"] == "valid.xyz"
    again = json.loads(
        good("calibrate", "calibrated.pt", "valid.xyz", "--out", "again.pt", "--json", cwd=folder).stdout
    )
    assert again["alpha"] == pytest.approx(calibrated.alpha, rel=1e-6)


def test_md_takes_vectors(folder):
    common = ["calibrated.pt", "start.xyz", "--temperature", 300, "--steps", 30, "--log", "vector.h5"]
    observables = ["--observable", "rdf:Cu-Cu,1.8,12", "--observable", "angles:Cu-Cu-Cu,1.8", "--observable", "density"]
    result = json.loads(good("md", *common, *observables, "--json", cwd=folder).stdout)
    assert len(result["averages"]["rdf:Cu-Cu,1.8,12"]["mean"]) == 12
    assert result["averages"]["density"]["mean"] == pytest.approx(8.9, abs=0.5)
    run = read_log(folder / "vector.h5")
    assert run.observables["rdf:Cu-Cu,1.8,12"].shape == (31, 12)
    assert run.axes["rdf:Cu-Cu,1.8,12"].unit == "Å"
    good("md", *common[:5], 40, *common[6:], *observables, "--restart", cwd=folder)
    assert read_log(folder / "vector.h5").n_frames == 41
    text = good("reweight", "vector.h5", "--observable", "rdf:Cu-Cu,1.8,12", cwd=folder).stdout
    assert len(re.findall(r"\(model\)$", text, re.MULTILINE)) == 12
    good("report", "vector.h5", "--out", "vector.html", cwd=folder)


def test_reweight_prints_the_contract(folder):
    result = json.loads(good("reweight", "run.h5", "--observable", "r", "--json", cwd=folder).stdout)
    assert set(result) == {
        "observable", "method", "mean", "std_sampling", "std_model", "std_total", "ess", "n_frames", "warnings",
    }  # fmt: skip
    assert result["n_frames"] == 61
    assert result["std_total"] == pytest.approx(np.hypot(result["std_sampling"], result["std_model"]))
    text = good("reweight", "run.h5", "--observable", "r", cwd=folder).stdout
    assert re.search(r"^r = .* \(sampling\) ± .* \(model\) Å$", text, re.MULTILINE)
    # A gate that fails comes before the number.
    assert text.index("warning:") < text.index("r = ")


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    """A log with stored positions, of a crystal large enough for a g(r)."""
    path = tmp_path_factory.mktemp("crystal")
    atoms = bulk("Ar", cubic=True).repeat(2)
    members = [LennardJones(sigma=s, epsilon=0.0104, rc=5.2, smooth=True) for s in (3.38, 3.40, 3.42, 3.43)]
    atoms.calc = UQCalculator(CommitteeUncertainty(members))
    atoms.set_momenta(0.8 * np.random.default_rng(0).standard_normal((32, 3)))
    observables = {"r": (lambda a: a.get_distance(0, 1, mic=True), "Å")}
    options = {"temperature_K": 80.0, "observables": observables, "store": ("positions",)}
    for name in ("run.h5", "again.h5"):
        dyn = VelocityVerlet(atoms, 4 * units.fs)
        with UncertaintyLogger(path / name, atoms, dyn=dyn, **options) as log:
            dyn.attach(log)
            dyn.run(60)
    return path


def test_reweight_computes_a_radial_distribution(crystal):
    arguments = ["reweight", "run.h5", "--observable", "rdf:Ar-Ar,5,25"]
    result = json.loads(good(*arguments, "--plot", "rdf.png", "--json", cwd=crystal).stdout)
    assert result["observable"] == "rdf:Ar-Ar,5,25"
    assert {len(result[key]) for key in ("mean", "std_sampling", "std_model", "ess")} == {25}
    centres = np.array(result["axis"]["centres"])
    assert (result["axis"]["name"], result["axis"]["unit"]) == ("r", "Å")
    assert centres[np.argmax(result["mean"])] == pytest.approx(5.26 / np.sqrt(2), abs=0.3)
    assert (crystal / "rdf.png").read_bytes().startswith(b"\x89PNG")
    text = good(*arguments, cwd=crystal).stdout
    assert len(re.findall(r"^ +\d\.\d+ .*\(model\)$", text, re.MULTILINE)) == 25


def test_reweight_finds_free_energies_energies_and_heat_capacities(crystal):
    result = json.loads(
        good("reweight", "run.h5", "--observable", "r", "--free-energy", 6, "--json", cwd=crystal).stdout
    )
    assert result["unit"] == "eV"
    assert min(result["mean"]) == 0.0
    energy = json.loads(good("reweight", "run.h5", "--observable", "energy", "--json", cwd=crystal).stdout)
    assert energy["std_model"] > 0
    capacity = json.loads(good("reweight", "run.h5", "--observable", "heat_capacity", "--json", cwd=crystal).stdout)
    assert capacity["mean"] > 0
    both = json.loads(
        good("reweight", "run.h5", "again.h5", "--observable", "r=distance:0,1", "--json", cwd=crystal).stdout
    )
    assert both["n_frames"] == 122
    free = good("reweight", "run.h5", "again.h5", "--observable", "r", "--free-energy", 5, cwd=crystal).stdout
    assert "122 frames" in free
    assert "method gap" in free
    assert "method cea" in good(
        "reweight", "run.h5", "--observable", "r", "--free-energy", 5, "--method", "cea", cwd=crystal
    ).stdout  # fmt: skip


def test_report_draws_a_radial_distribution(crystal):
    told = json.loads(
        good("report", "run.h5", "--observable", "rdf:Ar-Ar,5,25", "--out", "report.html", "--json", cwd=crystal).stdout
    )
    assert told["report"] == "report.html"
    assert set(told["averages"]) == {"r", "rdf:Ar-Ar,5,25"}
    # The same words as `reweight` has for a result.
    alone = json.loads(good("reweight", "run.h5", "--observable", "r", "--json", cwd=crystal).stdout)
    assert told["averages"]["r"].keys() == alone.keys() - {"observable"}
    assert told["averages"]["r"]["mean"] == pytest.approx(alone["mean"])
    page = (crystal / "report.html").read_text()
    assert "profile-1" in page
    assert "Checks of this average" in page


def test_report_is_written(folder):
    good("report", "run.h5", "--out", "report.html", cwd=folder)
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "(model)" in page


@pytest.mark.parametrize(
    ("command", "lost"),
    [
        ("md kept.pt kept.xyz --temperature 300 --steps 5 --overwrite --log kept.pt", "kept.pt"),
        ("md kept.pt kept.xyz --temperature 300 --steps 5 --overwrite --log ./link.xyz", "kept.xyz"),
        ("rerun kept.pt kept.xyz --temperature 300 --overwrite --out kept.pt", "kept.pt"),
        ("rerun kept.pt kept.xyz --temperature 300 --overwrite --out hard.xyz", "kept.xyz"),
        ("report kept.h5 --out kept.h5", "kept.h5"),
        ("report kept.h5 --out kept.xyz", "kept.xyz"),
        ("evaluate kept.pt kept.png --plot kept.png", "kept.png"),
        ("reweight kept.h5 kept.svg --observable r --plot kept.svg", "kept.svg"),
    ],
)
def test_no_command_writes_over_what_it_reads(folder, tmp_path, command, lost):
    for name, source in {
        "pt": "model.pt",
        "xyz": "train.xyz",
        "h5": "run.h5",
        "png": "valid.xyz",
        "svg": "run.h5",
    }.items():
        shutil.copy(folder / source, tmp_path / f"kept.{name}")
    (tmp_path / "link.xyz").symlink_to("kept.xyz")
    (tmp_path / "hard.xyz").hardlink_to(tmp_path / "kept.xyz")
    before = (tmp_path / lost).read_bytes()
    done = ase_uq(*command.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert re.search("is also read here, and must stay|is no HTML page", done.stderr)
    assert (tmp_path / lost).read_bytes() == before


def test_a_name_that_the_terminal_cannot_show(folder, tmp_path, monkeypatch):
    name = os.fsdecode(b"\xff.html")
    shown = [io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "argv", ["ase-uq", "report", str(folder / "run.h5"), "--out", str(tmp_path / name)])
    with contextlib.redirect_stdout(shown[0]), contextlib.redirect_stderr(shown[1]):
        main()
    assert (tmp_path / name).is_file()
    shown[1].flush()
    assert b"udcff.html" in shown[1].buffer.getvalue()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("evaluate", "model.pt", "valid.xyz"), "ase_uq.models.checkpoint.load"),
        (("report", "run.h5", "--out", "ended.html"), "ase_uq.report.write_report"),
        (
            ("rerun", "model.pt", "valid.xyz", "--temperature", 300, "--out", "ended.h5"),
            "ase_uq.models.checkpoint.load",
        ),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_a_signal_to_end_is_one_line_in_every_command(folder, monkeypatch, words, place):
    def ended(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60.0)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(place, ended)
    try:
        done = ase_uq(*words, cwd=folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.returncode == 130
    assert re.fullmatch(r"ase-uq: interrupted.*\n", done.stderr)
    assert not list(folder.glob("ended*"))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("evaluate", "model.pt", "valid.xyz", "--plot", "refused.png"), "ase_uq.models.checkpoint.load"),
        (("report", "run.h5", "--out", "refused.html"), "ase_uq.report.write_report"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_a_folder_that_refuses_is_noticed_before_the_work(folder, monkeypatch, words, place):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("ase_uq.files.Path.touch", refuse)
    monkeypatch.setattr(place, lambda *_, **__: pytest.fail("the work has begun"))
    done = ase_uq(*words, cwd=folder)
    assert done.returncode == 2
    assert re.fullmatch(r"ase-uq: `refused.* cannot be written \(Permission denied\); .*\n", done.stderr)


def test_a_disk_that_refuses_is_one_line(folder, tmp_path, monkeypatch):
    def full(*names):
        raise OSError(errno.ENOSPC, "No space left on device", *names)

    monkeypatch.setattr("ase_uq.files.os.replace", full)
    done = ase_uq("report", folder / "run.h5", "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"ase-uq: `.*page.html.*part` could not be .*: No space left on device; .*\n", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["deleted", "replaced", "overwritten", "folder", "file"])
def test_a_log_that_is_taken_away_is_one_line(folder, tmp_path, monkeypatch, way):
    (tmp_path / "in").mkdir()
    log = tmp_path / "in" / "run.h5"

    def take(_):
        if log.is_file() and way in ("deleted", "replaced"):
            log.unlink()
        if way in ("replaced", "overwritten") and log.parent.is_dir():
            log.write_text("of another")
        if way in ("folder", "file") and log.parent.is_dir():
            shutil.rmtree(log.parent)
        if way == "file":
            log.parent.write_text("no folder")
        return ""

    arguments = ("--temperature", 300, "--steps", 60, "--forces-var", "off", "--log", "in/run.h5")
    with monkeypatch.context() as during:
        during.setattr("ase_uq.cli.md.describe", take)
        during.setattr(tempfile, "tempdir", str(tmp_path))
        done = ase_uq("md", folder / "model.pt", folder / "start.xyz", *arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    told = " ".join(done.stderr.split())
    kept = re.search(
        r"ase-uq: in/run.h5 was (?:deleted|replaced|overwritten).* are in (\S+); go on with that log by --restart", told
    )[1]
    good("md", folder / "model.pt", folder / "start.xyz", *arguments[:3], 80, *arguments[4:-1], kept, "--restart",
         cwd=tmp_path)  # fmt: skip
    assert read_log(kept).step[-1] == 80


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_queue_that_ends_a_run_is_told_how_to_go_on(folder, tmp_path, monkeypatch, name):
    monkeypatch.setattr("ase_uq.cli.md.describe", lambda _: os.kill(os.getpid(), getattr(signal, name)))
    arguments = ("--temperature", 300, "--steps", 60, "--forces-var", "off", "--log", "run.h5")
    done = ase_uq("md", folder / "model.pt", folder / "start.xyz", *arguments, cwd=tmp_path)
    assert done.returncode == 130
    assert re.search(
        r"interrupted after step \d+ of 60; the log is run.h5, go on from there with --restart", done.stderr
    )
    assert signal.getsignal(getattr(signal, name)) is signal.SIG_DFL


def test_md_restarts_where_it_stopped(folder):
    common = ["calibrated.pt", "start.xyz", "--temperature", 300, "--log"]
    good("md", *common, "whole.h5", "--steps", 30, cwd=folder)
    good("md", *common, "parts.h5", "--steps", 11, cwd=folder)
    result = json.loads(good("md", *common, "parts.h5", "--steps", 30, "--restart", "--json", cwd=folder).stdout)
    assert result["steps"] == 30
    whole, parts = read_log(folder / "whole.h5"), read_log(folder / "parts.h5")
    assert (whole.energy == parts.energy).all()
    assert parts.step.tolist() == list(range(31))


def test_training_resumes_and_fine_tunes(folder):
    state = folder / "resumed.pt.training"
    state.mkdir()
    refused = ase_uq("train", "train.xyz", *TINY, "--out", "resumed.pt", cwd=folder)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    good("train", "train.xyz", *TINY, "--out", "resumed.pt", "--resume", cwd=folder)
    assert not state.exists()
    good("train", "train.xyz", *TINY, "--out", "retuned.pt", "--from", "model.pt", cwd=folder)


# Command, and what its one line must say.
MISTAKES = [
    (["train", "train.xyz", "--members", 1], "`--members` must be at least 2"),
    (["train", "missing.xyz"], "missing.xyz"),
    (["train", "train.xyz", "--energy-key", "REF_enrgy"], "did you mean 'REF_energy'"),
    (["train", "train.xyz", "--method", "shallow", "--subsample", "0.5"],
     "`--subsample` is an option of --method deep"),
    (["md", "model.pt", "start.xyz", "--temperature", "300", "--steps", "2", "--log", "x.h5", "--compile", "yes"],
     "`--compile` must be one of off, auto, got 'yes'"),
    (["train", "train.xyz", "--method", "shallow", "--from", "model.pt"], "`--from` needs a ShallowEnsemble"),
    (["md", "model.pt", "start.xyz", "--temperature", "300", "--steps", "2", "--log", "x.h5", "--forces-var", "all"],
     "`--forces-var` must be one of exact, low_rank, stochastic, off, got 'all'"),
    (["train", "train.xyz", "--method", "blip", "--jobs", "1"], "`--jobs` is an option of --method deep, not of blip"),
    (["train", "train.xyz", "--kl-weight", "-1", "--method", "blip"], "`--kl-weight` must not be negative, got -1.0"),
    (["train", "train.xyz", "--channels", "0"], "`--channels` must be positive, got 0"),
    (["train", "train.xyz", "--out", "x.pt", "--l-max", "0", "--hidden-l-max", "1"],
     "`--hidden-l-max` must be between 0 and l_max"),
    (["train", "train.xyz", "--seed", "-1"], "`--seed` must not be negative, got -1"),
    (["train", "train.xyz", "--learning-rate", "nan"], "`--learning-rate` must be positive, got nan"),
    (["train", "train.xyz", "--out", "x.pt", "--from", "model.pt", "--members", "5"],
     "`--members` must be 4 as in the starting model"),
    (["train", "train.xyz", "--out", "nowhere/model.pt"], "does not exist"),
    (["train", "one.xyz"], "at least 2 frames, got 1"),
    (["train", "nan.xyz"], "must be finite"),
    (["train", "huge.xyz"], "exceeds `--max-force`"),
    (["train", "cell.xyz"], "periodic and empty"),
    (["train", "cut.xyz"], "could not be read"),
    (["train", "train.xyz", "--device", "cuda:7"], "cuda:7"),
    (["evaluate", "train.xyz", "train.xyz"], "could not be read as a model file"),
    (["evaluate", "cut.pt", "train.xyz"], "could not be read as a model file"),
    (["evaluate", "model.pt", "silver.xyz"], "got Ag"),
    (["calibrate", "two.pt", "valid.xyz", "--out", "x.pt"], "at least 4"),
    (["md", "model.pt", "silver.xyz", "--temperature", 300, "--steps", 2, "--log", "x.h5"], "got Ag"),
    (["md", "model.pt", "start.xyz", "--temperature", 300, "--steps", 2, "--log", "x.h5", "--baseline", "emt",
      "--sigma-baseline", 0], "`--sigma-baseline` must be a positive number"),
    (["md", "model.pt", "start.xyz", "--temperature", 300, "--steps", 2, "--log", "x.h5", "--baseline", "emt"],
     "exactly one of `--sigma-baseline`"),
    (["md", "model.pt", "start.xyz", "--temperature", 300, "--steps", 2, "--log", "x.h5", "--baseline", "dft"],
     "`--baseline` must be one of"),
    (["md", "model.pt", "start.xyz", "--temperature", 300, "--steps", 2, "--log", "x.h5", "--sigma-baseline", 1],
     "needs a baseline"),
    (["md", "model.pt", "start.xyz", "--temperature", 300, "--steps", 99, "--log", "run.h5", "--restart",
      "--observable", "r=distance:0,1"], "model"),
    (["md", "model.pt", "start.xyz", "--temperature", -3, "--steps", 2, "--log", "x.h5"],
     "`--temperature` must be positive, got -3"),
    (["reweight", "run.h5", "--observable", "q"], "has: r"),
    (["reweight", "run.h5", "--observable", "r", "--method", "gaps"], "gap"),
    (["reweight", "run.h5"], "`--observable` must be given"),
    (["reweight", "run.h5", "--observable", "r", "--free-energy", "5", "--skip", "1e9"], "within the run"),
    (["reweight", "run.h5", "--observable", "r", "--free-energy", "5", "--method", "nope"],
     "`--method` must be one of cea, direct, gap, got 'nope'"),
    (["reweight", "run.h5", "--observable", "r", "--bias", "energy"], "a logged number in eV"),
    (["reweight", "run.h5", "run.h5", "--observable", "r"], "given twice"),
    (["reweight", "run.h5", "--observable", "rdf:N-H"], "`positions` must be in the log"),
    (["reweight", "run.h5", "--observable", "r", "--plot", "r.png"], "draws a vector"),
    (["reweight", "run.h5", "--rdf", "N-H"], "`--rdf` is now --observable rdf:O-O"),
    (["reweight", "run.h5", "--observable", "r", "--plot", "r.jpg"], "`--plot` must end in .png, .svg or .pdf"),
    (["evaluate", "model.pt", "train.xyz", "--plot", "r.jpg"], "`--plot` must end in .png, .svg or .pdf"),
    (["reweight", "cut.h5", "--observable", "r"], "cut.h5"),
    (["report", "model.pt"], "model.pt"),
    (["report", "run.h5", "--out", "nowhere/r.html"], "does not exist"),
]  # fmt: skip


@pytest.fixture(scope="module")
def damaged(folder):
    """The same folder with files that are wrong in every way of the list."""
    frames = emt_frames(3)
    nan, huge = frames[0].copy(), frames[0].copy()
    nan.info["REF_energy"] = float("nan")
    huge.arrays["REF_forces"] = np.full((4, 3), 1e5)
    cell = Atoms("H", pbc=True, info={"REF_energy": 0.0})
    cell.arrays["REF_forces"] = np.zeros((1, 3))
    silver = emt_frames(2, elements=("Ag",))
    for name, content in {
        "one": frames[:1],
        "nan": [nan, nan],
        "huge": [huge, huge],
        "cell": cell,
        "silver": silver,
    }.items():
        write(folder / f"{name}.xyz", content)
    for source, target, keep in (
        ("train.xyz", "cut.xyz", 0.49),
        ("model.pt", "cut.pt", 0.5),
        ("run.h5", "cut.h5", 0.02),
    ):
        content = (folder / source).read_bytes()
        (folder / target).write_bytes(content[: int(keep * len(content))])
    if not (folder / "two.pt").exists():
        good("train", "train.xyz", *TINY, "--members", 2, "--epochs", 1, "--out", "two.pt", cwd=folder)
    return folder


@pytest.mark.parametrize(("arguments", "rule"), MISTAKES, ids=lambda value: "-".join(map(str, value))[:60])
def test_a_mistake_is_one_line_and_exit_code_2(damaged, arguments, rule):
    before = {path.name: path.stat().st_mtime_ns for path in damaged.iterdir()}
    done = ase_uq(*arguments, cwd=damaged)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ase-uq: ")
    assert rule in line
    # Nothing new under any final name, and nothing changed.
    after = {path.name: path.stat().st_mtime_ns for path in damaged.iterdir()}
    assert {name: time for name, time in after.items() if before.get(name) != time} == {}


def test_bad_usage_is_exit_code_2(tmp_path):
    done = ase_uq("md", "--steps", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "words"),
    [("method", ("deep", "shallow", "blip")), ("potential", ("equivariant",)), ("schedule", ("cosine", "plateau"))],
)
def test_a_word_that_is_no_choice_is_told_the_choices(tmp_path, option, words):
    done = ase_uq("train", "train.xyz", f"--{option}", "magic", cwd=tmp_path)
    assert done.returncode == 2
    told = done.stderr[done.stderr.index(f"--{option}") :]
    assert "magic" in told
    for word in words:
        assert word in told


def test_help_of_training_has_the_options_of_every_method_and_says_whose_they_are(tmp_path):
    text = " ".join(good("train", "--help", cwd=tmp_path).stdout.split())
    for flag, said in (
        ("--method", "deep (independent members)"),
        ("--members", "[deep 4, shallow 8, blip 16]"),
        ("--subsample", "deep: part of the data each member sees, without replacement [1.0]"),
        ("--kl-weight", "[by the score of the draws]"),
        ("--cutoff", "Neighbour cut-off, Å [5.0]"),
        ("--epochs", "[200; with --minutes, no limit]"),
        ("--learning-rate", "[0.01; 0.001 with --from]"),
        ("--device", "cpu, cuda, cuda:0"),
    ):
        assert said in text[text.index(f" {flag} ") :], flag
    for hidden in ("--ema", "--clip", "--amsgrad", "--patience"):
        assert hidden not in text


def test_the_installed_command_leaves_with_the_same_codes(folder):
    command = [sys.executable, "-m", "ase_uq", "reweight", "run.h5", "--observable"]
    good, bad = (subprocess.run([*command, name], cwd=folder, capture_output=True, text=True) for name in ("r", "q"))
    assert (good.returncode, bad.returncode) == (0, 2)
    assert bad.stderr.startswith("ase-uq: ")
    assert bad.stdout == ""


def test_importing_the_package_or_asking_for_help_does_not_import_torch():
    script = "import sys, ase_uq, ase_uq.cli; print('torch' in sys.modules, hasattr(ase_uq, 'UQCalculator'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    script = """
import sys
import tempfile
from unittest import mock
from ase_uq.cli import main
for arguments in (["--help"], ["train", "--help"], ["train", "x.xyz", "--method", "magic"]):
    with mock.patch.object(sys, "argv", ["ase-uq", *arguments]):
        try:
            main()
        except SystemExit:
            pass
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_messages_of_other_modules_name_options_of_the_shell(damaged):
    """They are written once, for Python, which has no dashes."""
    told = {
        "`--energy-key`": ase_uq("train", "train.xyz", "--energy-key", "REF_enrgy", cwd=damaged),
        "`--free-energy` must be at least 2, got 1": ase_uq(
            "reweight", "run.h5", "--observable", "r", "--free-energy", 1, cwd=damaged
        ),
    }
    for words, done in told.items():
        assert words in done.stderr
        assert "energy_key" not in done.stderr


def test_a_run_that_explodes_is_one_line_and_its_averages_say_so(folder):
    run = ["md", "model.pt", "start.xyz", "--temperature", 300, "--timestep", 200, "--observable", "r=distance:0,1"]
    done = ase_uq(*run, "--steps", 30, "--log", "exploded.h5", cwd=folder)
    assert done.returncode == 1
    assert re.fullmatch(r"ase-uq: the run exploded: at step \d+ .*`--timestep`.*`--explosion-limit`\.\n", done.stderr)
    again = ase_uq(*run, "--steps", 60, "--log", "exploded.h5", "--restart", cwd=folder)
    assert again.returncode == 2
    assert "`--restart` needs a run that is sound" in again.stderr
    assert "--explosion-limit 0" in again.stderr
    # Who lets it go on is told wherever there is an average.
    whole = [*run, "--steps", 40, "--log", "whole.h5", "--explosion-limit", 0]
    told = json.loads(good(*whole, "--overwrite", "--json", cwd=folder).stdout)["averages"]["r"]["warnings"]
    later = json.loads(good("reweight", "whole.h5", "--observable", "r", "--json", cwd=folder).stdout)["warnings"]
    assert all(any(each.startswith("the run exploded: ") for each in warnings) for warnings in (told, later))
    done = good("reweight", "whole.h5", "--observable", "r", cwd=folder)
    assert "the run exploded: " in done.stdout + done.stderr
    good("report", "whole.h5", "--out", "exploded.html", cwd=folder)
    assert "he run exploded: " in (folder / "exploded.html").read_text()
