"""`Shallow`: one body and M heads, one after the other.

1. The body by squared errors, as one potential, and at the end its last layer and its constants by least squares.
2. The heads by the CRPS of forces and energies, with the body as it is: see `heads`.

References
----------
Kellner & Ceriotti, arXiv:2402.16621; Schaefer et al., arXiv:2602.15747.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ase_uq.errors import InputError
from ase_uq.options import option
from ase_uq.training.method import Method

if TYPE_CHECKING:
    from ase_uq.training.run import TrainingRun
    from ase_uq.uncertainty.prediction import UncertaintyModel


@dataclass(frozen=True)
class Shallow(Method):
    """A shallow ensemble; `minutes` of the settings are those of body and heads together.

    A shallow ensemble to fine-tune is changed: its body goes on, and gets new heads.

    Attributes
    ----------
    n_members
        Number of heads, M.
    """

    name = "shallow"
    says = "one body, M last layers"
    starts = ("ShallowEnsemble",)

    n_members: int = option(
        8,
        "Number of members, M, at least 2; 4 or more to calibrate.",
        flag="members",
        at_least=2,
        cure="a variance takes two, and 8 or more is usual",
    )

    def train(self, run: TrainingRun) -> UncertaintyModel:
        """Train the body, then its heads."""
        from ase_uq.models.members import MemberUncertainty
        from ase_uq.potentials import FeaturePotential, ShallowEnsemble
        from ase_uq.training.constants import centre_heads
        from ase_uq.training.heads import fit_heads
        from ase_uq.training.last_layer import without_last_steps

        if run.start is not None and run.start.n_members != self.n_members:
            raise InputError(
                f"`n_members` must be {run.start.n_members} as in the starting model, got {self.n_members}; set it so."
            )
        body: Any = run.new_body() if run.start is None else run.start.potential
        has_features: bool = isinstance(body, FeaturePotential)
        if not has_features:
            raise InputError(
                f"`architecture` must have last-layer features for the method shallow, {run.architecture} has none; "
                "choose another one, or the method deep."
            )
        body.requires_grad_(True).to(run.device)
        data = run.batches(body.cutoff)
        settings, last = without_last_steps(run.settings)
        run.fit(body, data, "body", settings=settings)
        rows = run.finish_body(body, data, minutes=last)
        seed = run.settings.seed
        deviations = None if rows is None else fit_heads(*rows, self.n_members, seed=seed)
        shallow = ShallowEnsemble(body.cpu(), self.n_members, seed=seed, deviations=deviations)
        centre_heads(shallow, data[0])
        return MemberUncertainty(shallow, training=run.described())

    def parts(self) -> list[str]:
        """Return the one phase with epochs, that of the body."""
        return ["mean"]

    def plan(self, device: str) -> str:  # noqa: ARG002
        """Return the number of members."""
        return f"{self.n_members} members"
