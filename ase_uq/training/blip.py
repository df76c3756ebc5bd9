"""`Blip`: noise on the weights of a potential, and M draws of it; how it is trained is in `variational`.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ase_uq.options import option
from ase_uq.training.method import Method

if TYPE_CHECKING:
    from ase_uq.training.run import TrainingRun
    from ase_uq.uncertainty.prediction import UncertaintyModel


@dataclass(frozen=True)
class Blip(Method):
    """A variational potential, and draws of it.

    What to fine-tune is copied. Draws, and variational potentials, go on with the noise they have; the body of a
    shallow ensemble, the first member of a deep one or any potential that `make_variational` takes starts with hardly
    any.

    Attributes
    ----------
    n_members
        Draws, M; they cost no training.
    kl_weight
        Weight of the divergence from the prior, for a training by the evidence lower bound; by the score of draws where
        it is not given.
    """

    name = "blip"
    says = "noise on the weights, M draws"
    in_turn = True

    # They cost nothing in training and little in use, and know a standard deviation to 18 %.
    n_members: int = option(
        16,
        "Number of members, M, at least 2; 4 or more to calibrate.",
        flag="members",
        at_least=2,
        cure="a variance takes two, and 16 is usual",
    )
    kl_weight: float | None = option(
        None,
        "train by the evidence lower bound, with this weight of the divergence from the prior (1e-4, say; the "
        "smaller, the less noise).",
        at_least=0,
        cure="0.0001 is usual",
        usual="by the score of the draws",
    )

    def train(self, run: TrainingRun) -> UncertaintyModel:
        """Train the mean and the noise."""
        from ase_uq.models.members import MemberUncertainty
        from ase_uq.training.variational import train_noisy

        return MemberUncertainty(train_noisy(self, run), training=run.described())

    def parts(self) -> list[str]:
        """Return the phases; there is a single one by the evidence lower bound."""
        return ["mean", "noise"]

    def plan(self, device: str) -> str:  # noqa: ARG002
        """Return the number of draws."""
        return f"{self.n_members} members"

    def warnings(self, model: Any, run: TrainingRun) -> tuple[str, ...]:
        """Return sentences about noise that does not do its work."""
        from ase_uq.training.variational import noise_warnings

        return noise_warnings(model.potential, run.train, kl_weight=self.kl_weight)
