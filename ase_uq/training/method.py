"""`Method`: what every way to train a model with uncertainty is, one file each, listed in `methods`.

A method is a frozen dataclass: its fields are its options, see `options`. The run that it is given has the frames, the
device, the batches, the state folder and all else that methods have in common, see `TrainingRun`. It may have members
or not: nothing outside of it asks. Its file is read for the help of the command line, which should be there at once:
what needs torch is imported by `train` itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from ase_uq.options import check_options

if TYPE_CHECKING:
    from ase_uq.training.run import TrainingRun
    from ase_uq.uncertainty.prediction import UncertaintyModel


class Method(ABC):
    """A way to train.

    Attributes
    ----------
    name
        What `--method` calls it.
    says
        What it is, in a few words.
    architectures
        Names of those it can train, all of them where it does not say.
    starts
        Names of the classes of potentials that it can fine-tune; any, or what `train` finds fit, where it does not say.
    in_turn
        Whether its parts are done one after the other.
    """

    name: ClassVar[str]
    says: ClassVar[str]
    architectures: ClassVar[tuple[str, ...] | None] = None
    starts: ClassVar[tuple[str, ...] | None] = None
    in_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def train(self, run: TrainingRun) -> UncertaintyModel:
        """Train a model; store `run.described()` in it."""

    def parts(self) -> list[str]:
        """Return the names of what call-backs count and learning curves show: members or phases."""
        return ["training"]

    def plan(self, device: str) -> str:  # noqa: ARG002
        """Return what will be trained, in words, such as the number of members."""
        return self.says

    def warnings(self, model: Any, run: TrainingRun) -> tuple[str, ...]:  # noqa: ARG002
        """Return sentences about what went wrong in the way of this method alone."""
        return ()
