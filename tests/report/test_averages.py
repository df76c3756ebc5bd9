from dataclasses import replace

import numpy as np
import pytest
from ase.units import kB

from ase_uq.averages.run_checks import target_temperature
from ase_uq.averages.running import LONGEST_PREFIX_RUN, N_PREFIXES
from ase_uq.averages.text import model_unresolved
from ase_uq.errors import InputError
from ase_uq.report.averages import averages, reduced_deviations
from ase_uq.reweighting import MIN_FRAMES, reweight
from tests.made.synthetic_runs import ar1, synthetic_run


def test_an_average_is_what_reweighting_gives():
    run = synthetic_run()
    for average in averages(run):
        direct = reweight(
            run.observables[average.name],
            energy_members=run.energy_members,
            energy_reference=run.energy,
            temperature_K=300.0,
        )
        assert average.result.mean == pytest.approx(direct.mean, rel=1e-12)
        assert average.result.std_model == pytest.approx(direct.std_model, rel=1e-6)
        assert average.unit == run.units[average.name]


def test_a_running_average_grows_to_the_whole_run():
    run = synthetic_run()
    average = averages(run, ["umbrella_angle"])[0]
    running, result = average.running, average.result
    assert len(running.mean) == N_PREFIXES
    assert (running.mean[-1], running.std_sampling[-1], running.std_model[-1], running.std_total[-1]) == (
        result.mean,
        result.std_sampling,
        result.std_model,
        result.std_total,
    )
    assert running.time_fs[-1] == run.time_fs[-1]
    n_first = np.searchsorted(run.time_fs, running.time_fs[0]) + 1
    assert running.mean[0] == pytest.approx(run.observables["umbrella_angle"][:n_first].mean(), rel=1e-9)


def test_running_averages_of_a_long_run_are_close_to_those_of_all_frames():
    run = synthetic_run(3 * LONGEST_PREFIX_RUN)
    running = averages(run, ["umbrella_angle"])[0].running
    ends = np.searchsorted(run.time_fs, running.time_fs)
    exact = np.array([run.observables["umbrella_angle"][: end + 1].mean() for end in ends])
    assert np.all(np.abs(running.mean - exact) < 0.3 * running.std_sampling)


def test_frames_at_the_start_can_be_left_out():
    run = synthetic_run(2000)
    average = averages(run, ["bond_length"], skip_fs=run.time_fs[500])[0]
    assert average.result.n_frames == 1500
    assert average.running.time_fs[0] > run.time_fs[500]
    assert len(average.values) == 2000
    with pytest.raises(InputError, match="`skip_fs` must lie within"):
        averages(run, skip_fs=1e9)


def test_an_observable_that_is_not_in_the_log_is_refused():
    with pytest.raises(InputError, match=r"'angle'; the log has: bond_length, umbrella_angle"):
        averages(synthetic_run(50), ["angle"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attributes": {}}, "temperature_K"),
        ({"observables": {"a": np.r_[np.nan, np.ones(199)]}}, "finite"),
    ],
)
def test_what_cannot_be_averaged_says_why(changes, reason):
    average = averages(replace(synthetic_run(200), **changes))[0]
    assert (average.result, average.running) == (None, None)
    assert reason in average.problem


def test_one_bad_observable_does_not_stop_the_others():
    rng = np.random.default_rng(0)
    run = synthetic_run(300, observables={"bad": np.full(300, np.inf), "good": rng.normal(size=300)})
    bad, good = averages(run)
    assert bad.problem
    assert good.result is not None


def test_a_run_of_the_shortest_length_has_one_point():
    average = averages(synthetic_run(MIN_FRAMES))[0]
    assert len(average.running.mean) == 1


def test_a_drifting_observable_is_noticed():
    rng = np.random.default_rng(1)
    noise = ar1(rng, 4000, 0.5)
    run = synthetic_run(observables={"calm": noise, "drifting": noise + 2.0 * (np.arange(4000) > 2000)})
    calm, drifting = averages(run)
    assert not any("drifts" in w for w in calm.warnings)
    assert any("drifts" in w for w in drifting.warnings)


def test_a_spread_of_pure_noise_is_unresolved():
    rng = np.random.default_rng(2)
    h = 0.3 * kB * 300.0 * rng.normal(size=(400, 6))
    run = replace(synthetic_run(400, observables={"a": rng.normal(size=400)}), energy_members_minus_energy=h)
    average = averages(run)[0]
    assert model_unresolved(average.result)
    assert average.running.bound[-1]
    assert average.running.std_model[-1] == pytest.approx(average.result.std_model_naive)
    resolved = averages(synthetic_run(), ["umbrella_angle"])[0].result
    assert not model_unresolved(resolved)


def test_reduced_deviations_are_in_units_of_kT_about_their_mean():
    run = synthetic_run(500)
    h = reduced_deviations(run)
    expected = run.energy_members_minus_energy / (kB * 300.0)
    np.testing.assert_allclose(h, expected - expected.mean(axis=0), atol=1e-12)
    assert reduced_deviations(replace(run, energy_members_minus_energy=None)) is None
    assert target_temperature(replace(run, attributes={"temperature_K": np.nan})) is None
