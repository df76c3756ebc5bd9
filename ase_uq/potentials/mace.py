"""`MACEPotential`: a model of mace-torch as one of ours, without importing mace.

References
----------
Batatia et al., arXiv:2206.07697.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.elements import element_indices, species_of
from ase_uq.potentials.graph import Graph


def is_mace(module: object) -> bool:
    """Return whether a module has what `MACEPotential` needs of a MACE model."""
    return isinstance(module, nn.Module) and all(
        hasattr(module, name) for name in ("r_max", "atomic_numbers", "interactions", "readouts")
    )


class MACEPotential(nn.Module):
    """The energies of a MACE model with a single head.

    Parameters
    ----------
    model
        `mace.modules.MACE` or `ScaleShiftMACE`; not copied.

    Raises
    ------
    InputError
        For what is not such a model.
    """

    # Of the layers: domain and pattern of names, see `make_variational`.
    NOISE: ClassVar[dict[str, tuple[str, ...]]] = {
        "last": ("node", r"^model\.readouts\.\d+\.linear(_2)?$"),
        "radial": ("edge", r"conv_tp_weights"),
        "readout": ("node", r"^model\.readouts\."),
    }
    n_members = 1

    indices: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not is_mace(model):
            raise InputError(f"`model` must be a MACE model, got {type(model).__name__}; load one with torch.load.")
        if not hasattr(model, "atomic_energies_fn") or hasattr(model, "joint_embedding"):
            raise InputError(
                f"`model` must give energies of positions and elements alone, {type(model).__name__} does not; take "
                "a MACE or ScaleShiftMACE without further inputs."
            )
        if len(getattr(model, "heads", [0])) > 1:
            raise InputError(f"`model` must have one head, it has {len(model.heads)}; extract one of them first.")  # type: ignore[arg-type]
        self.model: Any = model
        numbers: Any = model.atomic_numbers
        self.elements = tuple(chemical_symbols[int(number)] for number in numbers)
        self.register_buffer("indices", element_indices(self.elements), persistent=False)

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return float(self.model.r_max)

    @property
    def scale(self) -> Tensor:
        """Scale of its interaction energies, that of the forces it was trained on, eV/Å; one where it has none."""
        block = getattr(self.model, "scale_shift", None)
        return torch.ones((), dtype=torch.float64) if block is None else block.scale.reshape(-1)[0].to(torch.float64)

    def energies(self, graph: Graph) -> Tensor:
        """Return total energies, (1, S) float64, eV."""
        dtype = next(self.model.parameters()).dtype
        species = species_of(graph.numbers, self.indices, self.elements)
        cells = graph.cells.index_select(0, graph.structures.index_select(0, graph.receivers))
        counts = graph.n_atoms
        data = {
            "positions": graph.positions.to(dtype).clone(),  # it marks them as inputs of a derivative
            "node_attrs": nn.functional.one_hot(species, len(self.elements)).to(dtype),
            # Its vectors are receiver minus sender: the image of the sender goes the other way.
            "edge_index": torch.stack([graph.senders, graph.receivers]),
            "shifts": -torch.einsum("ex,exy->ey", graph.shifts, cells).to(dtype),
            "unit_shifts": -graph.shifts.to(dtype),
            "cell": graph.cells.flatten(0, 1).to(dtype),
            "batch": graph.structures,
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            "head": torch.zeros_like(counts),
        }
        # Summed here, in double precision: its own sum is in that of the model.
        of_atoms: Tensor = self.model(data, training=True, compute_force=False)["node_energy"]
        return graph.sum_over_atoms(of_atoms.to(torch.float64)).unsqueeze(0)
