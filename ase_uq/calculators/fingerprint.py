"""`fingerprint`: a hash that tells calculators with other weights, parameters or files apart.

Names and parameters do not say what a calculator computes where its weights are attributes. So its weights are looked
for: networks of torch anywhere in it; files, for a program that is run from files; else what it computes for a few
small made-up structures of the elements at hand. Its attributes count beside: which head of a network, a factor, an
atomic charge that no small structure shows. Those that an evaluation changes are what it remembers and not what it is,
and do not. Where not even attributes can be read, the hash is one that no other calculator has: never equal by
ignorance.
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
from ase.calculators.calculator import BaseCalculator, FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

from ase_uq.arrays import Array
from ase_uq.calculators.contents import attributes_of, contents_of, is_module, is_opaque

# Distances of neighbours in a made-up structure, Å: within and beyond a bond.
_SPACINGS = (1.6, 2.2, 3.0, 4.0)
_VACUUM = 8.0
# The last digits are those of the processor.
_DIGITS = 9
# What a calculator keeps of its last evaluation, where it writes to, and what ASE gives to all of them.
_PASSING = frozenset(
    {"results", "atoms", "nl", "nblist", "nlist", "neighbor_list", "parameters", "use_cache", "get_spin_polarized"}
    | {"directory", "label", "prefix", "txt", "logfile", "implemented_properties"}
)
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
    if isinstance(calculator, FileIOCalculator | GenericFileIOCalculator):
        return _hash([*content, _files(calculator)])
    has_networks = any(True for _ in _modules(calculator))
    evaluated = None if atoms is None else _evaluated(calculator, atoms)
    if evaluated is None:
        return _hash([*content, _files(calculator), *_held(calculator, is_known=has_networks)])
    energies, lasting = evaluated
    # Networks in single precision do not give the same digits everywhere, and their weights say it all.
    told: Any = None if has_networks else _telling(energies)
    if told is None and not has_networks:
        return _hash([*content, _files(calculator), *_held(calculator, is_known=False)])
    return _hash([*content, _files(calculator), told, lasting])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def probe(calculator: Any, atoms: Atoms) -> list[str] | None:
    """Return energies, eV, of made-up structures of the elements of `atoms`; `None` where they say nothing."""
    evaluated = _evaluated(calculator, atoms)
    return None if evaluated is None else _telling(evaluated[0])


def _telling(energies: list[str]) -> list[str] | None:
    known = {energy for energy in energies if energy != "none"}
    # The same number for all of them is that of atoms that do not see each other.
    return energies if len(known) > 1 else None


def _evaluated(calculator: Any, atoms: Atoms) -> tuple[list[str], dict[str, Any]] | None:
    """Return energies of made-up structures, and the contents of attributes that stay as they are meanwhile.

    Whatever was evaluated before, what is remembered of it has been replaced after the first of the structures.
    """
    try:
        # Networks are looked at and not copied: they may fill the memory.
        twin = copy.deepcopy(calculator, {id(each): each for each in _modules(calculator)})
    except Exception:  # whatever stands in the way of a copy
        return None
    first, *others = made_up(atoms)
    energies = [_energy_by(twin, first)]
    before = _attributes(twin)
    energies += [_energy_by(twin, each) for each in others]
    after = _attributes(twin)
    return energies, {name: each for name, each in before.items() if after.get(name) == each}


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


def _modules(calculator: Any) -> Iterator[Any]:
    """Yield the networks of torch in an object."""
    yield from _inside(calculator, is_module, within=False)


def _inside(
    value: Any, wanted: Callable[[Any], bool], *, within: bool = True, depth: int = 0, seen: set[int] | None = None
) -> Iterator[Any]:
    """Yield an object and what it holds, if it is wanted, each once, in the order of attributes.

    `within`: look also into what was yielded.
    """
    seen = set() if seen is None else seen
    if id(value) in seen or depth > _DEEPEST:
        return
    seen.add(id(value))
    if wanted(value) and not isinstance(value, type):
        yield value
        if not within:
            return
    held: Any = ()
    if isinstance(value, Mapping):
        held = value.values()
    elif isinstance(value, list | tuple):
        held = value
    elif not isinstance(value, type | Atoms) and not is_module(value):
        held = [each for name, each in attributes_of(value).items() if name not in _PASSING]
    for each in held:
        yield from _inside(each, wanted, within=within, depth=depth + 1, seen=seen)


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


def _held(calculator: Any, *, is_known: bool) -> list[Any]:
    """Return what attributes hold, with a number that is never the same where that cannot be seen and nothing tells."""
    held = _attributes(calculator)
    is_seen = (bool(held) or hasattr(calculator, "__dict__")) and not is_opaque(held)
    return [held, *([] if is_known or is_seen else ["unknown", uuid.uuid4().hex])]


def _attributes(calculator: Any) -> dict[str, Any]:
    """Return what the attributes hold by name, and those of calculators inside, which are told by parameters alone."""
    found: dict[str, Any] = {}
    for i, each in enumerate(_inside(calculator, _is_calculator)):
        # Weights may well be private.
        lasting = {
            name: value for name, value in sorted(attributes_of(each).items()) if name.lstrip("_") not in _PASSING
        }
        found |= {name if each is calculator else f"{i}.{name}": contents_of(value) for name, value in lasting.items()}
    return found


def _is_calculator(value: Any) -> bool:
    return isinstance(value, BaseCalculator) or hasattr(value, "predict")
