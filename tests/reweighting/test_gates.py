from dataclasses import replace

import pytest

from ase_uq.reweighting.gate import sentences
from ase_uq.reweighting.gates import Diagnostics, Discrepancy, gates_for

healthy = Diagnostics(
    method="cea",
    n_members=8,
    n_frames=10_000,
    independent=1000.0,
    plateau=True,
    max_std_h=0.4,
    std_mean_h=1e-9,
    spread=0.04,
    noise=0.001,
    mean_shift=0.0,
    ess=1000.0,
    second_order=Discrepancy(size=0.01, significance=10.0),
    disagreement=Discrepancy(size=0.01, significance=10.0),
    energy_step=1e-9,
)


def warnings_for(numbers):
    return sentences(gates_for(numbers))


@pytest.mark.parametrize("method", ["cea", "direct"])
def test_a_healthy_run_is_silent(method):
    assert warnings_for(replace(healthy, method=method)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_std_h": 1.5}, "by up to 1.5 kT along the run (limit 1 kT)"),
        ({"rare": 6.0}, "a few rare events carry most of the variance (skewness 6 of averages over short blocks"),
        ({"max_std_h": 2.5}, "by up to 2.5 kT along the run (limit 2 kT)"),
        ({"method": "direct", "max_std_h": 2.0}, "direct weights keep about 0.018 of the frames"),
        ({"method": "direct", "ess": 12.0}, "only 12 effective frames (fewer than 50)"),
        ({"second_order": Discrepancy(0.1, 4.0)}, "shifts the members by 0.1, against a spread of 0.2"),
        ({"disagreement": Discrepancy(0.1, 4.0)}, "differ by 0.1 per member, against a spread of 0.2 and 4 times"),
        ({"independent": 80.0}, "only 80 independent frames (fewer than 100)"),
        ({"plateau": False}, "no plateau in 10000 frames"),
        ({"noise": 0.025}, "spread by 0.2 where sampling noise alone gives 0.16"),
        ({"std_mean_h": 0.2, "mean_shift": -0.3}, "by 0.2 kT, and the reported mean is -0.3 away"),
        ({"n_members": 3}, "the spread of 3 members is known to 50% at best"),
        ({"energy_step": 0.3}, "single precision, which resolves them to 0.3 kT"),
    ],
)
def test_one_gate_one_sentence(change, words):
    (sentence,) = warnings_for(replace(healthy, **change))
    assert words in sentence
    assert sentence.endswith(".")


def test_a_very_short_run_says_so_of_both_bars():
    first, second = warnings_for(replace(healthy, independent=30.0, noise=0.01))
    assert "only 30 correlation lengths long" in first
    assert "only 30 independent frames" in second
    assert "25%" in second


@pytest.mark.parametrize("gate", ["second_order", "disagreement"])
@pytest.mark.parametrize("discrepancy", [None, Discrepancy(0.1, 2.0), Discrepancy(0.05, 9.0)])
def test_a_discrepancy_must_be_significant_and_matter(gate, discrepancy):
    assert warnings_for(replace(healthy, **{gate: discrepancy})) == ()


def test_the_expansion_is_not_judged_for_direct_weights():
    assert warnings_for(replace(healthy, method="direct", second_order=Discrepancy(0.1, 4.0))) == ()
