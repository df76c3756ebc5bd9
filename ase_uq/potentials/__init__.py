"""Potentials: torch modules that turn a graph into member energies."""

from ase_uq.potentials.base import Evaluation, FeaturePotential, Potential, SupportsInference, evaluate, joined, voigt
from ase_uq.potentials.ensemble import DeepEnsemble
from ase_uq.potentials.equivariant import EquivariantPotential
from ase_uq.potentials.shallow import ShallowEnsemble
from ase_uq.potentials.variational import VariationalEnsemble, VariationalPotential, make_variational, sample_members

__all__ = [
    "DeepEnsemble",
    "EquivariantPotential",
    "Evaluation",
    "FeaturePotential",
    "Potential",
    "ShallowEnsemble",
    "SupportsInference",
    "VariationalEnsemble",
    "VariationalPotential",
    "evaluate",
    "joined",
    "make_variational",
    "sample_members",
    "voigt",
]
