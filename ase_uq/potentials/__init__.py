"""Potentials: torch modules that turn a graph into member energies."""

from ase_uq.potentials.abilities import Abilities, SupportsInference, abilities_of
from ase_uq.potentials.architectures import ARCHITECTURES
from ase_uq.potentials.base import (
    Evaluation,
    FeaturePotential,
    Potential,
    TrainablePotential,
    evaluate,
    joined,
    voigt,
)
from ase_uq.potentials.deep import DeepEnsemble
from ase_uq.potentials.equivariant import EquivariantPotential
from ase_uq.potentials.mace import MACEPotential
from ase_uq.potentials.shallow import ShallowEnsemble
from ase_uq.potentials.variational.construction import kl_divergence, make_variational, sample_members
from ase_uq.potentials.variational.ensemble import VariationalEnsemble
from ase_uq.potentials.variational.potential import VariationalPotential

__all__ = [
    "ARCHITECTURES",
    "Abilities",
    "DeepEnsemble",
    "EquivariantPotential",
    "Evaluation",
    "FeaturePotential",
    "MACEPotential",
    "Potential",
    "ShallowEnsemble",
    "SupportsInference",
    "TrainablePotential",
    "VariationalEnsemble",
    "VariationalPotential",
    "abilities_of",
    "evaluate",
    "joined",
    "kl_divergence",
    "make_variational",
    "sample_members",
    "voigt",
]
