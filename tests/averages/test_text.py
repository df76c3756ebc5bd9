import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ase_uq.averages.text import format_fixed, format_result, format_significant, round_result


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((323.4213, 1.1083, 2.6517, "K"), "323.4 ± 1.1 (sampling) ± 2.7 (model) K"),
        ((1.01734, 0.00052, 0.0031, "Å"), "1.01734 ± 0.00052 (sampling) ± 0.00310 (model) Å"),
        ((323.4, 1.1, 0.0, "K"), "323.4 ± 1.1 (sampling) ± 0 (model) K"),
        ((323.4, 0.0, 2.7, None), "323.4 ± 0 (sampling) ± 2.7 (model)"),
        ((123456.0, 1234.0, 5678.0, ""), "123500 ± 1200 (sampling) ± 5700 (model)"),
        ((5.0, 0.0996, 0.3, None), "5.00 ± 0.10 (sampling) ± 0.30 (model)"),
        ((-0.0004, 0.11, 0.2, None), "0.00 ± 0.11 (sampling) ± 0.20 (model)"),
        ((12.0, 1.0, math.nan, "eV"), "12.0 ± 1.0 (sampling) ± unknown (model) eV"),
        ((math.nan, math.nan, math.nan, "eV"), "unknown ± unknown (sampling) ± unknown (model) eV"),
        ((1.0e-6, 2.2e-8, 3.0e-8, "Å"), "(1.000 ± 0.022 (sampling) ± 0.030 (model)) × 10^-6 Å"),
        ((2.5e9, 1.0e7, 3.0e7, None), "(2.500 ± 0.010 (sampling) ± 0.030 (model)) × 10^9"),
        ((1.5, 0.0, 0.0, "Å"), "1.50000 ± 0 (sampling) ± 0 (model) Å"),
        ((10.0, 1e-7, 2.7, None), "10.000 ± <0.001 (sampling) ± 2.700 (model)"),
    ],
)
def test_a_result_is_rounded_to_two_digits_of_the_smaller_bar(arguments, expected):
    assert format_result(*arguments) == expected


@given(
    mean=st.floats(-1e5, 1e5),
    smaller=st.floats(1e-3, 1e3),
    ratio=st.floats(1.0, 90.0),
    sampling_is_smaller=st.booleans(),
)
def test_rounding_moves_nothing_by_more_than_a_twentieth_of_the_smaller_bar(mean, smaller, ratio, sampling_is_smaller):
    bars = (smaller, smaller * ratio) if sampling_is_smaller else (smaller * ratio, smaller)
    rounded = round_result(mean, *bars)
    shown = [float(text) * 10.0**rounded.exponent for text in (rounded.mean, rounded.std_sampling, rounded.std_model)]
    assert shown == pytest.approx([mean, *bars], abs=smaller / 20 * (1 + 1e-9))


@given(value=st.floats(1e-30, 1e30), digits=st.integers(2, 6))
def test_significant_digits_keep_the_value(value, digits):
    assert float(format_significant(value, digits)) == pytest.approx(value, rel=5.001 * 10.0**-digits)


@pytest.mark.parametrize(("bar", "printed"), [(0.3, "<0.30"), (1e-9, "<0.0001"), (math.nan, "unknown")])
def test_a_bound_is_marked_once(bar, printed):
    assert round_result(5.0, 0.1, bar, model_is_bound=True).std_model == printed


def test_numbers_that_are_not_finite_are_words():
    assert [format_fixed(v, 2) for v in (math.nan, math.inf, -math.inf)] == ["unknown", "infinite", "-infinite"]
    assert format_significant(0.0) == "0"
