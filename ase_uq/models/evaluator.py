"""`Evaluator`: how the members of a potential are evaluated; none of it changes a number by more than rounding."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.linalg import helmert

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.models.compiled import CompiledPotential
from ase_uq.potentials import Evaluation, Potential, SupportsInference, evaluate
from ase_uq.potentials.abilities import Compilable, abilities_of
from ase_uq.potentials.base import Divisible
from ase_uq.potentials.device import checked_device
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.memory import MemoryCap
from ase_uq.uncertainty.blend import Target

logger = logging.getLogger(__name__)

# Members up to which the forces of every one are compiled: each adds a backward pass to the package.
MOST_COMPILED = 16


class Evaluator:
    """Evaluates the members of a potential, or combinations of them.

    Parameters
    ----------
    potential
        A copy of it is evaluated, where it can make one (`SupportsInference`).
    device
        "cpu", "cuda", "cuda:0", ...
    compile
        "auto" evaluates the members as machine code on the CPU, which is built once for an architecture, in about a
        minute, and kept; see `ase_uq.models.compiled`. "off" never does.
    memory_limit
        GB that an evaluation may take. Members that do not fit together are evaluated one after another; a structure
        that is too large for one member is refused.

    Raises
    ------
    InputError
        For a choice that does not exist, a GPU that is not there, or a limit that is not positive.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        device: str = "cpu",
        compile: str = "off",  # noqa: A002
        memory_limit: float | None = None,
    ) -> None:
        if compile not in ("auto", "off"):
            raise InputError(f"`compile` must be 'auto' or 'off', got {compile!r}; choose one.")
        self.device = checked_device(device)
        self.shares_body = abilities_of(potential).shares_body
        self.potential = _prepared(potential, self.device)
        self.memory: MemoryCap | None = None
        if memory_limit is not None:
            self.memory = _memory_cap(self.potential, memory_limit)
        self.compiled = _compiled(self.potential) if compile == "auto" and self.device.type == "cpu" else None
        if compile == "auto" and self.compiled is None:
            kind = type(self.potential).__name__
            logger.warning(
                "compile='auto' has no machine code for %s on %s; it is evaluated as it is", kind, self.device
            )

    def members(self, graph: Graph) -> Evaluation:
        """Evaluate every member, with forces and, where a cell is periodic, stress."""
        at_once = self._members_at_once(graph)
        if self.compiled is not None and graph.n_structures == 1:
            found = self._compiled_members(self.compiled, graph)
            if found is not None:
                return found
        return evaluate(self.potential, graph.to(self.device), stress=bool(graph.periodic.any()), at_once=at_once)

    def means(self, graph: Graph) -> Evaluation:
        """Evaluate the energies of every member, and the derivatives of their mean: one row of forces and stresses."""
        self._members_at_once(graph)
        return evaluate(
            self.potential,
            graph.to(self.device),
            stress=bool(graph.periodic.any()),
            combine=lambda energies: energies.new_full((1, len(energies)), 1.0 / len(energies)),
        )

    def combined(
        self, graph: Graph, *, directions: Array, combine: Target | None = None, alpha: float = 1.0
    ) -> Evaluation:
        """Evaluate one structure; differentiate one combination of the energies, then fixed ones.

        Parameters
        ----------
        directions
            (n_combinations, M), the fixed ones, of raw members.
        combine
            Says with which coefficients (M,) calibrated members enter the first; the mean by default.
        alpha
            Calibration factor.
        """
        self._members_at_once(graph)
        if self.compiled is not None:
            target = Target() if combine is None else combine
            found = self.compiled.evaluate(graph, directions=torch.from_numpy(directions), alpha=alpha, target=target)
            if found is not None:
                return found

        def rows(energies: torch.Tensor) -> torch.Tensor:
            first = _coefficients(energies[:, 0].cpu().numpy(), combine, alpha)
            return torch.from_numpy(np.vstack([first, directions])).to(energies.device)

        return evaluate(self.potential, graph.to(self.device), stress=bool(graph.periodic.any()), combine=rows)

    def parts(self, graphs: list[Graph]) -> Iterator[list[Graph]]:
        """Split structures into parts that fit into the memory together."""
        part: list[Graph] = []
        for graph in graphs:
            if part and self.memory is not None and self.memory.needed(*part, graph) > self.memory.limit:
                yield part
                part = []
            part.append(graph)
        if part:
            yield part

    def _compiled_members(self, compiled: CompiledPotential, graph: Graph) -> Evaluation | None:
        if not self.shares_body:
            return compiled.evaluate(graph, directions=torch.zeros(0, 1, dtype=torch.float64))
        if self.potential.n_members > MOST_COMPILED:
            return None
        # The mean and M-1 orthonormal differences: as many passes as members, and the members from them.
        basis = torch.from_numpy(helmert(self.potential.n_members))
        found = compiled.evaluate(graph, directions=basis)
        if found is None:
            return None
        return Evaluation(
            found.energies,
            found.forces[0] + torch.einsum("km,knx->mnx", basis, found.forces[1:]),
            None
            if found.stresses is None
            else found.stresses[0] + torch.einsum("km,ksx->msx", basis, found.stresses[1:]),
        )

    def _members_at_once(self, graph: Graph) -> int | None:
        return None if self.memory is None else self.memory.members_at_once(graph)


def _coefficients(energies: Array, combine: Target | None, alpha: float) -> Array:
    if combine is None:
        return np.full(len(energies), 1.0 / len(energies))
    # On calibrated members they are given, on raw ones they are used: V_i = Ebar + alpha (E_i - Ebar).
    mean = energies.mean()
    coefficients = combine.blend(mean + alpha * (energies - mean)).coefficients
    return np.asarray(alpha * coefficients + (1.0 - alpha) * coefficients.mean())


def _prepared(potential: Potential, device: torch.device) -> Potential:
    prepared: Any = potential.for_inference() if isinstance(potential, SupportsInference) else potential
    if device.type != "cpu" and isinstance(prepared, torch.nn.Module):
        # The potential that was given stays where it is.
        prepared = (copy.deepcopy(prepared) if prepared is potential else prepared).to(device)
    return prepared  # type: ignore[no-any-return]


def _memory_cap(potential: Any, gigabytes: float) -> MemoryCap:
    units = (potential.units() if isinstance(potential, Divisible) else ()) or (potential,)
    # The member that takes most decides.
    caps = [MemoryCap.of(unit, gigabytes) for unit in units]
    return max(caps, key=lambda cap: cap.per_row + cap.per_edge)


def _compiled(potential: Potential) -> CompiledPotential | None:
    parts = potential.compilable_parts() if isinstance(potential, Compilable) else ()
    return CompiledPotential(parts) if parts else None
