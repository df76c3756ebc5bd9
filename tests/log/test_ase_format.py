"""Logs as ASE reads them."""

import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import ase.io.formats
import h5py
import numpy as np
import pytest
from ase.io import read, write
from ase.io.formats import UnknownFileTypeError, filetype

from ase_uq.errors import InputError
from ase_uq.log.reader import read_log
from tests.made.logged_runs import distance, oscillator, record

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _registered():
    """As after an installation, whether or not the installed package already has the entry point."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ((name, value),) = groups["ase.ioformats"].items()
    if name not in ase.io.formats.ioformats:
        ase.io.formats.define_external_io_format(EntryPoint(name, value, "ase.ioformats"))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("ase") / "run.h5"
    atoms, dyn = oscillator()
    store = ("positions", "forces", "forces_var")
    record(path, atoms, dyn, 30, observables={"d": (distance, "Å")}, store=store)
    return path


def test_structures_with_results(log):
    run, frames = read_log(log), read(f"{log}@:")
    assert len(frames) == run.n_frames == 31
    for i, frame in enumerate(frames):
        assert frame.get_potential_energy() == run.energy[i]
        np.testing.assert_array_equal(frame.get_forces(), run.forces[i])
        np.testing.assert_array_equal(frame.arrays["forces_var"], run.forces_var[i])
        assert frame.info["energy_var"] == run.energy_var[i]
        assert (frame.info["step"], frame.info["time_fs"]) == (i, run.time_fs[i])
        assert frame.get_distance(0, 1) == pytest.approx(frame.info["d"], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "steps"), [("-1", [30]), ("5", [5]), ("::-7", [30, 23, 16, 9, 2]), ("4:7", [4, 5, 6])]
)
def test_any_index(log, text, steps):
    found = read(f"{log}@{text}")
    assert [each.info["step"] for each in (found if isinstance(found, list) else [found])] == steps


def test_damage_is_told(log, tmp_path, caplog):
    damaged = tmp_path / "run.h5"
    shutil.copy(log, damaged)
    with h5py.File(damaged, "r+") as file:
        file["energy"][7] = 0.0
    assert [each.info["step"] for each in read(f"{damaged}@5:9")] == [5, 6, 8, 9]
    assert "frames 7 of 31 are damaged in `energy`" in caplog.text
    with h5py.File(damaged, "r+") as file:
        file["energy"][:] = 0.0
    with pytest.raises(InputError, match="at least one complete frame, got none: frames 0 to 30 of 31 are damaged"):
        read(f"{damaged}@:")


def test_structures_go_to_other_formats(log, tmp_path):
    write(tmp_path / "run.xyz", read(f"{log}@:3"))
    assert read(tmp_path / "run.xyz@2").info["energy_var"] == read_log(log).energy_var[2]


def test_without_positions_it_is_said_in_one_sentence(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 3)
    with pytest.raises(InputError, match="`positions` must be in the log to compute observables from it, .* has none"):
        read(tmp_path / "run.h5")


def test_files_of_others_are_left_to_them(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1, 2, 3]
    with pytest.raises(UnknownFileTypeError):
        read(tmp_path / "other.h5")
    assert "h5" not in ase.io.formats.extension2format


def test_logs_of_earlier_versions_are_recognised():
    assert filetype(str(ROOT / "tests" / "earlier" / "run.h5")) == "ase-uq"


def test_what_ase_loads_at_import_is_light():
    script = "import sys, ase_uq.log.ase_entry; print(sorted({'torch', 'h5py', 'ase.calculators'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]
