"""`fingerprint`: a hash that tells calculators with other weights, parameters or files apart.

Names and parameters do not say what a calculator computes where its weights are attributes. So its weights are looked
for, in this order: networks of torch anywhere in it; files, for a program that is run from files; else what it computes
for a few small made-up structures of the elements at hand. Where nothing of that can be had, what its attributes hold
counts; and where not even that can be read, the hash is one that no other calculator has: never equal by ignorance.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

from ase_uq.arrays import Array
from ase_uq.calculators.contents import contents_of, is_module, is_opaque

# Distances of neighbours in a made-up structure, Å: within and beyond a bond.
_SPACINGS = (1.6, 2.2, 3.0, 4.0)
_VACUUM = 8.0
# The last digits are those of the processor.
_DIGITS = 9
# What a calculator keeps of its last evaluation, and where it writes to.
_PASSING = frozenset({"results", "atoms", "nl", "nblist", "nlist", "neighbor_list", "parameters", "directory"})
_OUTPUT = ("txt", "log", "out", "traj", "label", "prefix", "restart", "directory")
_DEEPEST = 4
_CHUNK = 1 << 20


def fingerprint(calculator: Any, atoms: Atoms | None = None) -> str:
    """Return a SHA-256 of what a calculator, or a model with `predict`, computes.

    Parameters
    ----------
    calculator
        Any ASE calculator. A copy of it is what evaluates made-up structures.
    atoms
        Says which elements and which periodic directions these have. Without it none is evaluated, and the hash may
        depend on whether the calculator has been used.
    """
    content = [_name(calculator), _parameters(calculator)]
    weights = [contents_of(module) for module in _modules(calculator)]
    told: Any = weights
    if not weights:
        from_files = isinstance(calculator, FileIOCalculator | GenericFileIOCalculator)
        energies = None if atoms is None or from_files else probe(calculator, atoms)
        told = energies if energies is not None else [_files(calculator), *([] if from_files else _held(calculator))]
    return hashlib.sha256(json.dumps([*content, told], sort_keys=True, default=str).encode()).hexdigest()


def probe(calculator: Any, atoms: Atoms) -> list[str] | None:
    """Return energies, eV, of made-up structures of the elements of `atoms`; `None` where they say nothing."""
    try:
        twin = copy.deepcopy(calculator)
    except Exception:  # whatever stands in the way of a copy
        return None
    energies = [_energy_by(twin, each) for each in made_up(atoms)]
    known = {energy for energy in energies if energy != "none"}
    # The same number for all of them is that of atoms that do not see each other.
    return energies if len(known) > 1 else None


def made_up(atoms: Atoms) -> Iterator[Atoms]:
    """Yield small irregular structures with two atoms of every element of `atoms`, the same in every process."""
    elements = np.repeat(np.unique(atoms.numbers), 2)
    sites = _sites(len(elements))
    for spacing in _SPACINGS:
        positions = spacing * sites
        cell = np.ptp(positions, axis=0) + _VACUUM + spacing
        yield Atoms(numbers=elements, positions=positions + 0.5 * _VACUUM, cell=cell, pbc=atoms.pbc)


def _sites(n: int) -> Array:
    side = int(np.ceil(n ** (1 / 3)))
    grid = np.array(list(itertools.islice(itertools.product(range(side), repeat=3), n)), dtype=np.float64)
    # Off the grid by up to a tenth, so that no angle and no distance is there twice.
    return grid + 0.1 * np.sin(np.arange(1, 3 * n + 1, dtype=np.float64).reshape(n, 3) ** 2)


def _energy_by(calculator: Any, atoms: Atoms) -> str:
    evaluate: Callable[[Atoms], Any]
    if hasattr(calculator, "predict"):
        evaluate = lambda each: calculator.predict(each, ["energy"]).energy  # noqa: E731
    else:
        evaluate = lambda each: calculator.get_property("energy", each)  # noqa: E731
    try:
        return f"{float(np.reshape(evaluate(atoms), -1)[0]):.{_DIGITS}g}"
    except Exception:  # elements it does not know, a cell it does not want
        return "none"


def _name(calculator: Any) -> str:
    return f"{type(calculator).__qualname__} {getattr(calculator, 'name', '')}"


def _parameters(calculator: Any) -> Any:
    try:
        return contents_of(calculator.todict())
    except Exception:  # the parameters of foreign classes are often no plain dictionary
        return contents_of(dict(getattr(calculator, "parameters", None) or {}))


def _modules(value: Any, depth: int = 0, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield the networks of torch in an object, each once, in the order of its attributes."""
    seen = set() if seen is None else seen
    if id(value) in seen or depth > _DEEPEST:
        return
    seen.add(id(value))
    if is_module(value) and not isinstance(value, type):
        yield value
        return
    inside: Any = ()
    if isinstance(value, Mapping):
        inside = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not isinstance(value, Atoms):
        inside = [each for name, each in vars(value).items() if name not in _PASSING]
    for each in inside:
        yield from _modules(each, depth + 1, seen)


def _files(calculator: Any) -> dict[str, str]:
    """Hashes of the files that parameters name, whole or as a word of a longer text."""
    found = {}
    for key, text in _texts(dict(getattr(calculator, "parameters", None) or {})):
        for word in (text, *text.split()):
            if not key.lower().startswith(_OUTPUT) and _is_file(word):
                found[word] = _hash_of_file(Path(word))
    return found


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str | Path):
        yield key, str(value)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(each, str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, key)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def _hash_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _held(calculator: Any) -> list[Any]:
    attributes = getattr(calculator, "__dict__", None)
    if attributes is None:
        return ["unknown", uuid.uuid4().hex]
    # Weights may well be private.
    held = {name: contents_of(each) for name, each in sorted(attributes.items()) if name not in _PASSING}
    return [held, *(["unknown", uuid.uuid4().hex] if is_opaque(held) else [])]
