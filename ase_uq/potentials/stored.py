"""`describe` and `build`: a potential as data that JSON can hold, and back; its weights are its state.

    {"kind": "DeepEnsemble", "config": {"members": [{"kind": "EquivariantPotential", "config": {...}}, ...]}}

A class that can be stored has `config()`, the arguments that construct the same architecture, and `from_config(config)`
that does so. An argument may be a potential itself: it is described in its place, so that anything can be made of
anything. A description may name the `ARCHITECTURES`, and `COMPOSED`, what is made of other potentials; nothing else.
"""

from __future__ import annotations

import re
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
# Far beyond any model, and small enough to be looked through.
_DEEPEST, _LONGEST, _LARGEST, _MOST_MEMBERS = 32, 2_000, 1e15, 10_000


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
        raise InputError(
            f"a description must hold exactly kind and config, got {description!r:.200}; make it by describe."
        )
    name, config = description["kind"], description["config"]
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise InputError(
            f"a description must hold a name and arguments, got {description!r:.200}; make it by describe."
        )
    if name not in kinds:
        raise InputError(
            f"the kind of a potential must be one of {', '.join(kinds)}, got {name!r:.80}; upgrade ase_uq."
        )
    try:
        return kinds[name].from_config({key: _built(value) for key, value in config.items()})
    except (TypeError, KeyError, AttributeError, ValueError, RuntimeError, ArithmeticError, IndexError) as e:
        if isinstance(e, InputError):
            raise
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
    return build(as_described_now(name, config))


def as_described_now(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a potential from its class and its configuration in files of format version 1.

    There the potentials within an ensemble have no name: all are `EquivariantPotential`, those that draws are taken of
    with noise.
    """
    described = dict(config)
    if name == "DeepEnsemble":
        described["members"] = [_equivariant(member) for member in config["members"]]
    elif name == "ShallowEnsemble":
        described["potential"] = _equivariant(config["potential"])
    elif name == "VariationalEnsemble":
        noisy = {**config["potential"], "potential": _equivariant(config["potential"]["potential"])}
        described["potential"] = {"kind": "VariationalPotential", "config": noisy}
    return {"kind": name, "config": described}


def check_description(description: Any, *, numbers: int) -> None:
    """Refuse a description that asks for more than its file holds, before anything is built from it.

    Parameters
    ----------
    description
        As `describe` makes it, from a file.
    numbers
        Numbers in all the tensors of that file.

    Raises
    ------
    InputError
        For values that are nested too deeply, too long, not finite, or of a size that the weights in the file do not
        have.
    """
    _check_plain(description)
    # Draws are of the layers that a pattern picks: these must be built, which the first has found to be harmless.
    for count in (_fewest_weights, _drawn_weights):
        if (fewest := count(description)) > numbers:
            raise InputError(
                f"a description must be that of the weights beside it, it needs at least {fewest:.3g} numbers and "
                f"there are {numbers}; use another copy."
            )


def _check_plain(value: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise InputError(f"a description must not be nested deeper than {_DEEPEST} levels; make it by `describe`.")
    if isinstance(value, str) and len(value) > _LONGEST:
        raise InputError(f"texts of a description must have at most {_LONGEST} characters, got {len(value)}.")
    if isinstance(value, (int, float)) and not -_LARGEST <= value <= _LARGEST:
        raise InputError(f"numbers of a description must be finite and at most {_LARGEST:.0e}, got {value:.3g}.")
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_plain(key, depth + 1)
            _check_plain(each, depth + 1)
    if isinstance(value, list):
        for each in value:
            _check_plain(each, depth + 1)


def _fewest_weights(value: Any) -> int:
    """Numbers that a description cannot do without, as far as its kinds say so."""
    if isinstance(value, list):
        return sum(_fewest_weights(each) for each in value)
    if not isinstance(value, Mapping):
        return 0
    if set(value) != _KEYS or not isinstance(value["config"], Mapping):
        return sum(_fewest_weights(each) for each in value.values())
    inside = sum(_fewest_weights(each) for each in value["config"].values())
    try:
        return inside + _own_weights(value["kind"], value["config"])
    except InputError:
        raise
    except (TypeError, KeyError, ValueError) as e:
        raise InputError(
            f"the arguments of a {value['kind']!r:.40} must be those of this ase_uq, got {list(value['config'])!s:.200}"
            "; it was described by another version, use that one."
        ) from e


def _drawn_weights(value: Any) -> int:
    """Numbers of all draws of variational ensembles, and of the mean weights beside them."""
    if isinstance(value, list):
        return sum(_drawn_weights(each) for each in value)
    if not isinstance(value, Mapping):
        return 0
    inside = sum(_drawn_weights(each) for each in value.values())
    if set(value) != _KEYS or value["kind"] != VariationalEnsemble.__name__:
        return inside
    try:
        potential: Any = build(value["config"]["potential"])
    except re.error as e:
        raise InputError(f"patterns of layers must be regular expressions, got one with {e}; use another copy.") from e
    of_one: int = sum(each.matrix().numel() for each in potential.maps())
    return inside + (int(value["config"]["n_members"]) + 1) * of_one


def _own_weights(name: str, config: Mapping[str, Any]) -> int:
    kinds: dict[str, Any] = {kind.__name__: kind for kind in kinds_that_can_be_stored()}
    own = getattr(kinds[name], "fewest_weights", None)
    if own is not None:
        return int(own(config))
    n_members = config.get("n_members", 0)
    if not isinstance(n_members, int) or not 0 <= n_members <= _MOST_MEMBERS:
        raise InputError(f"`n_members` must be a whole number, at most {_MOST_MEMBERS}, got {n_members!r:.40}.")
    if kinds[name] is not ShallowEnsemble:
        return n_members
    body = config["potential"]
    features = getattr(kinds[body["kind"]], "fewest_features", None)
    return n_members * (1 if features is None else int(features(body["config"])))


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
