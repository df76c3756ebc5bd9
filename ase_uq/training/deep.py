"""`Deep`: M potentials that differ in seed, in data order and, by option, in a random sub-sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ase_uq.options import option
from ase_uq.training.method import Method

if TYPE_CHECKING:
    from ase_uq.training.run import TrainingRun
    from ase_uq.uncertainty.prediction import UncertaintyModel


@dataclass(frozen=True)
class Deep(Method):
    """A deep ensemble.

    Attributes
    ----------
    n_members
        M; member i uses `settings.seed` + i for weights, data order and sub-sample.
    subsample
        Part of the training frames each member sees, drawn without replacement.
    jobs
        Members trained at the same time, each in a process of its own with its share of torch's threads; `None` for as
        many as there are threads. A script that asks for more than one starts under `if __name__ == "__main__":`. On a
        GPU they are trained one after the other.

    References
    ----------
    Sub-sampling without replacement: arXiv:2011.08828, section II.
    """

    name = "deep"
    says = "independent members"
    starts = ("DeepEnsemble",)

    n_members: int = option(
        4,
        "Number of members, M, at least 2; 4 or more to calibrate.",
        flag="members",
        at_least=2,
        cure="a variance takes two, and 4 or more is usual",
    )
    subsample: float = option(
        1.0,
        "part of the data each member sees, without replacement.",
        above=0,
        at_most=1,
        cure="1.0 shows every frame to every member",
    )
    jobs: int | None = option(
        1,
        "members trained at the same time.",
        at_least=1,
        usual="as many as torch has threads",
        shell_default=None,
        recorded=False,
    )

    def train(self, run: TrainingRun) -> UncertaintyModel:
        """Train the members, one after the other or in processes of their own."""
        from ase_uq.models.members import MemberUncertainty
        from ase_uq.training.apart import train_apart

        return MemberUncertainty(train_apart(self, run), training=run.described())

    def parts(self) -> list[str]:
        """Return the names of the members."""
        return [f"member {m}" for m in range(self.n_members)]

    def plan(self, device: str) -> str:
        """Return the number of members, and how many at a time."""
        return f"{self.n_members} members, {self.at_a_time(device)} at a time"

    def at_a_time(self, device: str) -> int:
        """Return how many members are trained at the same time."""
        import torch

        if device.startswith("cuda"):
            return 1
        return min(self.n_members, torch.get_num_threads()) if self.jobs is None else self.jobs
