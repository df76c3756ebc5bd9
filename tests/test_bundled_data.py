"""The bundled ammonia labels: complete, small, and forces that are the gradient of the energies."""

from importlib.resources import as_file, files

import numpy as np
import pytest
from ase import units
from ase.io import read
from scipy.interpolate import CubicSpline

FRAMES = {
    "start.xyz": {"equilibrium": 1},
    "train.xyz": {"md_300K": 70, "md_600K": 70},
    "valid.xyz": {"md_300K": 30, "md_600K": 30},
    "test_inversion.xyz": {"inversion_path": 25, "inversion_300K": 30},
    "test_hot.xyz": {"md_1500K": 30, "md_2000K": 30},
}


@pytest.fixture(scope="module")
def ammonia():
    with as_file(files("ase_uq") / "data" / "ammonia") as folder:
        return {name: read(folder / name, index=":") for name in FRAMES}


@pytest.fixture(scope="module")
def path(ammonia):
    return [atoms for atoms in ammonia["test_inversion.xyz"] if atoms.info["config_type"] == "inversion_path"]


def energies(frames):
    return np.array([atoms.info["REF_energy"] for atoms in frames])


def relative_volume(atoms, equilibrium):
    """|(a x b) . c| of the three bonds, 1 at equilibrium and 0 in the plane."""

    def volume(frame):
        return abs(np.linalg.det(frame.positions[1:] - frame.positions[0]))

    return volume(atoms) / volume(equilibrium)


def test_the_folder_is_small_and_says_what_it_is():
    with as_file(files("ase_uq") / "data" / "ammonia") as folder:
        content = [item for item in folder.iterdir() if item.is_file()]
    assert sum(item.stat().st_size for item in content) < 500_000
    assert {*FRAMES, "README.md", "make_ammonia.py"} <= {item.name for item in content}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_is_labelled(ammonia, name):
    counts = {}
    for atoms in ammonia[name]:
        kind = atoms.info["config_type"]
        counts[kind] = counts.get(kind, 0) + 1
        assert atoms.calc is None
        assert atoms.get_chemical_formula() == "H3N"
        assert list(atoms.symbols) == ["N", "H", "H", "H"]
        assert not atoms.pbc.any()
        assert np.isfinite(atoms.info["REF_energy"])
        assert np.isfinite(atoms.arrays["REF_forces"]).all()
    assert counts == FRAMES[name]


@pytest.mark.parametrize("name", FRAMES)
def test_forces_neither_push_nor_turn_the_molecule(ammonia, name):
    for atoms in ammonia[name]:
        forces = atoms.arrays["REF_forces"]
        assert np.abs(forces.sum(axis=0)).max() < 1e-6
        assert np.abs(np.cross(atoms.positions, forces).sum(axis=0)).max() < 1e-4


def test_work_along_the_umbrella_is_the_energy(path):
    s = np.linspace(0.0, 1.0, len(path))
    positions = np.array([atoms.positions for atoms in path])
    forces = np.array([atoms.arrays["REF_forces"] for atoms in path])
    slope = -(forces * CubicSpline(s, positions)(s, 1)).sum(axis=(1, 2))
    work = CubicSpline(s, slope).antiderivative()(s)
    rise = energies(path) - energies(path)[0]
    assert np.ptp(rise) > 0.2
    assert np.abs(work - rise).max() < 2e-5


def test_the_two_sides_of_the_umbrella_are_mirror_images(path):
    assert energies(path) == pytest.approx(energies(path[::-1]), abs=1e-6)
    largest = [np.abs(atoms.arrays["REF_forces"]).max() for atoms in path]
    assert largest == pytest.approx(largest[::-1], abs=5e-4)


def test_the_barrier_is_the_one_of_the_readme(ammonia, path):
    start = ammonia["start.xyz"][0]
    plane = path[len(path) // 2]
    assert relative_volume(plane, start) < 1e-6
    barrier = plane.info["REF_energy"] - start.info["REF_energy"]
    assert barrier == pytest.approx(0.2085, abs=1e-4)
    # Coupled cluster extrapolated to the complete basis gives 1834 cm^-1 without zero-point motion.
    assert barrier / units.invcm == pytest.approx(1834.0, rel=0.1)


def test_start_is_the_minimum(ammonia):
    start = ammonia["start.xyz"][0]
    assert np.abs(start.arrays["REF_forces"]).max() < 1e-3
    assert all(energies(frames).min() >= start.info["REF_energy"] for frames in ammonia.values())


def test_inversion_is_out_of_the_domain_of_training(ammonia):
    start = ammonia["start.xyz"][0]
    near = [relative_volume(atoms, start) for name in ("train.xyz", "valid.xyz") for atoms in ammonia[name]]
    across = np.array([relative_volume(atoms, start) for atoms in ammonia["test_inversion.xyz"]])
    assert min(near) > 0.6
    assert (across < 0.4).sum() >= 15


def test_energies_rise_with_temperature_as_equipartition_says(ammonia):
    floor = ammonia["start.xyz"][0].info["REF_energy"]
    for name in ("train.xyz", "valid.xyz", "test_hot.xyz"):
        for kind in FRAMES[name]:
            frames = [atoms for atoms in ammonia[name] if atoms.info["config_type"] == kind]
            temperature_K = float(kind.removeprefix("md_").removesuffix("K"))
            # Six vibrations hold kT/2 each in a harmonic potential; sampling error and anharmonicity are below half.
            harmonic = 3.0 * units.kB * temperature_K
            assert (energies(frames) - floor).mean() == pytest.approx(harmonic, rel=0.4)


def test_no_frame_is_in_two_files(ammonia):
    seen = [round(energy, 9) for name in ammonia if name != "start.xyz" for energy in energies(ammonia[name])]
    # The two sides of the path coincide by symmetry, to rounding.
    assert len(seen) - len(set(seen)) <= 12


def test_frames_are_independent_draws(ammonia):
    for name in ("train.xyz", "valid.xyz", "test_hot.xyz"):
        for kind in FRAMES[name]:
            bonds = np.array(
                [
                    np.linalg.norm(atoms.positions[1:] - atoms.positions[0], axis=1)
                    for atoms in ammonia[name]
                    if atoms.info["config_type"] == kind
                ]
            )
            centred = bonds - bonds.mean(axis=0)
            neighbours = (centred[1:] * centred[:-1]).sum() / (centred**2).sum()
            assert abs(neighbours) < 4.0 / np.sqrt(bonds.size)
