"""`Surroundings`: frames beside those of a training set, for which there are no labels.

Data narrow the noise of a variational potential where they are; where they are not the posterior ought to be the prior.
A divergence from the prior that is taken at the training frames alone does not say so: rates beyond them are whatever
the rate network makes of them. It is therefore taken at displaced copies, too.

References
----------
Hafner, Tran, Lillicrap, Irpan and Davidson, arXiv:1807.09289: noise contrastive priors, Eq. 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ase_uq.potentials.graph import Graph, build_graph, collate
from ase_uq.structures.frames import Frame

# Å: from within thermal motion to bonds that are broken.
SPREAD = (0.05, 0.6)


class Surroundings:
    """Randomly displaced copies of frames.

    The standard deviation of the displacements is drawn for each copy, evenly in its logarithm between the two of
    `spread`.

    Parameters
    ----------
    frames
        Training frames.
    cutoff
        Neighbour cut-off, Å.
    n_copies
        Number of copies made by a call.
    device
        Where they are to live.
    spread
        Smallest and largest standard deviation of the displacements, Å.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        *,
        cutoff: float,
        n_copies: int,
        device: torch.device | str = "cpu",
        spread: tuple[float, float] = SPREAD,
    ) -> None:
        self.frames, self.cutoff, self.n_copies = list(frames), cutoff, n_copies
        self.device, self.spread = device, spread

    def drawn(self, generator: torch.Generator) -> Graph:
        """Return displaced copies of frames picked at random; the generator is one of the CPU."""
        graphs = []
        for k in torch.randint(len(self.frames), (self.n_copies,), generator=generator).tolist():
            atoms = self.frames[k].atoms.copy()
            low, high = (math.log(each) for each in self.spread)
            size = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
            moves = torch.randn(atoms.positions.shape, generator=generator, dtype=torch.float64)
            atoms.positions += size * moves.numpy()
            graphs.append(build_graph(atoms, self.cutoff))
        return collate(graphs).to(self.device)
