import numpy as np
import pytest
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st

from ase_uq.errors import InputError
from ase_uq.structures.offsets import fit_offsets, offset_energy


@given(
    n_water=st.lists(st.integers(1, 40), min_size=3, max_size=8),
    n_hydrogen=st.lists(st.integers(0, 9), min_size=8, max_size=8),
    offsets=st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)),
)
def test_offsets_are_recovered_exactly(n_water, n_hydrogen, offsets):
    frames = [Atoms(f"H{2 * n + k}O{n}") for n, k in zip(n_water, n_hydrogen, strict=False)]
    frames += [Atoms("H2"), Atoms("O2")]
    truth = dict(zip("HO", offsets, strict=True))
    baseline = np.linspace(-1e4, 1e4, len(frames))
    fitted = fit_offsets(
        frames, model_energies=baseline + [offset_energy(a, truth) for a in frames], baseline_energies=baseline
    )
    assert list(fitted) == ["H", "O"]
    assert fitted == pytest.approx(truth, abs=1e-8)


def test_one_composition_gets_the_smallest_offsets_that_fit():
    frames = [Atoms("H2O"), Atoms("H2O"), Atoms("H4O2")]
    fitted = fit_offsets(frames, model_energies=[-10.0, -12.0, -22.0], baseline_energies=np.zeros(3))
    # Sum over H2O is the mean, -11; minimum norm is along (2, 1).
    assert fitted == pytest.approx({"H": -11 * 2 / 5, "O": -11 / 5}, rel=1e-12)
    assert offset_energy(Atoms("H2O"), fitted) == pytest.approx(-11.0)
    assert offset_energy(Atoms("H20O10"), fitted) == pytest.approx(-110.0)


def test_offsets_minimise_the_residual_per_atom():
    frames = [Atoms("Cu"), Atoms("Cu4")]
    fitted = fit_offsets(frames, model_energies=[1.0, 8.0], baseline_energies=[0.0, 0.0])
    assert fitted["Cu"] == pytest.approx(1.5)  # mean of 1 and 8/4


def test_bad_alignment_input_is_refused():
    frames = [Atoms("Cu"), Atoms("Cu2")]
    with pytest.raises(InputError, match="`frames` must hold at least one structure"):
        fit_offsets([], model_energies=[], baseline_energies=[])
    with pytest.raises(
        InputError, match=r"`baseline_energies` must hold one energy per frame, shape \(2,\), got \(1,\)"
    ):
        fit_offsets(frames, model_energies=[1.0, 2.0], baseline_energies=[1.0])
    with pytest.raises(InputError, match="`model_energies` must be finite, frame 1 has nan eV"):
        fit_offsets(frames, model_energies=[1.0, np.nan], baseline_energies=[1.0, 1.0])
    with pytest.raises(InputError, match=r"`offsets` must cover every element of the structure, Au is missing from"):
        offset_energy(Atoms("AuCu"), {"Cu": 1.0})
