"""Frames as graphs with labels, and batches of them in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ase_uq.potentials.graph import Graph, build_graph, collate
from ase_uq.structures.frames import Frame
from ase_uq.training.losses import Labels


@dataclass(frozen=True, slots=True)
class Batch:
    """A joined graph, its labels, and the index of each structure in the data set, (S,)."""

    graph: Graph
    labels: Labels
    samples: NDArray[np.int64]


class Batches:
    """Frames with their neighbour lists, found once.

    Parameters
    ----------
    frames
        Labelled frames.
    cutoff
        Neighbour cut-off, Å.
    batch_size
        Structures a batch.
    device
        Where the batches live.
    """

    def __init__(
        self, frames: Sequence[Frame], *, cutoff: float, batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.frames, self.batch_size, self.device = list(frames), batch_size, device
        self._graphs = [build_graph(frame.atoms, cutoff) for frame in self.frames]

    def __len__(self) -> int:
        return -(-len(self.frames) // self.batch_size)

    def in_order(self) -> Iterator[Batch]:
        """Yield all batches in the order of the frames."""
        yield from self._in(np.arange(len(self.frames)))

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield all batches in an order that follows from seed and epoch alone, so that a resumed run repeats it."""
        yield from self._in(np.random.default_rng([seed, epoch]).permutation(len(self.frames)))

    def _in(self, order: NDArray[np.int64]) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            samples = order[start : start + self.batch_size]
            graph = collate([self._graphs[i] for i in samples]).to(self.device)
            yield Batch(graph, self._labels([self.frames[i] for i in samples]), samples)

    def _labels(self, frames: Sequence[Frame]) -> Labels:
        zero = np.zeros(6)
        arrays = (
            np.array([frame.energy for frame in frames]),
            np.concatenate([frame.forces for frame in frames]),
            np.stack([zero if frame.stress is None else frame.stress for frame in frames]),
            np.array([frame.stress is not None for frame in frames]),
        )
        return Labels(*(torch.from_numpy(array).to(self.device) for array in arrays))
