"""`Graph`: atoms and their neighbours as tensors, for one structure or many.

======  ===========================================================
symbol  variable
======  ===========================================================
i       `receivers[e]`, the atom an edge belongs to
j       `senders[e]`, its neighbour
S_e     `shifts[e]`, integer cell translations of the neighbour
r_ij    `edge_vectors()[e]` = r_j + S_e cell - r_i
eps     strain, r' = r (1 + eps), cell' = cell (1 + eps)
======  ===========================================================
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray
from torch import Tensor
from vesin import NeighborList

from ase_uq.errors import InputError
from ase_uq.structures.checks import check_structure, is_periodic

# Of what a list of neighbours sees: structures wider than the first have empty space longer than the second shortened.
_FAR, _GAP = 20.0, 1.25
# Bins that a list of neighbours makes at most; with more it widens them, and ends the process if none is left.
_MOST_BINS = 1e5


@dataclass(frozen=True, slots=True)
class Graph:
    """Structures and their directed edges within a cut-off; every pair stands in both directions.

    Attributes
    ----------
    positions
        (N, 3) float64, Å.
    numbers
        (N,) int64, atomic numbers.
    cells
        (S, 3, 3) float64, Å, rows are cell vectors; zeros for a molecule.
    senders, receivers
        (E,) int64, neighbour j and centre i; sorted by centre, then neighbour, then image.
    slots
        (E,) int64, place of each edge in a table with a row for each atom, wide enough for the most neighbours.
    columns
        (width of that table,) of zeros; only its shape means something, so that tracing can leave it open.
    shifts
        (E, 3) float64, integer translations of the neighbour in cell vectors.
    structures
        (N,) int64, the structure each atom belongs to.
    periodic
        (S,) bool, whether a stress is defined.
    """

    positions: Tensor
    numbers: Tensor
    cells: Tensor
    senders: Tensor
    receivers: Tensor
    slots: Tensor
    columns: Tensor
    shifts: Tensor
    structures: Tensor
    periodic: Tensor

    @property
    def n_structures(self) -> int:
        """Number of structures, S."""
        return self.cells.shape[0]

    @property
    def n_atoms(self) -> Tensor:
        """Number of atoms of each structure, (S,) int64."""
        return torch.bincount(self.structures, minlength=self.n_structures)

    def edge_vectors(self) -> Tensor:
        """Return r_ij, (E, 3) float64, Å, differentiable in positions and cells."""
        # index_select, not [..]: advanced indexing is several times slower on the CPU.
        vectors = self.positions.index_select(0, self.senders) - self.positions.index_select(0, self.receivers)
        if self.n_structures == 1:
            return vectors + self.shifts @ self.cells[0]
        cells = self.cells.index_select(0, self.structures.index_select(0, self.receivers))
        return vectors + torch.einsum("ex,exy->ey", self.shifts, cells)

    def table(self, values: Tensor) -> Tensor:
        """Put what each edge has, (E, A, B), under its centre, (N, width A, B), with zeros where a row has no edge."""
        n_atoms, width = self.positions.shape[0], self.columns.shape[0]
        rows = values.new_zeros(n_atoms * width, *values.shape[1:]).index_copy(0, self.slots, values)
        return rows.view(n_atoms, width * values.shape[1], values.shape[2])

    def sum_over_atoms(self, values: Tensor) -> Tensor:
        """Sum what each atom has, (N, ...), to what each structure has, (S, ...)."""
        if self.n_structures == 1:
            return values.sum(dim=0, keepdim=True)
        return values.new_zeros(self.n_structures, *values.shape[1:]).index_add(0, self.structures, values)

    def strained(self, strain: Tensor) -> Graph:
        """Return the graph under a homogeneous deformation, `strain` (S, 3, 3), same edges."""
        per_atom = strain.index_select(0, self.structures)
        return replace(
            self,
            positions=self.positions + torch.einsum("nx,nxy->ny", self.positions, per_atom),
            cells=self.cells + self.cells @ strain,
        )

    def copies(self, n_copies: int) -> Graph:
        """Return a graph of so many copies of the structures, one after another."""
        n_atoms, n_rows = len(self.numbers), len(self.numbers) * len(self.columns)

        def repeated(values: Tensor, offset: int = 0) -> Tensor:
            if not offset:
                return values.repeat(n_copies, *[1] * (values.dim() - 1))
            offsets = offset * torch.arange(n_copies, device=values.device)
            return (values.unsqueeze(0) + offsets.unsqueeze(1)).flatten()

        return Graph(
            positions=repeated(self.positions),
            numbers=repeated(self.numbers),
            cells=repeated(self.cells),
            senders=repeated(self.senders, n_atoms),
            receivers=repeated(self.receivers, n_atoms),
            slots=repeated(self.slots, n_rows),
            columns=self.columns,
            shifts=repeated(self.shifts),
            structures=repeated(self.structures, self.n_structures),
            periodic=repeated(self.periodic),
        )

    def to(self, device: torch.device | str) -> Graph:
        """Return the graph on another device."""
        return Graph(*(getattr(self, name).to(device) for name in self.__slots__))


class Neighbours:
    """Neighbours of a structure that moves a little between one call and the next.

    Each thread has candidates of its own. Those within `cutoff` + `skin` are kept until an atom has moved half the skin
    or the cell has changed (vesin's own Verlet list); the pairs returned are exactly those within `cutoff`.

    Parameters
    ----------
    cutoff
        Neighbour cut-off, Å.
    skin
        Å; 0 searches anew at every call.
    """

    def __init__(self, cutoff: float, *, skin: float = 1.0) -> None:
        self.cutoff, self.skin = float(cutoff), float(skin)
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        # A list lies in memory of C; another is made where it is needed.
        return _with_skin, (self.cutoff, self.skin)

    @property
    def _list(self) -> NeighborList:
        """The list of this thread: another one would write over what this one reads."""
        found: NeighborList | None = getattr(self._of_thread, "list", None)
        if found is None:
            found = NeighborList(cutoff=self.cutoff, full_list=True, sorted=True, n_threads=1, skin=self.skin)
            self._of_thread.list = found
        return found

    def graph(self, atoms: Atoms) -> Graph:
        """Return the structure with its neighbours, see `build_graph`."""
        check_structure(atoms)
        periodic = bool(atoms.pbc.any())
        cell = complete_cell(atoms.cell) if periodic else np.zeros((3, 3))
        positions, box, turns = _compact(atoms, cell, reach=self.cutoff + self.skin)
        if periodic and np.abs(box).max() > 50.0 * self.cutoff:
            _check_bins(box, self.cutoff)
        found = self._list.compute(positions, box, atoms.pbc, quantities="ijS")
        # In torch, whose gathers are ten times faster than NumPy's. vesin counts atoms in unsigned numbers.
        i, j = (torch.from_numpy(part.view(np.int64)) for part in found[:2])
        shifts = torch.from_numpy(found[2] if turns is None else found[2] + turns[found[0]] - turns[found[1]])
        order = _canonical_order(i, j, shifts, len(atoms))
        return Graph(
            positions=torch.from_numpy(atoms.positions.astype(np.float64)),
            numbers=torch.from_numpy(atoms.numbers.astype(np.int64)),
            cells=torch.from_numpy(cell[None].astype(np.float64)),
            senders=j.index_select(0, order),
            **_arranged(i.index_select(0, order), len(atoms)),
            shifts=shifts.index_select(0, order).to(torch.float64),
            structures=torch.zeros(len(atoms), dtype=torch.int64),
            periodic=torch.tensor([is_periodic(atoms)]),
        )


def _compact(
    atoms: Atoms, cell: NDArray[np.float64], *, reach: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32] | None]:
    """Bring far fragments of what is not periodic throughout together: a list has bins for all that is between.

    Parameters
    ----------
    atoms
        Any structure; what is not wide, or periodic throughout, is returned as it is.
    cell
        (3, 3), Å, with a vector along every axis.
    reach
        Å. No pair comes closer than this that was not, and pairs within it stay as they are.

    Returns
    -------
    positions, cell
        (N, 3) and (3, 3), Å, with the same pairs.
    turns
        (N, 3), whole cell vectors by which atoms were moved back along periodic axes; `None` for none.
    """
    positions, pbc = atoms.positions, atoms.pbc
    if pbc.all() or np.ptp(positions, axis=0).max() < _FAR * reach:
        return positions, cell, None
    # Directions at right angles to the periodic vectors: what moves along them changes no distance to images otherwise.
    periodic = cell[pbc]
    axes = np.linalg.svd(periodic)[2][len(periodic) :] if len(periodic) else np.eye(3)
    along = positions @ axes.T
    drawn = _drawn_together(along, reach)
    # Bins are of the cell: it must span the atoms. In steps, for lists are kept only while the cell stays.
    drawn -= reach * np.floor(drawn.min(axis=0) / reach)
    box = cell.copy()
    box[~pbc] = axes * (_GAP * reach * np.ceil(drawn.max(axis=0) / (_GAP * reach) + 1.0))[:, None]
    turns = np.floor(positions @ np.linalg.inv(box)) * pbc
    return positions - turns @ box + (drawn - along) @ axes, box, turns.astype(np.int32)


def _check_bins(box: NDArray[np.float64], cutoff: float) -> None:
    """Refuse a cell so long beside its width that its bins along the width would have to be less than one."""
    bins = np.maximum(1.0, np.floor(1.0 / (np.linalg.norm(np.linalg.inv(box), axis=0) * cutoff)))
    if bins.min() * (_MOST_BINS / bins.prod()) ** (1.0 / 3.0) < 1.0:
        lengths = ", ".join(f"{each:.4g}" for each in np.linalg.norm(box, axis=1))
        raise InputError(
            f"`atoms` must lie in a cell that is not as long beside its width as this one, with {lengths} Å around all "
            "of them; correct the cell, or leave out atoms that have flown away."
        )


def _drawn_together(along: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Shorten empty space between coordinates (N, n), Å, along each of n directions."""
    order = np.argsort(along, axis=0, kind="stable")
    ordered = np.take_along_axis(along, order, axis=0)
    gaps = np.minimum(np.diff(ordered, axis=0, prepend=ordered[:1]), _GAP * reach)
    drawn = np.empty_like(along)
    np.put_along_axis(drawn, order, np.cumsum(gaps, axis=0), axis=0)
    return drawn


def _with_skin(cutoff: float, skin: float) -> Neighbours:
    return Neighbours(cutoff, skin=skin)


def _arranged(receivers: Tensor, n_atoms: int) -> dict[str, Tensor]:
    # `receivers` come sorted: an edge's rank among those of its centre is its distance from their start.
    counts = torch.bincount(receivers, minlength=n_atoms)
    width = int(counts.max()) if len(receivers) else 0
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(receivers), device=receivers.device) - starts.index_select(0, receivers)
    return {
        "receivers": receivers,
        "slots": receivers * width + ranks,
        "columns": torch.zeros(width, device=receivers.device),
    }


def _canonical_order(i: Tensor, j: Tensor, shifts: Tensor, n_atoms: int) -> Tensor:
    # By centre, neighbour, image: so that sums over edges round alike whenever the list was built, and a run that was
    # interrupted goes on with the same digits. One key sorts several times faster than many.
    key = (i * n_atoms + j).numpy()
    order = np.argsort(key, kind="stable")
    if bool((np.diff(key[order]) == 0).any()):
        # Small cells: a pair is there with several images.
        order = np.lexsort((*shifts.T.flip(0).numpy(), key))
    return torch.from_numpy(order)


def build_graph(atoms: Atoms, cutoff: float) -> Graph:
    """Find all neighbours within `cutoff` (Å), periodic images of an atom itself included.

    Parameters
    ----------
    atoms
        Any molecule, slab or bulk; the cell may be skewed, left-handed or smaller than the cut-off.
    cutoff
        Neighbour cut-off, Å.

    Raises
    ------
    InputError
        For a structure that no potential can evaluate, see `check_structure`.

    Examples
    --------
    >>> from ase.build import bulk
    >>> build_graph(bulk("Cu"), cutoff=3.0).senders.shape  # one atom, twelve images
    torch.Size([12])
    """
    return Neighbours(cutoff, skin=0.0).graph(atoms)


def collate(graphs: Sequence[Graph]) -> Graph:
    """Join graphs into one whose structures do not see each other."""
    atoms = np.cumsum([0, *(len(graph.positions) for graph in graphs)])
    structures = np.cumsum([0, *(graph.n_structures for graph in graphs)])

    def joined(name: str, offsets: np.ndarray | None = None) -> Tensor:
        parts = [getattr(graph, name) for graph in graphs]
        if offsets is not None:
            parts = [part + int(offset) for part, offset in zip(parts, offsets[:-1], strict=True)]
        return torch.cat(parts)

    return Graph(
        positions=joined("positions"),
        numbers=joined("numbers"),
        cells=joined("cells"),
        senders=joined("senders", atoms),
        **_arranged(joined("receivers", atoms), int(atoms[-1])),
        shifts=joined("shifts"),
        structures=joined("structures", structures),
        periodic=joined("periodic"),
    )
