import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin
from ase.units import fs

from ase_uq.averages.text import format_result
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.report import build_report, write_report
from ase_uq.report.averages import averages
from ase_uq.report.sections import _contributions
from tests.made.synthetic_runs import synthetic_run

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Text, headings and tables of a page; refuses tags that do not match."""

    def __init__(self, source):
        super().__init__()
        self.open, self.words, self.headings, self.rows = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open or "svg" in self.open:
            return
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def fact(self, name):
        return next(row[1] for row in self.rows if row[0] == name)


@pytest.fixture(scope="module")
def sound():
    return synthetic_run()


@pytest.fixture(scope="module")
def sound_page(sound):
    return build_report(sound, title="Ammonia at 300 K")


def test_the_page_stands_alone(sound_page):
    assert "http" not in sound_page
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|src=", sound_page)
    assert set(re.findall(r"url\((.)", sound_page)) <= {"#"}
    assert len(sound_page) < 1_000_000


def test_the_page_is_balanced_and_its_identifiers_are_unique(sound_page):
    assert Page(sound_page).headings[0] == "What was run"
    identifiers = re.findall(r'\bid="([^"]+)"', sound_page)
    assert len(identifiers) == len(set(identifiers))


def test_every_headline_is_the_rounded_result(sound, sound_page):
    text = Page(sound_page).text
    for average in averages(sound):
        r = average.result
        assert format_result(r.mean, r.std_sampling, r.std_model, average.unit) in text


def test_the_sections_come_in_the_order_of_the_reader(sound_page):
    assert Page(sound_page).headings == [
        "What was run",
        "Energy and temperature",
        "How sure the model was",
        "Weight of the model",
        "Running averages",
        "Members against the driving energy",
    ]


def test_what_was_run_is_told(sound_page):
    page = Page(sound_page)
    assert page.fact("Atoms") == "H18N6"
    assert page.fact("Model hash") == "9f2c4e17ab03"
    assert page.fact("Calibration α") == "1.84, of the variance of forces 1.84"
    assert page.fact("Driven by") == "the model on a weighted baseline"
    assert page.fact("Width of the baseline") == "0.2 eV"
    assert page.fact("Ensemble") == "NVT"
    assert page.fact("Time step") == "0.5 fs"
    assert page.fact("Simulated time") == "20 ps"


def test_a_run_without_a_baseline_shows_no_weight():
    page = Page(build_report(synthetic_run(500, baseline=False)))
    assert "Weight of the model" not in page.headings
    assert "Width of the baseline" not in page.text
    assert page.fact("Driven by") == "the model"


def test_warnings_stand_before_the_numbers_they_touch():
    run = synthetic_run(3000, baseline=False, n_members=4, std_h=1.6, alpha=1.0, seed=3)
    text = Page(build_report(run)).text
    angle = averages(run, ["umbrella_angle"])[0].result
    number = text.index(format_result(angle.mean, angle.std_sampling, angle.std_model, "°"))
    for words in ("not calibrated (alpha = 1)", "has not converged for this observable"):
        assert text.index(words) < number


def test_a_warning_common_to_all_observables_is_said_once():
    text = Page(build_report(synthetic_run(3000, baseline=False, std_h=1.6, seed=3))).text
    assert text.count("move against the driving energy by up to") == 1


def test_a_model_error_lost_in_noise_is_a_bound():
    text = Page(build_report(synthetic_run(30, seed=4))).text
    assert "upper bound" in text
    assert re.search(r"± <[\d.]+ \(model\)", text)
    assert "`" not in text


def test_contributions_of_the_members_sum_to_zero_and_spread_as_told(sound, sound_page):
    rows = [row for row in Page(sound_page).rows if row[0] in list("123456") and len(row) == 4]
    shifts = np.array([[float(cell) for cell in row[2:]] for row in rows])
    assert shifts.shape == (6, 2)
    for column, average in zip(shifts.T, averages(sound), strict=True):
        spread = average.result.std_model_naive
        assert abs(column.sum()) < 0.05 * spread * 6
        assert column.std(ddof=1) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("hostile", ['<script>alert("x")</script>', 'a & b < c > "d"', "cost in $x$ and $y", "$lead"])
def test_names_and_titles_are_text_and_nothing_else(hostile):
    rng = np.random.default_rng(0)
    source = build_report(synthetic_run(60, observables={hostile: rng.normal(size=60)}), title=hostile)
    page = Page(source)
    assert "<script" not in source
    assert page.text.count(hostile) >= 3


def test_a_run_too_short_to_average_still_has_its_figures():
    source = build_report(synthetic_run(5))
    page = Page(source)
    assert "at least 20" in page.text
    assert "Running averages" not in page.headings
    assert source.count("<svg") == 4


def test_a_single_frame_can_be_reported():
    page = Page(build_report(synthetic_run(1)))
    assert page.fact("Simulated time") == "0 fs"


def test_a_run_without_observables_or_members_is_reported():
    run = replace(
        synthetic_run(200, observables={}),
        energy_members=None,
        energy_members_minus_energy=None,
        energy_var=None,
        force_std_max=None,
        force_std_mean=None,
    )
    page = Page(build_report(run))
    assert "nothing to average" in page.text
    assert page.headings == ["What was run", "Energy and temperature", "Weight of the model"]


def test_a_run_without_members_has_averages_and_says_what_is_missing():
    rng = np.random.default_rng(0)
    observables = {"r": 1.0 + 0.01 * rng.normal(size=400), "v": rng.normal(size=(400, 5))}
    run = synthetic_run(400, observables=observables, baseline=False)
    run = replace(run, energy_members=None, energy_members_minus_energy=None)
    page = Page(build_report(run))
    assert "(sampling)" in page.text
    assert "(model)" not in page.text
    assert page.text.count("Model error: none, the model has no members.") == 2
    assert "the model has no members to compare" in page.text
    assert "No average" not in page.text
    assert "Running averages" in page.headings
    scalar, vector = averages(run)
    assert np.isnan(scalar.running.std_model).all()
    assert scalar.running.mean[-1] == scalar.result.mean
    assert vector.result.n_members == 0


def test_what_was_left_out_is_said(sound):
    page = Page(build_report(sound, observables=["bond_length"], skip_fs=5000.0))
    assert "The first 5000 fs were left out of all averages." in page.text
    assert "umbrella_angle" not in page.text


def test_an_empty_run_is_refused():
    with pytest.raises(InputError, match="at least one frame"):
        build_report(synthetic_run(0))


def test_a_long_run_stays_small():
    source = build_report(synthetic_run(60_000, n_members=16))
    assert max(len(svg) for svg in re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)) < 200_000
    assert "500 intervals" in Page(source).text


def test_the_same_run_gives_the_same_page(sound, sound_page):
    assert build_report(sound, title="Ammonia at 300 K") == sound_page


def test_a_logged_run_becomes_a_page(tmp_path):
    atoms = bulk("Ar", cubic=True)
    members = [LennardJones(sigma=3.4, epsilon=eps, rc=6.0) for eps in (0.0100, 0.0102, 0.0104, 0.0106)]
    atoms.calc = UQCalculator(CommitteeUncertainty(members))
    atoms.rattle(0.05, seed=0)
    dyn = Langevin(atoms, 2 * fs, temperature_K=40, friction=0.02 / fs, fixcm=False, rng=np.random.default_rng(1))
    observables = {"distance": (lambda a: a.get_distance(0, 1, mic=True), "Å")}
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=40.0, observables=observables) as log:
        dyn.attach(log)
        dyn.run(60)
    write_report(tmp_path / "run.h5", tmp_path / "report.html", title="Argon")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.fact("Atoms") == "Ar4"
    assert page.fact("Frames") == "61, steps 0 to 60"
    assert "distance" in page.text
    assert "(sampling)" in page.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "run.h5"]


def test_a_missing_folder_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="log file"):
        write_report(tmp_path / "none.h5", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [3e-5, 2.0, 4e6])
def test_what_a_member_adds_is_shown_to_the_digits_of_the_spread(size):
    result = SimpleNamespace(
        mean=1.0, member_means=1.0 + size * np.array([-1.0, -0.2, 0.2, 1.0]), std_model_naive=size * 0.83
    )
    shown = [float(text) for text in _contributions(result)]
    assert shown == pytest.approx([-size, -0.2 * size, 0.2 * size, size], rel=0.1)
