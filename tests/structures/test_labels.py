"""Labels of files: where they come from, virials, stresses in other units, energies of two sources."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.units import GPa

from ase_uq.errors import InputError
from ase_uq.structures.frames import label_notes
from ase_uq.training import read_frames

STRESS = np.array([0.01, -0.02, 0.03, 0.001, -0.002, 0.003])


def full(voigt):
    xx, yy, zz, yz, xz, xy = voigt
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def crystal(prefix="REF_", energy=-3.0, seed=0, **info):
    atoms = bulk("Cu", cubic=True)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=(4, 3))
    atoms.info |= {f"{prefix}energy": energy, **info}
    atoms.arrays[f"{prefix}forces"] = np.full((4, 3), 0.1)
    return atoms


def dimer():
    atoms = molecule("H2")
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = -1.0, np.zeros((2, 3))
    return atoms


def frames_of(tmp_path, *structures, **keys):
    write(tmp_path / "a.xyz", list(structures))
    return read_frames(tmp_path / "a.xyz", **keys)


# ASE reads nothing but 9 numbers under "virial".
SHAPES = {
    "REF_virial": [(9,), (3, 3), (6,)],
    "REF_virials": [(9,)],
    "virial": [(9,), (3, 3)],
    "virials": [(3, 3), (6,)],
}


@pytest.mark.parametrize(("key", "shape"), [(key, shape) for key, shapes in SHAPES.items() for shape in shapes])
def test_virials_are_read_as_stress(tmp_path, key, shape):
    atoms = crystal()
    virial = -atoms.get_volume() * (STRESS if shape == (6,) else full(STRESS).reshape(shape))
    atoms.info[key] = virial
    (frame,) = frames_of(tmp_path, atoms)
    assert frame.stress == pytest.approx(STRESS, abs=1e-9)
    assert label_notes([frame], "a.xyz") == (f"a.xyz: stress = -`{key}` / volume (in 1 of 1 frames).",)


@pytest.mark.parametrize("key", ["dft_virial", "TZ_Virials", "REF_virial"])
def test_a_stress_key_that_names_a_virial_is_converted(tmp_path, key):
    atoms = crystal()
    atoms.info[key] = -atoms.get_volume() * full(STRESS)
    (frame,) = frames_of(tmp_path, atoms, stress_key=key)
    assert frame.stress == pytest.approx(STRESS, abs=1e-9)


def test_a_virial_of_an_unusual_name_is_named(tmp_path):
    atoms = crystal()
    atoms.info["dft_virial"] = np.eye(3)
    (frame,) = frames_of(tmp_path, atoms)
    assert frame.stress is None
    (note,) = label_notes([frame], "a.xyz")
    assert note.startswith("a.xyz: `dft_virial` is not read; with `stress_key='dft_virial'` it is")


def test_a_virial_without_a_cell_is_left_out_in_words(tmp_path):
    molecular = dimer()
    molecular.info["REF_virial"] = np.eye(3)
    frames = frames_of(tmp_path, molecular, molecular)
    assert [frame.stress for frame in frames] == [None, None]
    assert label_notes(frames, "a.xyz") == (
        "a.xyz: `REF_virial` is left out: a stress needs a cell with a volume and a periodic axis (in 2 of 2 frames).",
    )
    # By name too, and isolated atoms of the same file may be without.
    bare = dimer()
    frames = frames_of(tmp_path, crystal(dft_virial=np.eye(3)), bare, stress_key="dft_virial")
    assert [frame.stress is None for frame in frames] == [False, True]


def test_a_stress_and_a_virial_that_contradict_each_other_are_noted(tmp_path):
    volume = bulk("Cu", cubic=True).get_volume()
    right = crystal(REF_stress=full(STRESS), REF_virial=-volume * full(STRESS))
    wrong = crystal(REF_stress=full(STRESS), REF_virial=volume * full(STRESS))
    frames = frames_of(tmp_path, right, wrong)
    assert frames[1].stress == pytest.approx(STRESS)
    (note,) = label_notes(frames, "a.xyz")
    assert note.startswith("a.xyz: `REF_stress` is not -`REF_virial` / volume, in sign or in size, and it is")
    assert note.endswith("(in 1 of 2 frames).")


def test_stress_in_some_frames_is_said(tmp_path):
    some = [crystal(REF_stress=STRESS), crystal(seed=1), dimer()]
    assert label_notes(frames_of(tmp_path, *some), "a.xyz") == (
        "a.xyz: 1 of 2 periodic frames have a stress; the others count by energies and forces.",
    )
    for clean in (
        [crystal(), dimer()],
        [crystal(REF_stress=STRESS), crystal(REF_stress=full(STRESS)), dimer()],
        [dimer()],
    ):
        assert label_notes(frames_of(tmp_path, *clean), "a.xyz") == ()


@pytest.mark.parametrize("unit", [1.0 / GPa, -10.0 / GPa])
def test_a_stress_in_another_unit_is_refused(tmp_path, unit):
    atoms = crystal(REF_stress=unit * full(STRESS + 0.1))
    with pytest.raises(InputError, match=r"frame 1 of .*exceeds `max_stress` 5; .*kbar.*GPa.*the other sign"):
        frames_of(tmp_path, crystal(), atoms)
    assert frames_of(tmp_path, atoms, max_stress=1e6)[0].stress is not None
    # As a virial too, which a small cell turns into much.
    atoms = crystal(REF_virial=unit * 100 * np.eye(3))
    with pytest.raises(InputError, match="exceeds `max_stress`"):
        frames_of(tmp_path, atoms)


def own(energy, **labels):
    atoms = crystal()
    del atoms.info["REF_energy"], atoms.arrays["REF_forces"]
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **labels)
    return atoms


def test_energies_of_one_file_have_one_source(tmp_path):
    forces = np.full((4, 3), 0.1)
    with pytest.raises(InputError, match="frame 0 has it under REF_energy, frame 2 under ASE's own labels"):
        frames_of(tmp_path, crystal(), crystal(), own(97.0, forces=forces))
    with pytest.raises(InputError, match="frame 0 has it under ASE's own labels, frame 1 under REF_energy"):
        frames_of(tmp_path, own(97.0, forces=forces), crystal())
    assert len(frames_of(tmp_path, own(97.0, forces=forces), own(98.0, forces=forces))) == 2


def test_energies_and_forces_are_of_one_calculation(tmp_path):
    both = own(97.0, forces=np.full((4, 3), 0.2))
    both.info["REF_energy"] = -3.0
    with pytest.raises(InputError, match="the energy is that of `REF_energy`, the forces are those of ASE's own"):
        frames_of(tmp_path, both)
    both = own(97.0, forces=np.full((4, 3), 0.2))
    both.arrays["REF_forces"] = np.full((4, 3), 0.1)
    with pytest.raises(InputError, match="that of ASE's own labels, the forces are those of `REF_forces`"):
        frames_of(tmp_path, both)
    # Named, it is the user's choice; and forces without an energy beside them can belong to nothing else.
    frame = frames_of(tmp_path, both, energy_key="energy", forces_key="REF_forces")[0]
    assert (frame.energy, frame.forces[0, 0]) == (97.0, 0.1)
    alone = crystal()
    alone.calc = SinglePointCalculator(alone, forces=np.full((4, 3), 0.2))
    del alone.arrays["REF_forces"]
    assert frames_of(tmp_path, alone)[0].forces[0, 0] == 0.2


def test_the_stress_of_another_calculation_is_left_out(tmp_path):
    mixed = crystal()
    mixed.calc = SinglePointCalculator(mixed, energy=97.0, stress=STRESS)
    (frame,) = frames_of(tmp_path, mixed)
    assert frame.stress is None
    assert "comes with another energy" in label_notes([frame], "a.xyz")[0]
    for same in ({"energy": -3.0}, {}):
        mixed.calc = SinglePointCalculator(mixed, stress=STRESS, **same)
        assert frames_of(tmp_path, mixed)[0].stress == pytest.approx(STRESS)


@pytest.mark.slow
@pytest.mark.data
def test_clean_files_say_nothing(reference_data):
    for name in ("3bpa/train_300K", "ta/train", "carbon/train", "lial/train"):
        frames = read_frames(reference_data / f"{name}.xyz.gz")
        assert label_notes(frames, name) == ()
        assert isinstance(frames[0].atoms, Atoms)


# --- what is read, and what is no label -----------------------------------------------------------------------------


def bare(seed=0, **info):
    atoms = crystal(seed=seed, **info)
    del atoms.arrays["REF_forces"]
    return atoms


def test_sources_are_counted(tmp_path):
    forces = np.full((4, 3), 0.1)
    with pytest.raises(InputError, match=r"\(3 and 1 of 4 frames\), perhaps of another method .*or make two files"):
        frames_of(tmp_path, crystal(), crystal(), crystal(), own(97.0, forces=forces))


def test_forces_of_one_file_have_one_source(tmp_path):
    alone = bare()
    alone.calc = SinglePointCalculator(alone, forces=np.full((4, 3), 0.2))
    with pytest.raises(InputError, match="the forces of .* frame 0 has it under REF_forces, frame 1 under ASE's own"):
        frames_of(tmp_path, crystal(), alone)


def test_stresses_of_two_sources_are_said(tmp_path):
    mixed = crystal()
    mixed.calc = SinglePointCalculator(mixed, stress=STRESS)
    frames = frames_of(tmp_path, crystal(REF_stress=STRESS), mixed, crystal(seed=1, REF_stress=STRESS))
    said = "a.xyz: the stresses of frames have several sources, 2 of REF_stress, 1 of ASE's own labels."
    assert said in label_notes(frames, "a.xyz")


def test_a_free_energy_is_an_energy_where_there_is_no_other(tmp_path):
    forces = np.full((4, 3), 0.1)
    free = crystal()
    del free.info["REF_energy"], free.arrays["REF_forces"]
    free.calc = SinglePointCalculator(free, free_energy=-7.0, forces=forces)
    assert frames_of(tmp_path, free)[0].energy == -7.0
    assert frames_of(tmp_path, free, energy_key="free_energy")[0].energy == -7.0
    both = own(-6.5, free_energy=-7.0, forces=forces)
    assert frames_of(tmp_path, both)[0].energy == -6.5
    named = crystal(REF_free_energy=-8.0)
    del named.info["REF_energy"]
    assert frames_of(tmp_path, named)[0].energy == -8.0
    with pytest.raises(InputError, match="frame 0 has it under ASE's own labels, frame 1 under ASE's own free energy"):
        frames_of(tmp_path, own(97.0, forces=forces), free)


def test_frames_without_forces_count_by_their_energies(tmp_path):
    frames = frames_of(tmp_path, crystal(), bare(seed=1), crystal(seed=2))
    assert [frame.forces is None for frame in frames] == [False, True, False]
    said = "a.xyz: 1 of 3 frames have no forces, and count by their energies."
    assert label_notes(frames, "a.xyz") == (said,)
    # All of a file, or a name that is nearly right: a wrong key.
    with pytest.raises(InputError, match=r"frame 0 of .*, as all others, has no forces under `REF_forces`"):
        frames_of(tmp_path, bare(), bare(seed=1))
    for name in ("REF_force", "dft_forces", "gradient"):
        wrong = bare()
        wrong.arrays[name] = np.zeros((4, 3))
        with pytest.raises(InputError, match="frame 1 of .* has no forces under `REF_forces`"):
            frames_of(tmp_path, crystal(), wrong)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"REF_energy": "-3.O"}, "the energy label must be made of numbers, got '-3.O'"),
        ({"REF_energy": "********"}, r"the energy label must be made of numbers, got '\*+'"),
        ({"REF_energy": True}, "the energy label must be made of numbers, got True"),
        ({"REF_stress": "none"}, "the stress label must be made of numbers, got 'none'"),
        ({"REF_energy": np.nan}, "the energy label must be finite, got nan"),
        ({"REF_stress": np.full((3, 3), np.inf)}, "the stress label must be finite, got inf"),
        ({"config_weight": -1.0}, "`config_weight` must be one number of at least 0, got -1"),
        ({"config_forces_weight": "many"}, "the config_forces_weight label must be made of numbers, got 'many'"),
    ],
)
def test_what_is_no_number_is_named_with_its_frame(tmp_path, labels, words):
    with pytest.raises(InputError, match=f"frame 1 of .*{words}") as refused:
        frames_of(tmp_path, crystal(), crystal(**labels))
    assert "\n" not in str(refused.value)


def test_text_in_a_column_of_forces_is_named(tmp_path):
    write(tmp_path / "a.xyz", [crystal(), crystal()])
    text = (tmp_path / "a.xyz").read_text().splitlines()
    text[7] = text[7].replace("REF_forces:R:3", "REF_forces:S:3")
    text[9] = text[9].replace("0.10000000", "one")
    (tmp_path / "a.xyz").write_text("\n".join(text) + "\n")
    with pytest.raises(InputError, match="frame 1 of .*: the forces label must be made of numbers, got 'one'"):
        read_frames(tmp_path / "a.xyz")
    broken = crystal()
    broken.arrays["REF_forces"][2, 1] = np.nan
    with pytest.raises(InputError, match="frame 0 of .*: the forces label must be finite, got nan at atom 2"):
        frames_of(tmp_path, broken)


def test_weights_of_frames_are_read(tmp_path):
    frames = frames_of(
        tmp_path,
        crystal(REF_stress=STRESS, config_weight=2.0, config_energy_weight=0.5, config_stress_weight=3),
        crystal(REF_stress=STRESS, config_forces_weight=0, config_virials_weight=0.0),
        crystal(config_energy_weight=0),
    )
    assert frames[0].weights == (1.0, 2.0, 6.0)
    assert frames[1].weights == (1.0, 0.0, 0.0)
    assert frames[1].forces is None
    assert frames[1].stress is None
    assert [frame.has_energy for frame in frames] == [True, True, False]
    assert any("3 of 3 frames have weights of their own" in note for note in label_notes(frames, "a.xyz"))


# --- charge and spin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["charge", "total_charge", "REF_charge", "spin", "multiplicity", "spin_multiplicity"])
def test_charges_and_spins_that_differ_are_refused(tmp_path, key):
    with pytest.raises(InputError, match=f"frames of .* differ in `{key}` .*3 in 2, .*several energy surfaces"):
        frames_of(tmp_path, crystal(**{key: 3}), crystal(**{key: 2}), crystal(**{key: 3}))
    with pytest.raises(InputError, match=f"differ in `{key}`"):
        frames_of(tmp_path, crystal(**{key: 3}), crystal())
    frames = frames_of(tmp_path, crystal(**{key: 3}), crystal(**{key: 3}))
    (note,) = label_notes(frames, "a.xyz")
    assert f"`{key}` is 3 in all frames: the model is for this" in note


@pytest.mark.parametrize(
    ("key", "value"), [("charge", 0), ("charge", "0"), ("spin", 1), ("multiplicity", 1), ("spin", 0)]
)
def test_neutral_singlets_get_no_word(tmp_path, key, value):
    frames = frames_of(tmp_path, crystal(**{key: value}), crystal())
    assert label_notes(frames, "a.xyz") == ()


def test_isolated_atoms_have_a_spin_of_their_own(tmp_path):
    atom = Atoms("O", info={"REF_energy": -432.0, "config_type": "IsolatedAtom", "multiplicity": 3})
    frames = frames_of(tmp_path, crystal(multiplicity=1), atom)
    assert label_notes(frames, "a.xyz") == ()
    assert frames[1].is_isolated_atom
    assert np.array_equal(frames[1].forces, np.zeros((1, 3)))


def test_initial_charges_that_add_up_differently_are_charges(tmp_path):
    """ASE gives the charge of a structure to a calculator as a sum over atoms."""
    neutral, cation = dimer(), dimer()
    neutral.set_initial_charges([0.3, -0.3])
    cation.set_initial_charges([0.7, 0.3])
    with pytest.raises(InputError, match=r"sum of initial_charges.*0 in 1, 1 in 1"):
        frames_of(tmp_path, neutral, cation)
    assert all(not frame.notes for frame in frames_of(tmp_path, neutral, dimer()))


def test_initial_moments_are_said(tmp_path):
    magnetic = dimer()
    magnetic.set_initial_magnetic_moments([1.0, 1.0])
    assert "`initial_magmoms` of 1 of 2" in frames_of(tmp_path, magnetic, dimer())[0].notes[0]


def test_another_energy_of_ase_is_said(tmp_path):
    atoms = dimer()
    atoms.calc = SinglePointCalculator(atoms, energy=99.0, forces=np.zeros((2, 3)))
    assert "ASE's own labels have another energy" in frames_of(tmp_path, atoms)[0].notes[0]


@pytest.mark.parametrize("name", ["config_weight", "config_forces_weight"])
def test_forces_without_any_weight_are_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match="weight 0"):
        frames_of(tmp_path, *(bare(seed, **{name: 0.0}) for seed in range(2)))


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_is_a_number_above_zero(tmp_path, limit):
    for name in ("max_force", "max_stress"):
        with pytest.raises(InputError, match=f"`{name}` must be a number above 0"):
            frames_of(tmp_path, dimer(), **{name: limit})


def test_a_damaged_database_is_one_line(tmp_path):
    path = tmp_path / "frames.db"
    write(path, [dimer(), dimer()])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="could not be read as structures"):
        read_frames(path)
