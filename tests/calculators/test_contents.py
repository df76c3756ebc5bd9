"""What objects hold, as data: equal for what computes the same, in every process."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase.build import molecule

from ase_uq.calculators.contents import contents_of, is_opaque

FACTOR, UNUSED = 2.0, 1


def scaled(factor):
    return lambda x: factor * x


def by_a_global(x):
    return FACTOR * x


def of_a_text(x):
    return x in {"a", "b", "c"}


@dataclass
class Bins:
    edges: np.ndarray


class Shift:
    def __init__(self, by):
        self._by = by

    def __call__(self, x):
        return x + self._by

    def method(self, x):
        return self(x)


PAIRS = {
    "closure": (scaled(1.0), scaled(2.0)),
    "code": (lambda x: x, lambda x: 2 * x),
    "constant": (lambda x: x + 1, lambda x: x + 2),
    "name of a method": (lambda x: x.get_positions(), lambda x: x.get_forces()),
    "default": (lambda x, y=1: y, lambda x, y=2: y),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "array": (np.zeros(3), np.ones(3)),
    "long array": (np.zeros(300), np.ones(300)),
    "dataclass": (Bins(np.zeros(3)), Bins(np.ones(3))),
    "object": (Shift(1), Shift(2)),
    "bound method": (Shift(1).method, Shift(2).method),
    "nested": ({"a": [scaled(1.0)]}, {"a": [scaled(2.0)]}),
    "elements": (molecule("H2O"), molecule("NH3")),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_differs_has_other_contents(kind):
    one, other = (json.dumps(contents_of(each), sort_keys=True) for each in PAIRS[kind])
    assert one != other
    assert one == json.dumps(contents_of(PAIRS[kind][0]), sort_keys=True)


def test_a_global_counts_where_it_is_read(monkeypatch):
    before = contents_of(by_a_global)
    monkeypatch.setitem(globals(), "UNUSED", 5)
    assert contents_of(by_a_global) == before
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert contents_of(by_a_global) != before


def test_structures_that_move_are_the_same():
    atoms = molecule("H2O")
    moved = atoms.copy()
    moved.positions += 1.0
    assert contents_of(lambda a: a.positions - atoms.positions)["atoms"] == contents_of(moved)


def test_networks_go_by_their_weights():
    torch.manual_seed(0)
    one, other = torch.nn.Linear(20, 20), torch.nn.Linear(20, 20)
    assert contents_of(one) != contents_of(other)
    other.load_state_dict(one.state_dict())
    assert contents_of(one) == contents_of(other)
    assert contents_of(one.bfloat16()) != contents_of(other)


def test_functions_of_packages_go_by_their_names():
    assert contents_of(lambda x: np.linalg.norm(x))["np"] == {"name": "numpy"}
    assert "code" not in contents_of(json.dumps)


def test_what_holds_itself_has_an_end():
    ring = []
    ring.append(ring)
    assert contents_of(ring) == [{"within": "list"}]


def test_what_cannot_be_looked_into_says_so():
    assert is_opaque(contents_of({"a": [object()]}))
    assert not is_opaque(contents_of({"a": [Shift(1)]}))


def test_they_are_the_same_in_another_process():
    """Sets of texts are in another order there."""
    shown = "json.dumps(contents_of([of_a_text, PAIRS['object'][0]]))"
    program = f"from tests.calculators.test_contents import *; print({shown})"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == json.dumps(contents_of([of_a_text, PAIRS["object"][0]]))
