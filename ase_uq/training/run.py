"""`TrainingRun`: what all methods of training have in common, once.

It owns the frames, the settings, the architecture or the model to start from, the device, the state folder, resuming
and the call-backs; fits the constants of the frames once; and describes the training for the model to keep. A method
takes from it what it needs: `new_body`, `batches`, `fit`, `finish_body` and `state_path`.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ase_uq.errors import InputError
from ase_uq.options import recorded
from ase_uq.potentials.architectures import ARCHITECTURES
from ase_uq.potentials.device import checked_device
from ase_uq.structures.frames import Frame
from ase_uq.training.batches import Batches
from ase_uq.training.fit import EpochRecord, SampleCallback, fit
from ase_uq.training.last_layer import finish_body
from ase_uq.training.losses import Objective
from ase_uq.training.method import Method
from ase_uq.training.reference import Reference, fit_reference
from ase_uq.training.rows import Rows
from ase_uq.training.settings import FitSettings
from ase_uq.training.verdict import training_warnings
from ase_uq.uncertainty.prediction import UncertaintyModel

PartCallback = Callable[[int, EpochRecord], None]
Data = tuple[Batches, Batches]
"""Batches to train on, and to validate with."""
_KEPT = ("learning_rate", "batch_size", "schedule", "energy_stage", "seed")


@dataclass
class TrainingRun:
    """A training of one model: `complete` does it.

    Attributes
    ----------
    train, valid
        Labelled frames.
    method
        How, with its options: `Deep(n_members=4)`, `Shallow()`, `Blip()`.
    settings
        How one potential is trained.
    architecture, config
        What is trained: a name of `ase_uq.potentials.architectures`, and arguments of that class other than `elements`
        and `seed`.
    start
        A potential, of one member or several, to fine-tune instead; its architecture is kept, and so are its constants.
    device
        "cpu", "cuda" or "cuda:0".
    state_dir
        Folder for the states of an interrupted training; removed at the end.
    resume
        Go on from `state_dir`.
    on_epoch
        Called with (part, record) after every epoch; `method.parts()` has the names of the parts.
    data
        What the frames are called, for the description in the model.
    last
        The last record of every part so far.

    Raises
    ------
    InputError
        For an unknown device or architecture, arguments it does not take, or a start that the method cannot go on from.

    Examples
    --------
    >>> from importlib.resources import files
    >>> from ase_uq.training import Deep, FitSettings, read_frames
    >>> frames = read_frames(files("ase_uq") / "data" / "ammonia" / "valid.xyz")
    >>> sizes = {"cutoff": 3.0, "channels": 4, "n_layers": 1, "radial_width": 8}
    >>> run = TrainingRun(frames[:8], frames[8:12], Deep(n_members=2), FitSettings(epochs=1), config=sizes)
    >>> run.complete().training["method"]
    'deep'
    """

    train: Sequence[Frame]
    valid: Sequence[Frame]
    method: Method
    settings: FitSettings = field(default_factory=FitSettings)
    architecture: str = "equivariant"
    config: Mapping[str, Any] = field(default_factory=dict)
    start: Any = None
    device: str = "cpu"
    state_dir: Path | None = None
    resume: bool = False
    on_epoch: PartCallback | None = None
    data: str | None = None
    last: dict[int, EpochRecord] = field(default_factory=dict, init=False)
    _references: dict[float, Reference] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        checked_device(self.device)
        self._check_architecture()
        self._check_start()

    def complete(self, *, save: Callable[[UncertaintyModel], None] | None = None) -> UncertaintyModel:
        """Train, hand the model to `save`, remove the state folder, and return the model.

        Should `save` fail, on a full disk, say, the states are still there, and a resumed run has little to do.
        """
        model = self.method.train(self)
        if save is not None:
            save(model)
        self.clear()
        return model

    def clear(self) -> None:
        """Remove the state folder: what it was kept for is done."""
        if self.state_dir is not None and self.state_dir.exists():
            shutil.rmtree(self.state_dir)

    def warnings(self, model: Any) -> tuple[str, ...]:
        """Return sentences about what went wrong: first those of the method, then what any training is judged by."""
        potential = getattr(model, "potential", None)
        verdict = () if potential is None else training_warnings(potential, self.train, self.valid)
        return (*self.method.warnings(model, self), *verdict)

    def described(self) -> dict[str, Any]:
        """Return what a model keeps of its training, as JSON can hold it; `parts` are those trained so far."""
        names = self.method.parts()
        return {
            "method": self.method.name,
            **({"potential": self.architecture} if self.start is None else {}),
            **({} if self.data is None else {"data": self.data}),
            "n_train": len(self.train),
            "n_valid": len(self.valid),
            **recorded(self.method),
            **{name: getattr(self.settings, name) for name in _KEPT},
            "parts": [_described(names[part], record) for part, record in sorted(self.last.items())],
        }

    # --- what methods are made of -------------------------------------------------------------------------------------

    def new_body(self, *, seed: int | None = None) -> Any:
        """Return an untrained potential of the elements of the frames with their constants, on the CPU.

        `seed` is that of its weights, that of the settings by default.
        """
        seed = self.settings.seed if seed is None else seed
        kind = ARCHITECTURES[self.architecture]
        body = kind.from_config({**self.config, "elements": self.elements, "seed": seed})
        self.give_reference(body)
        return body

    @property
    def elements(self) -> list[str]:
        """The elements of the training frames."""
        return sorted({symbol for frame in self.train for symbol in frame.atoms.symbols})

    def give_reference(self, body: Any) -> None:
        """Set the constants of a potential, which may know elements that the frames do not have."""
        if body.cutoff not in self._references:
            self._references[body.cutoff] = fit_reference(self.train, cutoff=body.cutoff)
        found = self._references[body.cutoff]
        shifts = dict(zip(found.elements, found.shifts, strict=True))
        body.set_reference(
            shifts=[shifts.get(symbol, 0.0) for symbol in body.elements],
            scale=found.scale,
            mean_neighbours=found.mean_neighbours,
        )

    def batches(self, cutoff: float) -> Data:
        """Return the frames in batches, with their neighbour lists (Å), on the device."""
        size = self.settings.batch_size
        train, valid = (
            Batches(frames, cutoff=cutoff, batch_size=size, device=self.device) for frames in (self.train, self.valid)
        )
        return train, valid

    def fit(
        self,
        potential: nn.Module,
        data: Data,
        name: str,
        *,
        part: int = 0,
        settings: FitSettings | None = None,
        objective: Objective | None = None,
        on_samples: SampleCallback | None = None,
    ) -> list[float]:
        """Train a potential in place, see `ase_uq.training.fit`; its state is kept under `name`."""
        return fit(
            potential,
            *data,
            self.settings if settings is None else settings,
            objective=objective,
            on_epoch=lambda record: self.note(part, record),
            on_samples=on_samples,
            state_path=self.state_path(name),
            resume=self.resume,
        )

    def finish_body(self, body: Any, data: Data, *, minutes: float | None) -> tuple[Rows, Rows] | None:
        """Refit the last layer and the constants of a trained potential, see `ase_uq.training.last_layer`."""
        return finish_body(body, *data, self.settings, minutes=minutes)

    def note(self, part: int, record: EpochRecord) -> None:
        """Take down an epoch of a part, and tell who follows."""
        self.last[part] = record
        if self.on_epoch is not None:
            self.on_epoch(part, record)

    def state_path(self, name: str) -> Path | None:
        """Return where a state is kept, and see that its folder is there; `None` where none is kept.

        `fit` keeps its own under the name it is given. A method that follows more keeps that beside it.
        """
        if self.state_dir is None:
            return None
        self.state_dir.mkdir(parents=True, exist_ok=True)
        return self.state_dir / f"{name}.pt"

    # --- what is refused ----------------------------------------------------------------------------------------------

    def _check_architecture(self) -> None:
        accepted = [name for name in ARCHITECTURES if name in (self.method.architectures or ARCHITECTURES)]
        if self.architecture not in accepted:
            raise InputError(
                f"`architecture` must be one of {', '.join(accepted)} for the method {self.method.name}, got "
                f"{self.architecture!r}; choose one."
            )
        kind = ARCHITECTURES[self.architecture]
        known = [name for name in inspect.signature(kind).parameters if name not in ("elements", "seed")]
        for name in self.config:
            if name not in known:
                raise InputError(
                    f"`config` must hold arguments of {kind.__name__} ({', '.join(known)}), got {name!r}; correct it."
                )

    def _check_start(self) -> None:
        wanted = self.method.starts
        if self.start is None or wanted is None or {kind.__name__ for kind in type(self.start).__mro__} & set(wanted):
            return
        raise InputError(
            f"`start` needs a {' or a '.join(wanted)} for the method {self.method.name}, got a "
            f"{type(self.start).__name__}; use the method it was made by."
        )


def _described(name: str, record: EpochRecord) -> dict[str, Any]:
    return {
        "name": name,
        "epochs": record.epoch,
        "seconds": round(record.seconds, 1),
        "valid_energy_rmse": record.energy_rmse,
        "valid_forces_rmse": record.forces_rmse,
        **({} if record.stress_rmse is None else {"valid_stress_rmse": record.stress_rmse}),
        **({"terms": dict(record.terms)} if record.terms else {}),
    }
