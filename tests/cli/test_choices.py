"""The words of options are those that the functions behind them take."""

from typing import get_args

import pytest

from ase_uq.averages.runs import TARGETS
from ase_uq.cli import choices
from ase_uq.log.columns import PER_ATOM
from ase_uq.reweighting import METHODS
from ase_uq.uncertainty.force_variance import NAMES
from ase_uq.validation import calibration


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (choices.Average, METHODS),
        (choices.Target, TARGETS),
        (choices.Estimator, get_args(calibration.Method)),
        (choices.ForcesVar, NAMES),
        (choices.PerAtom, PER_ATOM),
    ],
)
def test_words_of_options_are_those_of_the_functions(words, taken):
    assert {each.value for each in words} == set(taken)
