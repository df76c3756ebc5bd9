"""Potentials: torch modules that turn a graph into member energies."""

from ase_uq.potentials.base import Evaluation, Potential, evaluate
from ase_uq.potentials.ensemble import DeepEnsemble
from ase_uq.potentials.equivariant import EquivariantPotential

__all__ = ["DeepEnsemble", "EquivariantPotential", "Evaluation", "Potential", "evaluate"]
