"""Reading, splitting, fitting, resuming; members that differ as they should."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ase_uq.errors import InputError, RunError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import EquivariantPotential, evaluate
from ase_uq.potentials.graph import build_graph
from ase_uq.training import FitSettings, Frame, read_frames, split_frames, train_members
from ase_uq.training.apart import subsample
from ase_uq.training.batches import Batches
from ase_uq.training.fit import fit
from ase_uq.training.losses import Labels, SquaredErrors
from ase_uq.training.reference import fit_reference
from ase_uq.training.schedule import learning_rate_factor
from ase_uq.training.settings import Weights
from ase_uq.validation.residuals import residuals
from tests.made.alloys import SMALL, emt_frames


@pytest.fixture(scope="module")
def alloy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("alloy") / "alloy.xyz.gz"
    write(path, emt_frames())
    return path


@pytest.fixture(scope="module")
def alloy(alloy_file):
    return read_frames(alloy_file)


def settings(**changes):
    return FitSettings(**{"epochs": 4, "batch_size": 4, **changes})


def trained(alloy, **options):
    return train_members(alloy[:18], alloy[18:], **{"n_members": 2, "settings": settings(), "config": SMALL, **options})


def energies_of(ensemble, frame):
    return ensemble.energies(build_graph(frame.atoms, ensemble.cutoff)).detach().numpy()[:, 0]


# --- reading ------------------------------------------------------------------------------------------------------


def test_frames_have_their_labels(alloy):
    original = emt_frames()
    assert len(alloy) == 24
    assert alloy[3].energy == pytest.approx(original[3].info["REF_energy"], abs=1e-6)
    assert alloy[3].forces == pytest.approx(original[3].arrays["REF_forces"], abs=1e-6)
    assert alloy[3].stress == pytest.approx(original[3].info["REF_stress"], abs=1e-6)
    assert alloy[3].group == "alloy"
    assert alloy[3].atoms.calc is None


def test_ases_own_labels_and_named_keys(tmp_path):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.full((2, 3), 0.25))
    write(tmp_path / "own.xyz", atoms)
    frame = read_frames(tmp_path / "own.xyz")[0]
    assert (frame.energy, frame.forces[0, 0], frame.stress) == (-1.5, 0.25, None)
    named = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    named.info["dft"] = -2.0
    named.arrays["grad"] = np.zeros((2, 3))
    write(tmp_path / "named.xyz", named)
    assert read_frames(tmp_path / "named.xyz", energy_key="dft", forces_key="grad")[0].energy == -2.0


def test_a_stress_of_nine_numbers_is_turned_into_voigt(tmp_path):
    atoms = emt_frames(1)[0]
    xx, yy, zz, yz, xz, xy = atoms.info["REF_stress"]
    atoms.info["REF_stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    write(tmp_path / "a.xyz", atoms)
    assert read_frames(tmp_path / "a.xyz")[0].stress == pytest.approx([xx, yy, zz, yz, xz, xy], abs=1e-7)


def _with(atoms, **info):
    atoms = atoms.copy()
    atoms.info.update(info)
    return atoms


def _forces(atoms, value):
    atoms = atoms.copy()
    atoms.arrays["REF_forces"] = np.full((len(atoms), 3), value)
    return atoms


def _drop(atoms, key):
    atoms = atoms.copy()
    (atoms.arrays if "forces" in key else atoms.info).pop(key)
    return atoms


@pytest.mark.parametrize(
    ("damage", "keys", "rule"),
    [
        (lambda a: _with(a, REF_energy=float("nan")), {}, "frame 1 of .*: the energy label must be finite"),
        (lambda a: _forces(a, np.nan), {}, "the forces label must be finite"),
        (lambda a: _forces(a, 1e4), {}, "a force of 1e[+]04 eV/Å exceeds `max_force` 300"),
        (lambda a: _drop(a, "REF_energy"), {}, "frame 1 of .* has no energy under `REF_energy`"),
        (lambda a: a, {"energy_key": "REF_enrgy"}, "did you mean 'REF_energy'.*`energy_key`"),
        (lambda a: a, {"forces_key": "REF_energy"}, "has no forces under `REF_energy`; did you mean"),
        (lambda a: a, {"stress_key": "virial"}, "has no stress under `virial`"),
        (lambda a: _with(a, REF_stress=np.arange(4.0)), {}, "6 or 9 numbers"),
        (lambda a: _with(a, REF_stress=np.arange(9.0).reshape(3, 3)), {}, "must be symmetric"),
    ],
)
def test_bad_labels_are_named_with_their_frame(tmp_path, damage, keys, rule):
    frames = emt_frames(2)
    frames[1] = damage(frames[1])
    write(tmp_path / "bad.xyz", frames)
    with pytest.raises(InputError, match=rule):
        read_frames(tmp_path / "bad.xyz", **keys)


def test_bad_files_get_one_sentence(tmp_path, alloy_file):
    with pytest.raises(InputError, match="there is none"):
        read_frames(tmp_path / "missing.xyz")
    content = alloy_file.read_bytes()
    for name, damaged in (
        ("short.xyz.gz", content[: len(content) // 2]),
        ("other.xyz", b"\x00\x01 not a structure"),
        ("empty.xyz", b""),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name}. could not be read|must hold at least one"):
            read_frames(tmp_path / name)
    text = tmp_path / "cut.xyz"
    write(text, emt_frames(2))
    text.write_text("".join(text.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(InputError, match="could not be read"):
        read_frames(text)
    empty_cell = Atoms("H", pbc=True)
    empty_cell.info["REF_energy"], empty_cell.arrays["REF_forces"] = 0.0, np.zeros((1, 3))
    write(tmp_path / "cell.xyz", empty_cell)
    with pytest.raises(InputError, match="frame 0 of .*a vector along every periodic axis"):
        read_frames(tmp_path / "cell.xyz")


def test_split_is_reproducible_and_complete(alloy):
    a, b = split_frames(alloy, valid_fraction=0.25, seed=3)
    assert (len(a), len(b)) == (18, 6)
    assert {id(f) for f in a + b} == {id(f) for f in alloy}
    again = split_frames(alloy, valid_fraction=0.25, seed=3)
    assert [id(f) for f in again[1]] == [id(f) for f in b]
    assert [id(f) for f in split_frames(alloy, valid_fraction=0.25, seed=4)[1]] != [id(f) for f in b]
    assert len(split_frames(alloy[:2], valid_fraction=0.01)[1]) == 1
    with pytest.raises(InputError, match="at least 2 frames, got 1"):
        split_frames(alloy[:1], valid_fraction=0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        split_frames(alloy, valid_fraction=1.0)


# --- reference, loss, schedule ------------------------------------------------------------------------------------


def test_reference_recovers_atomic_energies():
    frames = list(_additive({"Cu": -3.0, "Au": -5.0}))
    reference = fit_reference(frames, cutoff=3.0)
    assert reference.elements == ("Au", "Cu")
    assert reference.shifts == pytest.approx((-5.0, -3.0))
    forces = np.concatenate([frame.forces.ravel() for frame in frames])
    assert reference.scale == pytest.approx(np.sqrt((forces**2).mean()))
    assert reference.mean_neighbours == pytest.approx(
        np.mean([len(build_graph(f.atoms, 3.0).senders) / len(f.atoms) for f in frames])
    )


def _additive(energies, extra=0.0):
    for index, atoms in enumerate(emt_frames(6)):
        total = sum(energies[symbol] for symbol in atoms.symbols)
        yield Frame(atoms, total + (extra if index == 2 else 0.0), atoms.arrays["REF_forces"], None, "")


def test_an_absurd_energy_is_refused():
    with pytest.raises(InputError, match="training frame 2: its energy of .* off what its composition suggests"):
        fit_reference(list(_additive({"Cu": -3.0, "Au": -5.0}, extra=1e4)), cutoff=3.0)


def test_loss_by_hand(alloy):
    potential = EquivariantPotential(["Au", "Cu"], dtype="float64", **SMALL)
    potential.scale.fill_(0.5)
    batch = next(Batches(alloy[:2], cutoff=potential.cutoff, batch_size=2).in_order())
    evaluation = evaluate(potential, batch.graph, stress=True)
    scored = SquaredErrors(Weights(2.0, 3.0, 5.0))(potential, batch.graph, batch.labels, training=False)
    energy = forces = stress = 0.0
    for s, frame in enumerate(alloy[:2]):
        atoms = slice(4 * s, 4 * s + 4)
        energy += (evaluation.energies[0, s].item() - frame.energy) ** 2 / 16 / 0.25 / 2
        forces += ((evaluation.forces[0, atoms].numpy() - frame.forces) ** 2).sum() / 0.25 / 24
        virial = (evaluation.stresses[0, s].numpy() - frame.stress) * frame.atoms.get_volume()
        stress += (virial**2).sum() / 16 / 0.25 / 12
    assert scored.loss.item() == pytest.approx(2 * energy + 3 * forces + 5 * stress)
    assert scored.energy_error.shape == (2,)
    assert scored.force_error.shape == (8, 3)


def test_frames_without_stress_do_not_enter_its_term(alloy):
    potential = EquivariantPotential(["Au", "Cu"], dtype="float64", **SMALL)
    batch = next(Batches(alloy[:2], cutoff=potential.cutoff, batch_size=2).in_order())
    changed = batch.labels.stresses.clone()
    changed[1] = 1e6
    hidden = torch.tensor([True, False])
    objective = SquaredErrors(Weights(0.0, 0.0, 1.0))
    values = [
        objective(
            potential,
            batch.graph,
            Labels(batch.labels.energies, batch.labels.forces, stresses, hidden),
            training=False,
        ).loss.item()
        for stresses in (batch.labels.stresses, changed)
    ]
    assert values[0] == values[1] > 0


def test_schedules():
    def factor(schedule, progress=0.0, losses=(), patience=2):
        return learning_rate_factor(schedule, progress=progress, losses=losses, patience=patience)

    assert factor("constant", 0.7) == 1.0
    assert [factor("cosine", p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([1.0, 0.505, 0.01, 0.01])
    assert factor("plateau", losses=[3, 2, 2, 2]) == 0.5
    assert factor("plateau", losses=[3, 2, 2, 2, 2, 2]) == 0.25
    assert factor("plateau", losses=[3, 2, 2, 1, 1]) == 1.0


# --- fitting ------------------------------------------------------------------------------------------------------


def test_training_lowers_the_error_on_new_frames(alloy):
    ensemble = trained(alloy, settings=settings(epochs=80, learning_rate=0.03, ema=0.9))
    fresh = [_labelled(atoms) for atoms in emt_frames(8, seed=99)]
    found = residuals(MemberUncertainty(ensemble), fresh)
    plain = np.concatenate([frame.forces for frame in fresh])
    assert np.sqrt((found.force_error**2).mean()) < 0.35 * np.sqrt((plain**2).mean())
    assert np.sqrt((found.energy_error**2).mean()) / 4 < 0.1


def _labelled(atoms):
    return Frame(atoms, atoms.info["REF_energy"], atoms.arrays["REF_forces"], atoms.info["REF_stress"], "")


def test_the_same_seed_gives_the_same_members_in_one_process_or_two(alloy):
    one, two, other = trained(alloy), trained(alloy, jobs=2), trained(alloy, settings=settings(seed=7))
    frame = alloy[0]
    assert energies_of(one, frame) == pytest.approx(energies_of(two, frame), rel=1e-6)
    assert abs(energies_of(one, frame) - energies_of(other, frame)).max() > 1e-4
    assert np.ptp(energies_of(one, frame)) > 1e-4


def test_an_interrupted_training_ends_in_the_same_place(alloy, tmp_path):
    whole = trained(alloy, settings=settings(epochs=4))

    class Interrupted(Exception):
        pass

    def stop(member, record):
        if (member, record.epoch) == (1, 2):
            raise Interrupted

    with pytest.raises(Interrupted):
        trained(alloy, settings=settings(epochs=4), state_dir=tmp_path / "state", on_epoch=stop)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "member_0.pt",
        "member_1.pt",
        "training.json",
    ]
    records = []
    resumed = trained(
        alloy,
        settings=settings(epochs=4),
        state_dir=tmp_path / "state",
        resume=True,
        on_epoch=lambda member, record: records.append((member, record.epoch)),
    )
    assert records == [(1, 3), (1, 4)]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not (tmp_path / "state").exists()


def test_resuming_with_other_settings_is_refused(alloy, tmp_path):
    potential = EquivariantPotential(["Au", "Cu"], **SMALL)
    train, valid = (Batches(f, cutoff=3.5, batch_size=4) for f in (alloy[:18], alloy[18:]))
    path = tmp_path / "state.pt"
    fit(potential, train, valid, settings(epochs=1), state_path=path)
    with pytest.raises(InputError, match="`learning_rate` must be 0.01 as in the interrupted training, got 0.5"):
        fit(potential, train, valid, settings(learning_rate=0.5), state_path=path, resume=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="could not be read"):
        fit(potential, train, valid, settings(), state_path=path, resume=True)


def test_the_best_weights_are_kept_not_the_last(alloy, monkeypatch):
    potential = EquivariantPotential(["Au", "Cu"], **SMALL)
    train, valid = (Batches(f, cutoff=3.5, batch_size=4) for f in (alloy[:18], alloy[18:]))
    given = iter([3.0, 1.0, 2.0])
    module = importlib.import_module("ase_uq.training.fit")  # the name in the package is the function
    monkeypatch.setattr(module, "validate", lambda *_: module.Errors(next(given), 0.0, 0.0, None))
    weights = []

    def remember(record):
        weights.append({name: value.clone() for name, value in potential.state_dict().items()})

    # Without averaging, the judged weights are those of the potential itself.
    assert fit(potential, train, valid, settings(epochs=3, ema=0.0), on_epoch=remember) == [3.0, 1.0, 2.0]
    kept = potential.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in weights[1].items())
    assert not all(torch.equal(kept[name], value) for name, value in weights[2].items())


def test_errors_of_every_epoch_by_hand(alloy):
    """Energies per atom, forces and stress of the averaged weights, over all validation frames and batches."""
    bare = [replace(frame, stress=None) if k % 2 else frame for k, frame in enumerate(alloy[18:])]
    potential = EquivariantPotential(["Au", "Cu"], **SMALL)
    train, valid = (Batches(f, cutoff=3.5, batch_size=4) for f in (alloy[:4], bare))
    records = []
    fit(potential, train, valid, settings(epochs=1, ema=0.0), on_epoch=records.append)
    energy, forces, stress = [], [], []
    for frame in bare:
        found = evaluate(potential, build_graph(frame.atoms, 3.5), stress=True)
        energy.append((found.energies.item() - frame.energy) / 4)
        forces.append(found.forces[0].numpy() - frame.forces)
        if frame.stress is not None:
            stress.append(found.stresses[0, 0].numpy() - frame.stress)
    for name, errors in (("energy_rmse", energy), ("forces_rmse", forces), ("stress_rmse", stress)):
        assert getattr(records[0], name) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-3), name
    none = [replace(frame, stress=None) for frame in bare]
    fit(potential, train, Batches(none, cutoff=3.5, batch_size=4), settings(epochs=1), on_epoch=records.append)
    assert records[-1].stress_rmse is None


def test_samples_are_reported_with_their_errors(alloy):
    potential = EquivariantPotential(["Au", "Cu"], **SMALL)
    train, valid = (Batches(f, cutoff=3.5, batch_size=4) for f in (alloy[:6], alloy[18:]))
    seen = []

    def on_samples(*, epoch, batch, energy_error, force_error):
        seen.append((epoch, sorted(batch.samples.tolist()), energy_error.shape, force_error.shape))

    fit(potential, train, valid, settings(epochs=2), on_samples=on_samples)
    assert [row[0] for row in seen] == [0, 0, 1, 1]
    assert sorted(seen[0][1] + seen[1][1]) == list(range(6))
    assert seen[0][2:] == ((4,), (16, 3))


def test_time_budget_and_early_stopping_end_in_good_order(alloy):
    potential = EquivariantPotential(["Au", "Cu"], **SMALL)
    train, valid = (Batches(f, cutoff=3.5, batch_size=4) for f in (alloy[:6], alloy[18:]))
    losses = fit(potential, train, valid, settings(epochs=100_000, minutes=0.02))
    assert 1 <= len(losses) < 1000
    # With no learning rate to speak of, nothing improves.
    frozen = settings(epochs=8, learning_rate=1e-30, stop_after=3, ema=0.0, schedule="plateau")
    assert len(fit(potential, train, valid, frozen)) == 4
    # A cosine is cut short by nothing: its last part is where the loss falls.
    assert len(fit(potential, train, valid, replace(frozen, schedule="cosine"))) == 8


def test_divergence_is_said_in_one_sentence(alloy):
    potential = EquivariantPotential(["Au", "Cu"], **SMALL)
    train, valid = (Batches(f, cutoff=3.5, batch_size=4) for f in (alloy[:6], alloy[18:]))
    with pytest.raises(RunError, match="training diverged in epoch"):
        fit(potential, train, valid, settings(learning_rate=1e30, ema=0.0))


def test_fine_tuning_starts_from_the_members(alloy):
    first = trained(alloy, settings=settings(epochs=8))
    records = []
    tuned = trained(alloy, start=first, on_epoch=lambda m, r: records.append(r), settings=settings(epochs=1))
    fresh = []
    trained(alloy, on_epoch=lambda m, r: fresh.append(r), settings=settings(epochs=1))
    assert records[0].train_loss < 0.7 * fresh[0].train_loss
    assert tuned.members[0].scale == first.members[0].scale


def test_subsamples_are_without_replacement_and_differ(alloy):
    one, two = subsample(alloy, 0.5, 0), subsample(alloy, 0.5, 1)
    assert len({id(frame) for frame in one}) == 12
    assert {id(frame) for frame in one} != {id(frame) for frame in two}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"n_members": 1}, "`n_members` must be at least 2"),
        ({"subsample": 0.0}, "`subsample` must lie in"),
        ({"device": "cuda"}, "needs a GPU"),
    ],
)
def test_bad_training_options(alloy, options, rule):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        options = {"device": "cuda:99"}
    with pytest.raises((InputError, RuntimeError), match=rule):
        trained(alloy, **options)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epochs": 0}, "`epochs` must be positive"),
        ({"learning_rate": math.nan}, "`learning_rate` must be positive"),
        ({"schedule": "linear"}, "`schedule` must be one of"),
        ({"ema": 1.0}, "`ema` must lie in"),
        ({"minutes": -1.0}, "`minutes` must be positive"),
    ],
)
def test_bad_settings(change, rule):
    with pytest.raises(InputError, match=rule):
        FitSettings(**change)
