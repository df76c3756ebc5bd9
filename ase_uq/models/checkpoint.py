"""`save` and `load`: one file per model.

The file is what `torch.save` makes of a dictionary with exactly these entries:

===========  ==========================================================================
entry        content
===========  ==========================================================================
format       "ase_uq"
version      2
description  JSON: the class of the model, what of its `state()` JSON can hold, versions
state        name -> tensor, the rest of its `state()`; those of a dictionary "a" are "a/name"
hash         SHA-256 over the description and the tensors
===========  ==========================================================================

It is read with weights-only loading, which cannot run code, and refused if it holds anything else. What a model needs
to be written and read is in its own `state()` and `from_state()`; `STORABLE` is the whole of what a file may name.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_uq.errors import InputError
from ase_uq.files import replacing
from ase_uq.models.inspection import HostileFileError, Stored
from ase_uq.models.inspection import inspect as inspect_file
from ase_uq.models.llpr import LLPRUncertainty
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials.stored import as_described_now, build, check_description, describe
from ase_uq.uncertainty.abilities import StorableModel

FORMAT, VERSION = "ase_uq", 2
ENTRIES = {"format", "version", "description", "state", "hash"}
STORABLE: tuple[type[StorableModel], ...] = (MemberUncertainty, LLPRUncertainty)


def save(model: Any, path: str | Path) -> None:
    """Write a model to one file; the file appears whole or not at all.

    Parameters
    ----------
    model
        A model of one of the classes `STORABLE`.
    path
        The file.

    Raises
    ------
    InputError
        For a model of another class (a committee of ASE calculators, say), or made of foreign potentials.
    """
    kind = type(model)
    # The exact class: a subclass may do anything with the same state.
    if kind not in STORABLE:
        raise InputError(
            f"`model` must be made of potentials of ase_uq to be saved, got {kind.__name__}, which is none of "
            f"{', '.join(each.__name__ for each in STORABLE)}; keep a script that builds it."
        )
    plain, tensors = _parts(model.state(), kind.__name__)
    versions = {"ase_uq": version("ase-uq"), "torch": torch.__version__}
    try:
        description = json.dumps({"model": kind.__name__, "content": plain, "versions": versions}, sort_keys=True)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"`model` must have a state of tensors and of what JSON can hold, that of this {kind.__name__} has more "
            f"({e}); put plain numbers and text in its place."
        ) from e
    content = {
        "format": FORMAT,
        "version": VERSION,
        "description": description,
        "state": tensors,
        "hash": _hash(description, tensors),
    }
    with replacing(path) as aside:
        torch.save(content, aside)


def load(path: str | Path, **evaluation: Any) -> Any:
    """Read a model file.

    Parameters
    ----------
    path
        The file.
    **evaluation
        How it is to be evaluated: `device`, `compile`, `memory_limit`, `skin`, as for `MemberUncertainty`.

    Returns
    -------
    UncertaintyModel
        Of the class that was saved, ready for `UQCalculator`.

    Raises
    ------
    InputError
        For a missing, truncated, altered or foreign file, or one with anything beside the five entries in it; for a
        choice of evaluation that this kind of model does not have.
    """
    path = Path(path)
    content = _read(path)
    description = _description(content, path)
    written = description["versions"]["ase_uq"]
    kinds = {each.__name__: each for each in STORABLE}
    name = description["model"] if content["version"] > 1 else MemberUncertainty.__name__
    if name not in kinds:
        raise InputError(
            f"`{path}` holds a {name!r:.40}, written by ase_uq {written}, which this ase_uq does not know; upgrade it."
        )
    _check_evaluation(kinds[name], evaluation)
    state = _state(content, description, path)
    try:
        model = kinds[name].from_state(state, **evaluation)
        getattr(model, "warnings", ())  # made of what is told of the training
    except InputError as e:
        raise InputError(f"`{path}` holds a model that cannot be built: {e}") from e
    except Exception as e:  # whatever a description of another version, or of a stranger, may lead to
        raise InputError(
            f"`{path}` was written by ase_uq {written}, whose architecture differs; train it again."
        ) from e
    return model


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"`{path}` must be a model file, and there is no such file; check the path.")
    try:
        _check_entries(inspect_file(path), path)
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except InputError:
        raise
    except Exception as e:
        why = f" ({e})" if isinstance(e, HostileFileError) else ""
        raise InputError(
            f"`{path}` could not be read as a model file{why}; it is truncated, of another kind, or holds more than "
            "weights."
        ) from e
    if content["hash"] != _hash(content["description"], content["state"]):
        raise InputError(f"`{path}` does not match its own hash; it was altered or damaged, use another copy.")
    for name, value in content["state"].items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"`{path}` must hold finite weights, {name} has nan or infinity; use another copy.")
    return content


def _check_entries(content: Any, path: Path) -> None:
    """Check what a file says it holds, with stand-ins for tensors: nothing large has been made so far."""
    if not isinstance(content, dict) or set(content) != ENTRIES or content["format"] != FORMAT:
        raise InputError(f"`{path}` must hold exactly the entries of an ase_uq model; save models with ase_uq.save.")
    version, state = content["version"], content["state"]
    if type(version) is not int or version < 1:
        raise InputError(f"`{path}` must have a format version of 1 or more, got {version!r:.40}; use another copy.")
    if version > VERSION:
        raise InputError(f"`{path}` has format version {version}, ase_uq here reads {VERSION}; upgrade it.")
    texts = isinstance(content["description"], str) and isinstance(content["hash"], str)
    if not texts or not isinstance(state, dict):
        raise InputError(f"`{path}` must hold a text and tensors by name, it does not; use another copy.")
    if not all(isinstance(name, str) and isinstance(value, Stored) for name, value in state.items()):
        raise InputError(f"`{path}` must hold tensors by name, it holds more than weights; use another copy.")


def _description(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    needed = {"model": str, "content": dict} if content["version"] > 1 else {"potential": str, "config": dict}
    try:
        found = json.loads(content["description"])
        whole = all(isinstance(found[name], kind) for name, kind in {**needed, "versions": dict}.items())
        whole = whole and isinstance(found["versions"]["ase_uq"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise InputError(f"`{path}` has a description that is none of a model; save models with ase_uq.save.")
    return found  # type: ignore[no-any-return]


def _parts(state: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split a state into what JSON can hold and tensors."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if "/" in name:
            raise InputError(f"names of a state must have no slash, that of this {kind} has {name!r}; rename it.")
        if isinstance(value, (Tensor, np.ndarray)):
            tensors[name] = _plain(value)
        elif isinstance(value, Mapping) and value and all(isinstance(v, (Tensor, np.ndarray)) for v in value.values()):
            tensors |= {f"{name}/{part}": _plain(each) for part, each in value.items()}
        else:
            plain[name] = value
    return plain, tensors


def _plain(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu()


def _state(content: Mapping[str, Any], description: Mapping[str, Any], path: Path) -> dict[str, Any]:
    numbers = sum(value.numel() for value in content["state"].values())
    if content["version"] == 1:
        return _old_state(content, description, path, numbers)
    state = dict(description["content"])
    for name, value in content["state"].items():
        whole, _, part = name.partition("/")
        if not part:
            state[whole] = value
        elif isinstance(state.setdefault(whole, {}), dict):
            state[whole][part] = value
        else:
            raise InputError(f"`{path}` has two things by the name {whole!r:.40}; use another copy.")
    _check_description(state.get("potential"), numbers, path)
    return state


def _check_description(description: Any, numbers: int, path: Path) -> None:
    try:
        check_description(description, numbers=numbers)
    except InputError as e:
        raise InputError(f"`{path}` holds a model that cannot be built: {e}") from e


def _old_state(content: Mapping[str, Any], description: Mapping[str, Any], path: Path, numbers: int) -> dict[str, Any]:
    """Return the state of the `MemberUncertainty` that every file of version 1 holds."""
    try:
        old = as_described_now(description["potential"], description["config"])
        told = {name: description[name] for name in ("calibration", "training")}
        _check_description(old, numbers, path)
        potential = describe(build(old))
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as e:
        written = description["versions"]["ase_uq"]
        raise InputError(
            f"`{path}` was written by ase_uq {written}, whose architecture differs; train it again."
        ) from e
    # Files of earlier versions have one factor for everything.
    factors = {name: description.get(name) for name in ("alpha", "alpha_forces", "alpha_stress")}
    return {"potential": potential, "weights": content["state"], **factors, **told}


def _check_evaluation(kind: type[StorableModel], evaluation: Mapping[str, Any]) -> None:
    taken = inspect.signature(kind.from_state).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return
    for name in evaluation:
        if name not in taken:
            known = ", ".join(list(taken)[1:]) or "none"
            raise InputError(f"`{name}` must be left out for a {kind.__name__}; its evaluation takes {known}.")


def _hash(description: str, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
