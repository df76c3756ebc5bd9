"""Make the ammonia data set: geometries from GFN2-xTB dynamics, labels from PBE0/def2-TZVPD.

Needs the extras `xtb` and `reference`. Run it with one thread in each process::

    OMP_NUM_THREADS=1 python make_ammonia.py --out DIR --processes 2

=================  ==========================================================
symbol             variable
=================  ==========================================================
theta              `theta`, angle between a bond and the threefold axis; 90 degrees is planar
r(theta)           `r`, bond length along the path, from the pyramid's to the planar one
V                  `volume`, (r_1 - r_N) . (r_2 - r_N) x (r_3 - r_N), zero when planar, Å^3
V_0, k             `centre`, `stiffness` of the umbrella restraint k/2 (V - V_0)^2
=================  ==========================================================

References
----------
PBE0: Adamo and Barone, J. Chem. Phys. 110, 6158 (1999). def2-TZVPD: Rappoport and Furche, J. Chem. Phys. 133,
134105 (2010). PySCF: Sun et al., J. Chem. Phys. 153, 024109 (2020). GFN2-xTB: Bannwarth et al., J. Chem. Theory
Comput. 15, 1652 (2019).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.mixing import SumCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from numpy.typing import NDArray
from pyscf import dft, gto
from rich.progress import track
from tblite.ase import TBLite

Array = NDArray[np.float64]

FUNCTIONAL, BASIS = "pbe0", "def2-tzvpd"
SEED = 2011
TIMESTEP_FS, FRICTION_PER_FS = 0.5, 0.02
# A weakly damped vibration forgets itself as exp(-friction t / 2): to 2 % between frames that are 400 fs apart.
STRIDE, BURN_IN = 800, 1000
# A frame nearer to the plane than 60 % of the pyramid's volume is left out of train and valid, which keeps the
# inversion out of domain.
NEAR_PLANAR = 0.6
THETA_MAX = np.deg2rad(120.0)

logger = logging.getLogger("make_ammonia")


class Reference(Calculator):
    """PBE0/def2-TZVPD energy and forces of a closed-shell molecule, tight enough for finite differences."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE wants a list on the class)

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Run one self-consistent field, and its gradient where forces are asked for."""
        super().calculate(atoms, properties, system_changes)
        geometry = list(zip(self.atoms.get_chemical_symbols(), self.atoms.positions.tolist(), strict=True))
        field = dft.RKS(gto.M(atom=geometry, basis=BASIS, unit="Angstrom", verbose=0))
        field.xc = FUNCTIONAL
        field.grids.level = 4
        field.conv_tol, field.conv_tol_grad = 1e-11, 1e-7
        energy = field.kernel()
        if not field.converged:
            raise RuntimeError(f"the self-consistent field of {geometry} did not converge")
        self.results = {"energy": energy * units.Hartree}
        if "forces" not in properties:
            return
        gradient = field.nuc_grad_method()
        # The atom-centred grid moves with the atoms; without its response the forces do not sum to zero.
        gradient.grid_response = True
        self.results["forces"] = -gradient.kernel() * units.Hartree / units.Bohr


class UmbrellaRestraint(Calculator):
    """Harmonic restraint k/2 (V - V_0)^2 on the signed volume, to be summed with a potential."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE wants a list on the class)

    def __init__(self, *, centre: float, stiffness: float = 10.0) -> None:
        super().__init__()
        self.centre, self.stiffness = centre, stiffness

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Energy and forces of the restraint."""
        super().calculate(atoms, properties, system_changes)
        excess = volume(self.atoms.positions) - self.centre
        self.results = {
            "energy": 0.5 * self.stiffness * excess**2,
            "forces": -self.stiffness * excess * volume_gradient(self.atoms.positions),
        }


def volume(positions: Array) -> float:
    """Signed volume V of an N, H, H, H geometry, Å^3."""
    a, b, c = positions[1:] - positions[0]
    return float(a @ np.cross(b, c))


def volume_gradient(positions: Array) -> Array:
    """Gradient of V, (4, 3), Å^2."""
    a, b, c = positions[1:] - positions[0]
    hydrogens = np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    return np.vstack([-hydrogens.sum(axis=0), hydrogens])


def dynamics(
    start: Atoms,
    *,
    temperature_K: float,
    n_frames: int,
    rng: np.random.Generator,
    keep: Callable[[Atoms], bool] | None = None,
    restraint: UmbrellaRestraint | None = None,
) -> list[Atoms]:
    """Sample `n_frames` decorrelated geometries by Langevin dynamics on GFN2-xTB."""
    atoms = start.copy()
    potential = TBLite(method="GFN2-xTB", verbosity=0)
    atoms.calc = potential if restraint is None else SumCalculator([potential, restraint])
    widths = np.sqrt(units.kB * temperature_K * atoms.get_masses())[:, None]
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * widths)
    run = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=temperature_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    run.run(BURN_IN)
    frames: list[Atoms] = []
    while len(frames) < n_frames:
        run.run(STRIDE)
        if keep is None or keep(atoms):
            frames.append(bare(atoms))
    return frames


def bare(atoms: Atoms) -> Atoms:
    """Copy without velocities, centred on the origin, rounded to the digits that are written."""
    positions = atoms.positions - atoms.get_center_of_mass()
    return Atoms(atoms.symbols, positions=np.round(positions, 8))


def umbrella(*, r: float, theta: float) -> Atoms:
    """C3v geometry with bond length `r` (Å) and angle `theta` (radian) to the axis."""
    azimuth = np.arange(3) * 2.0 * np.pi / 3.0
    hydrogens = r * np.stack(
        [np.sin(theta) * np.cos(azimuth), np.sin(theta) * np.sin(azimuth), np.full(3, np.cos(theta))], axis=1
    )
    return bare(Atoms("NH3", positions=np.vstack([np.zeros(3), hydrogens])))


def relax(atoms: Atoms) -> Atoms:
    """Relax on the reference until no force component exceeds 0.1 meV/Å (a plane stays a plane by symmetry)."""
    atoms = atoms.copy()
    atoms.calc = Reference()
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=60)
    return bare(atoms)


def bond_and_angle(atoms: Atoms) -> tuple[float, float]:
    """Mean bond length (Å) and angle to the threefold axis (radian, below 90 degrees)."""
    bonds = atoms.positions[1:] - atoms.positions[0]
    lengths = np.linalg.norm(bonds, axis=1)
    axis = np.cross(bonds[1] - bonds[0], bonds[2] - bonds[0])
    cosine = np.abs(bonds @ axis) / (lengths * np.linalg.norm(axis))
    return float(lengths.mean()), float(np.arccos(cosine.mean()))


def inversion_path(*, pyramid: Atoms, plane: Atoms, n_frames: int) -> list[Atoms]:
    """Geometries without jitter from one pyramid through the plane to the other, evenly spaced in angle."""
    (r_pyramid, theta_pyramid), (r_plane, _) = bond_and_angle(pyramid), bond_and_angle(plane)
    theta = np.linspace(np.pi - THETA_MAX, THETA_MAX, n_frames)
    r = r_plane + (r_pyramid - r_plane) * (np.cos(theta) / np.cos(theta_pyramid)) ** 2
    return [umbrella(r=float(a), theta=float(b)) for a, b in zip(r, theta, strict=True)]


def geometries(*, pyramid: Atoms, plane: Atoms) -> dict[str, list[tuple[str, Atoms]]]:
    """All frames by file name, each with its `config_type`."""
    rng = np.random.default_rng(SEED)
    v_pyramid = volume(pyramid.positions)

    def pyramidal(atoms: Atoms) -> bool:
        return abs(volume(atoms.positions)) > NEAR_PLANAR * abs(v_pyramid)

    files: dict[str, list[tuple[str, Atoms]]] = {"start.xyz": [("equilibrium", pyramid)]}
    for name, n_frames in (("train.xyz", 70), ("valid.xyz", 30)):
        files[name] = [
            (f"md_{temperature}K", atoms)
            for temperature in (300, 600)
            for atoms in dynamics(pyramid, temperature_K=temperature, n_frames=n_frames, rng=rng, keep=pyramidal)
        ]
    path = inversion_path(pyramid=pyramid, plane=plane, n_frames=25)
    files["test_inversion.xyz"] = [("inversion_path", atoms) for atoms in path]
    for fraction in np.linspace(-0.75, 0.75, 10):
        restraint = UmbrellaRestraint(centre=float(fraction) * v_pyramid)
        frames = dynamics(pyramid, temperature_K=300, n_frames=3, rng=rng, restraint=restraint)
        files["test_inversion.xyz"] += [("inversion_300K", atoms) for atoms in frames]
    files["test_hot.xyz"] = [
        (f"md_{temperature}K", atoms)
        for temperature in (1500, 2000)
        for atoms in dynamics(pyramid, temperature_K=temperature, n_frames=30, rng=rng)
    ]
    return files


def label(frame: tuple[str, Atoms]) -> Atoms:
    """Attach `REF_energy` (eV), `REF_forces` (eV/Å) and `config_type` to (config_type, atoms)."""
    config_type, atoms = frame[0], frame[1].copy()
    reference = Reference()
    reference.calculate(atoms, properties=("energy", "forces"))
    atoms.info = {"config_type": config_type, "REF_energy": float(reference.results["energy"])}
    atoms.arrays["REF_forces"] = np.round(reference.results["forces"], 8)
    return atoms


def largest_finite_difference_error(atoms: Atoms, *, step: float = 2e-3) -> float:
    """Largest deviation of the forces from five-point differences of the energy, eV/Å."""
    forces = label(("check", atoms)).arrays["REF_forces"]

    def energy(shift: Array) -> float:
        reference = Reference()
        reference.calculate(Atoms(atoms.symbols, positions=atoms.positions + shift), properties=("energy",))
        return float(reference.results["energy"])

    worst = 0.0
    for i, j in np.ndindex(4, 3):
        d = np.zeros((4, 3))
        d[i, j] = step
        slope = (8.0 * (energy(d) - energy(-d)) - (energy(2 * d) - energy(-2 * d))) / (12.0 * step)
        worst = max(worst, abs(slope + float(forces[i, j])))
    return worst


def main() -> None:
    """Sample, label and write every file, then log the checks quoted in the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the five files to")
    parser.add_argument("--processes", type=int, default=1, help="frames labelled at the same time")
    arguments = parser.parse_args()
    out: Path = arguments.out
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out.mkdir(parents=True, exist_ok=True)
    pyramid, plane = relax(molecule("NH3")), relax(umbrella(r=1.0, theta=np.pi / 2.0))
    energies = [label(("barrier", atoms)).info["REF_energy"] for atoms in (pyramid, plane)]
    barrier = energies[1] - energies[0]
    logger.info("pyramid %s, plane %s (Å, radian)", bond_and_angle(pyramid), bond_and_angle(plane))
    logger.info("barrier %.4f eV = %.2f kJ/mol", barrier, barrier / (units.kJ / units.mol))
    # A child that is spawned, not forked, inherits no threads of the libraries loaded here.
    with get_context("spawn").Pool(arguments.processes) as pool:
        for name, frames in geometries(pyramid=pyramid, plane=plane).items():
            labelled = list(track(pool.imap(label, frames), description=name, total=len(frames)))
            write(out / name, labelled, format="extxyz")
            logger.info("%s: %d frames", name, len(frames))
    logger.info("finite-difference error of a hot frame %.1e eV/Å", largest_finite_difference_error(frames[-1][1]))


if __name__ == "__main__":
    main()
