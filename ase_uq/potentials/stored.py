"""`describe` and `build`: a potential as data that JSON can hold, and back; its weights are its state.

    {"kind": "DeepEnsemble", "config": {"members": [{"kind": "EquivariantPotential", "config": {...}}, ...]}}

A class that can be stored has `config()`, the arguments that construct the same architecture, and `from_config(config)`
that does so. An argument may be a potential itself: it is described in its place, so that anything can be made of
anything. A description may name the `ARCHITECTURES`, and `COMPOSED`, what is made of other potentials; nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import nn

from ase_uq.errors import InputError
from ase_uq.potentials.architectures import ARCHITECTURES
from ase_uq.potentials.deep import DeepEnsemble
from ase_uq.potentials.shallow import ShallowEnsemble
from ase_uq.potentials.variational.ensemble import VariationalEnsemble
from ase_uq.potentials.variational.potential import VariationalPotential


class Storable(Protocol):
    """What `describe` and `build` need of a class, beside a place in a list."""

    def config(self) -> dict[str, Any]:
        """Return the arguments that construct the same architecture: what JSON can hold, and potentials.

        Of the potentials nothing but their own description is taken.
        """
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """Construct that architecture."""
        ...


# What is made of other potentials.
COMPOSED: tuple[type[Storable], ...] = (DeepEnsemble, ShallowEnsemble, VariationalPotential, VariationalEnsemble)

_KEYS = {"kind", "config"}


def kinds_that_can_be_stored() -> tuple[type[Storable], ...]:
    """Return every class that a description may name."""
    return (*ARCHITECTURES.values(), *COMPOSED)


def describe(potential: Any) -> dict[str, Any]:
    """Describe what a potential is made of, all but its weights.

    Parameters
    ----------
    potential
        One of the package, or members made of such.

    Returns
    -------
    dict
        "kind" and "config", which JSON can hold.

    Raises
    ------
    InputError
        For a potential whose class, or that of a part of it, is in neither list, and for one that is no longer what
        its arguments construct, such as a copy made for inference.
    """
    described = _described(potential)
    # What is written must be what can be read: the same names and shapes of weights.
    if _shapes(build(described)) != _shapes(potential):
        raise InputError(
            f"`potential` must be what its arguments construct, and this {type(potential).__name__} no longer is: a "
            "copy made for inference, say, whose networks are gone; store the original."
        )
    return described


def build(description: Mapping[str, Any]) -> Any:
    """Build the potential that `describe` described, with initial weights.

    Raises
    ------
    InputError
        For a kind that is in neither list, or arguments that it does not take.
    """
    kinds = {kind.__name__: kind for kind in kinds_that_can_be_stored()}
    if not isinstance(description, Mapping) or set(description) != _KEYS:
        raise InputError(f"a description must hold exactly kind and config, got {description!r}; make it by describe.")
    name, config = description["kind"], description["config"]
    if name not in kinds:
        raise InputError(f"the kind of a potential must be one of {', '.join(kinds)}, got {name!r}; upgrade ase_uq.")
    try:
        return kinds[name].from_config({key: _built(value) for key, value in config.items()})
    except (TypeError, KeyError, AttributeError) as e:
        raise InputError(
            f"the arguments of a {name} must be those of this ase_uq, got {sorted(config)}; it was described by "
            "another version, use that one."
        ) from e


def from_old(name: str, config: Mapping[str, Any]) -> Any:
    """Build a potential from the class and the configuration that model files of format version 1 hold.

    There the potentials that members are made of have no name: all are `EquivariantPotential`, those that draws are
    taken of with noise.

    Raises
    ------
    InputError
        As `build`.
    """
    described = dict(config)
    if name == "DeepEnsemble":
        described["members"] = [_equivariant(member) for member in config["members"]]
    elif name == "ShallowEnsemble":
        described["potential"] = _equivariant(config["potential"])
    elif name == "VariationalEnsemble":
        noisy = {**config["potential"], "potential": _equivariant(config["potential"]["potential"])}
        described["potential"] = {"kind": "VariationalPotential", "config": noisy}
    return build({"kind": name, "config": described})


def _equivariant(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "EquivariantPotential", "config": config}


def _described(potential: Any) -> dict[str, Any]:
    # The exact class: a subclass may do anything with the same arguments.
    if type(potential) not in kinds_that_can_be_stored():
        raise InputError(
            f"`potential` must be made of potentials of ase_uq to be stored, {type(potential).__name__} is none, and "
            "no file can hold its architecture; keep the `state_dict()` with torch.save, and the script that builds it."
        )
    config = {key: _encoded(value) for key, value in potential.config().items()}
    return {"kind": type(potential).__name__, "config": config}


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_encoded(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _encoded(each) for key, each in value.items()}
    return _described(value)


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(each) for each in value]
    return build(value) if isinstance(value, Mapping) and set(value) == _KEYS else value


def _shapes(potential: nn.Module) -> dict[str, Any]:
    return {name: (tuple(value.shape), value.dtype) for name, value in potential.state_dict().items()}
