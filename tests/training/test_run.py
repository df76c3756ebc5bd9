"""What all methods have in common, tried with one that has no members; options, tables and what is refused."""

import dataclasses
import inspect
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ase_uq.errors import InputError
from ase_uq.options import check_options, option, options_of, recorded, types_of
from ase_uq.potentials import EquivariantPotential, ShallowEnsemble
from ase_uq.potentials.architectures import ARCHITECTURES
from ase_uq.potentials.graph import build_graph
from ase_uq.training import Blip, Deep, FitSettings, Method, Shallow, TrainingRun, read_frames, train_members
from ase_uq.training import run as run_module
from ase_uq.training.architectures import ARCHITECTURE_OPTIONS
from ase_uq.training.methods import METHODS
from ase_uq.uncertainty.prediction import Prediction
from tests.made.alloys import SMALL, labelled


class OneWidth:
    """A model without members: one width for all energies."""

    def __init__(self, potential, width, training):
        self.body, self.width, self.training = potential, width, training

    def predict(self, atoms, properties=()):
        energy = float(self.body.energies(build_graph(atoms, self.body.cutoff)).detach())
        return Prediction(energy=energy, forces=np.zeros((len(atoms), 3)), energy_var_epistemic=self.width**2)


@dataclass(frozen=True)
class Widths(Method):
    """The spread of a body that was trained once, over its last samples."""

    name = "widths"
    says = "no members"

    factor: float = option(1.0, "Of the width.", above=0)

    def train(self, run):
        body, errors = run.new_body(), []
        data = run.batches(body.cutoff)

        def follow(*, epoch, batch, energy_error, force_error):
            errors.extend(energy_error.tolist())

        run.fit(body, data, "body", on_samples=follow)
        return OneWidth(body, self.factor * np.std(errors or [0.0, 1.0]), run.described())

    def warnings(self, model, run):
        return (f"the width of {len(run.train)} frames is {model.width:.1g}.",)


@pytest.fixture(scope="module")
def frames():
    found = labelled(16, 0)
    return found[:12], found[12:]


def made(frames, method, **options):
    settings = FitSettings(epochs=3, batch_size=4)
    return TrainingRun(*frames, method, **{"settings": settings, "config": SMALL, **options})


def test_a_method_without_members_goes_the_same_road(frames, tmp_path):
    records = []
    run = made(
        frames,
        Widths(factor=2.0),
        state_dir=tmp_path / "state",
        on_epoch=lambda part, record: records.append((part, record.epoch, (tmp_path / "state" / "body.pt").exists())),
        data="alloy.xyz",
    )
    model = run.complete()
    assert records == [(0, 1, True), (0, 2, True), (0, 3, True)]
    assert not (tmp_path / "state").exists()
    described = json.loads(json.dumps(model.training))
    assert described["method"] == "widths"
    assert described["potential"] == "equivariant"
    assert (described["data"], described["n_train"], described["n_valid"], described["factor"]) == (
        "alloy.xyz", 12, 4, 2.0,
    )  # fmt: skip
    assert [(part["name"], part["epochs"]) for part in described["parts"]] == [("training", 3)]
    (sentence,) = run.warnings(model)
    assert sentence.startswith("the width of 12 frames")
    assert model.predict(frames[1][0].atoms).energy_var > 0


def test_every_run_goes_on_where_it_was_interrupted(frames, tmp_path):
    class Stop(Exception):
        pass

    def stop(part, record):
        if record.epoch == 2:
            raise Stop

    whole = made(frames, Widths()).complete()
    with pytest.raises(Stop):
        made(frames, Widths(), state_dir=tmp_path / "state", on_epoch=stop).complete()
    resumed = made(frames, Widths(), state_dir=tmp_path / "state", resume=True).complete()
    for a, b in zip(whole.body.state_dict().values(), resumed.body.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_model_that_cannot_be_written_is_not_lost(frames, tmp_path):
    def full(model):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        made(frames, Widths(), state_dir=tmp_path / "state").complete(save=full)
    records, saved = [], []
    resumed = made(frames, Widths(), state_dir=tmp_path / "state", resume=True, on_epoch=lambda *r: records.append(r))
    assert resumed.complete(save=saved.append) is saved[0]
    assert records == []
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_list_trains_a_model_that_tells_how(frames, name):
    kind = METHODS[name]
    assert issubclass(kind, Method)
    assert kind.name == name
    method = kind(**({"n_members": 2} if "n_members" in options_of(kind) else {}))
    run = made(frames, method, settings=FitSettings(epochs=1, batch_size=4))
    model = run.complete()
    described = json.loads(json.dumps(model.training))
    assert described["method"] == name
    assert {part["name"] for part in described["parts"]} <= set(method.parts())
    assert set(recorded(method)) <= set(described)
    assert all(sentence.endswith(".") for sentence in run.warnings(model))
    assert np.isfinite(model.predict(frames[1][0].atoms).energy_var)
    assert method.plan("cpu")


def test_the_call_in_one_line_gives_the_same_members(frames):
    settings = FitSettings(epochs=2, batch_size=4, seed=5)
    one = train_members(*frames, n_members=2, settings=settings, config=SMALL, subsample=0.7)
    other = made(frames, Deep(2, 0.7), settings=settings).complete().potential
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_constants_are_fitted_once_for_all_members(frames, monkeypatch):
    calls = []
    fitted = run_module.fit_reference

    def counted(shown, *, cutoff):
        calls.append(len(shown))
        return fitted(shown, cutoff=cutoff)

    monkeypatch.setattr(run_module, "fit_reference", counted)
    made(frames, Deep(n_members=3, subsample=0.5), settings=FitSettings(epochs=1, batch_size=6)).complete()
    assert calls == [12]


def test_fine_tuning_leaves_the_start_alone_and_needs_one_of_its_kind(frames):
    start = made(frames, Deep(n_members=2)).complete().potential
    before = {name: value.clone() for name, value in start.state_dict().items()}
    tuned = made(frames, Deep(n_members=2), start=start).complete()
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert "potential" not in tuned.training
    with pytest.raises(InputError, match="`start` needs a ShallowEnsemble for the method shallow, got a DeepEnsemble"):
        made(frames, Shallow(), start=start)
    body = EquivariantPotential(["Au", "Cu"], **SMALL)
    with pytest.raises(InputError, match="`start` needs a DeepEnsemble for the method deep, got a ShallowEnsemble"):
        made(frames, Deep(), start=ShallowEnsemble(body, 3))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"architecture": "magic"}, "`architecture` must be one of equivariant for the method deep, got 'magic'"),
        ({"config": {"chanels": 8}}, r"`config` must hold arguments of EquivariantPotential \(cutoff, .*got 'chanels'"),
        ({"config": {"seed": 8}}, "got 'seed'"),
        ({"device": "tpu"}, "`device` must be cpu"),
    ],
)
def test_bad_runs(frames, options, rule):
    with pytest.raises(InputError, match=rule):
        made(frames, Deep(), **options)


def test_a_method_takes_the_architectures_that_it_says(frames):
    class Picky(Widths):
        architectures = ("spline",)

    with pytest.raises(InputError, match="`architecture` must be one of .* for the method widths, got 'equivariant'"):
        made(frames, Picky())


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (
            lambda: Deep(n_members=1),
            "`n_members` must be at least 2, got 1; a variance takes two, and 4 or more is usual",
        ),
        (lambda: Deep(n_members=2.5), "`n_members` must be a whole number, got 2.5"),
        (lambda: Deep(n_members=True), "`n_members` must be a whole number, got True"),
        (lambda: Deep(n_members=None), "`n_members` must be a whole number, got None"),
        (lambda: Deep(subsample=0.0), r"`subsample` must lie in \(0, 1\], got 0.0; 1.0 shows every frame"),
        (lambda: Deep(subsample=float("nan")), r"`subsample` must lie in \(0, 1\], got nan"),
        (lambda: Deep(jobs=0), "`jobs` must be at least 1, got 0"),
        (lambda: Shallow(n_members=0), "`n_members` must be at least 2, got 0; .* 8 or more is usual"),
        (lambda: Blip(kl_weight=-1e-3), "`kl_weight` must not be negative, got -0.001; 0.0001 is usual"),
        (lambda: Blip(kl_weight="much"), "`kl_weight` must be a number or None, got 'much'"),
        (lambda: FitSettings(schedule=3), "`schedule` must be a word, got 3; choose one"),
        (lambda: FitSettings(energy_weight=-1.0), "`energy_weight` must not be negative"),
        (lambda: FitSettings(epochs=float("inf")), "`epochs` must be a whole number, got inf"),
        (lambda: FitSettings(amsgrad=1), "`amsgrad` must be True or False, got 1"),
    ],
)
def test_options_out_of_range_get_one_sentence(make, rule):
    with pytest.raises(InputError, match=rule):
        make()


def test_options_take_numbers_of_numpy():
    assert Deep(n_members=np.int64(3), subsample=np.float32(0.5), jobs=None).n_members == 3
    assert FitSettings(learning_rate=np.float64(0.1), minutes=3).minutes == 3


def test_bounds_are_said_as_they_are_checked():
    @dataclass(frozen=True)
    class Many:
        a: float = option(1.0, "A.", above=1, at_most=3)
        b: float = option(1.0, "B.", at_most=3)
        c: float = option(1.0, "C.", at_least=-1)
        d: float = option(1.0, "D.", above=-1)

        def __post_init__(self):
            check_options(self)

    rules = {"a": "lie in (1, 3]", "b": "be at most 3", "c": "be at least -1", "d": "be above -1"}
    assert {name: known.rule.removeprefix("must ") for name, known in options_of(Many).items()} == rules
    inside = {"a": 3, "b": 3.0, "c": -1, "d": 0}
    assert Many(**inside).a == 3
    for name, value in {"a": 1.0, "b": 3.1, "c": -1.1, "d": -1.0}.items():
        with pytest.raises(InputError, match=f"`{name}` must"):
            Many(**{**inside, name: value})


@pytest.mark.parametrize("kind", [FitSettings, *METHODS.values(), *ARCHITECTURE_OPTIONS.values()])
def test_every_option_says_what_it_is_and_has_a_default_that_it_takes(kind):
    known = options_of(kind)
    assert set(known) == {field.name for field in dataclasses.fields(kind)}
    for name, each in known.items():
        assert each.help.endswith("."), name
        default = getattr(kind(), name)
        assert default is None or each.allows(default), name
    assert all(hint in (int, float, str, bool, int | None, float | None) for hint in types_of(kind).values())


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES, *ARCHITECTURE_OPTIONS}))
def test_options_of_an_architecture_are_arguments_of_its_class(name):
    arguments = inspect.signature(ARCHITECTURES[name]).parameters
    for field in dataclasses.fields(ARCHITECTURE_OPTIONS[name]):
        assert arguments[field.name].default == field.default, field.name


def test_names_of_the_package_are_there():
    import ase_uq.training

    for name in ase_uq.training.__all__:
        assert getattr(ase_uq.training, name).__doc__, name
    assert dir(ase_uq.training) == sorted(ase_uq.training.__all__)
    assert ase_uq.training.read_frames is read_frames
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = ase_uq.training.nonsense
