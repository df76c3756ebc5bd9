"""g(r): ideal gases, crystals, and independent counts in every kind of cell."""

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from scipy.spatial import cKDTree

from ase_uq.errors import InputError
from ase_uq.observables import CoordinationNumber, RadialDistribution
from ase_uq.observables.elements import chosen
from ase_uq.observables.pairs import find_pairs, widest_cutoff
from tests.made.structures import STRUCTURES

TRICLINIC = np.array([[9.0, 0.0, 0.0], [2.5, 8.0, 0.0], [-1.5, 2.0, 10.0]])
STRONGLY_SKEWED = np.array([[10.0, 0.0, 0.0], [18.0, 10.0, 0.0], [-24.0, 27.0, 11.0]])


def gas(symbols, cell, seed=0):
    atoms = Atoms(symbols, cell=cell, pbc=True)
    atoms.set_scaled_positions(np.random.default_rng(seed).random((len(atoms), 3)))
    return atoms


def n_pairs(g, atoms):
    """Ordered pairs in each bin, undoing the normalisation."""
    first, second = (chosen(atoms, s, "") for s in (g.first, g.second))
    pairs = len(first) * len(second) - len(np.intersect1d(first, second))
    counts = g(atoms) * g.shell_volumes * pairs / atoms.get_volume()
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    return counts.round()


def brute_force(g, atoms, images=4):
    """The same by distances to all images within `images` cells."""
    shifts = np.stack(np.meshgrid(*[np.arange(-images, images + 1)] * 3), axis=-1).reshape(-1, 3) @ atoms.cell.array
    atoms = atoms.copy()
    atoms.wrap()
    first, second = (chosen(atoms, s, "") for s in (g.first, g.second))
    counts = np.zeros(g.n_bins)
    for i in first:
        others = atoms.positions[second[second != i]]
        lengths = np.linalg.norm(others[:, None] + shifts - atoms.positions[i], axis=-1)
        counts += np.histogram(lengths, np.linspace(0.0, g.r_max, g.n_bins + 1))[0]
    return counts


@pytest.mark.parametrize("pair", [("Ar", "Ar"), ("Ar", "Kr"), ("*", "Kr"), ("*", "*")])
def test_an_ideal_gas_is_1_in_every_bin(pair):
    g = RadialDistribution(*pair, r_max=3.5, n_bins=10)
    frames = [gas("Ar12Kr5", TRICLINIC, seed) for seed in range(300)]
    mean = np.mean([g(frame) for frame in frames], axis=0)
    counts = np.sum([n_pairs(g, frame) for frame in frames], axis=0)
    # Pairs within one group come twice, and twice as often scatters sqrt(2) as much.
    error = np.sqrt(2.0 * np.maximum(counts, 1.0)) / counts.clip(1.0) * mean
    assert (np.abs(mean - 1.0) < 4.5 * error).all()
    assert error[-1] < 0.05


@pytest.mark.parametrize("pair", [("Ar", "Ar"), ("Ar", "Kr"), ("Kr", "Ar"), ("*", "Kr")])
def test_the_sum_over_shells_is_the_number_of_neighbours(pair):
    atoms = gas("Ar20Kr9", TRICLINIC)
    g = RadialDistribution(*pair, r_max=3.5, n_bins=20)
    first, second = (chosen(atoms, s, "") for s in pair)
    others = len(second) - len(np.intersect1d(first, second)) / len(first)
    neighbours = (g(atoms) * g.shell_volumes).sum() * others / atoms.get_volume()
    assert neighbours == pytest.approx(brute_force(g, atoms).sum() / len(first))
    assert neighbours == pytest.approx(CoordinationNumber(*pair, 3.5)(atoms))


@pytest.mark.parametrize("pair", [("Ar", "Ar"), ("Ar", "Kr"), ("*", "Ar")])
@pytest.mark.parametrize("cell", [TRICLINIC, STRONGLY_SKEWED, STRONGLY_SKEWED[[1, 0, 2]]])
def test_any_cell_gives_the_counts_of_brute_force(pair, cell):
    atoms = gas("Ar45Kr35", cell, seed=1)
    atoms.positions += np.random.default_rng(2).integers(-3, 4, (80, 3)) @ cell  # as an unwrapped trajectory
    g = RadialDistribution(*pair, r_max=widest_cutoff(atoms), n_bins=7)
    counts = n_pairs(g, atoms)
    np.testing.assert_array_equal(counts, brute_force(g, atoms))
    assert counts.sum() > 0


def test_random_cells_give_the_counts_of_brute_force():
    random = np.random.default_rng(3)
    for seed in range(15):
        atoms = gas("Ar8", random.normal(size=(3, 3)) * 8.0, seed)
        g = RadialDistribution("Ar", "Ar", r_max=widest_cutoff(atoms), n_bins=5)
        np.testing.assert_array_equal(n_pairs(g, atoms), brute_force(g, atoms))


def test_partials_are_those_of_an_explicit_supercell():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    atoms.rattle(0.2, seed=4)
    edges = np.linspace(0.0, 5.6, 57)
    around = atoms.repeat(3)
    around.positions -= atoms.cell.array.sum(axis=0)
    for pair in (("Na", "Na"), ("Na", "Cl"), ("Cl", "Cl")):
        first, second = (cKDTree(a.positions[a.symbols == s]) for a, s in zip((atoms, around), pair, strict=True))
        within = first.count_neighbors(second, edges)
        within -= 32 * (pair[0] == pair[1])  # each atom itself
        expected = np.diff(within[1:], prepend=0) * atoms.get_volume()
        expected = expected / (32 * (32 - (pair[0] == pair[1])) * 4 / 3 * np.pi * np.diff(edges**3))
        found = RadialDistribution(*pair, r_max=5.6, n_bins=56)(atoms)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_shells_of_fcc():
    a = 3.61
    atoms = bulk("Cu", a=a, cubic=True).repeat(4)
    g = RadialDistribution("Cu", "Cu", r_max=5.5, n_bins=250)
    neighbours = n_pairs(g, atoms) / len(atoms)
    shells = neighbours > 0
    np.testing.assert_allclose(g.centres[shells], a * np.sqrt([0.5, 1.0, 1.5, 2.0]), atol=0.011)
    assert neighbours[shells].tolist() == [12, 6, 24, 12]
    assert CoordinationNumber("Cu", "Cu", 3.0)(atoms) == 12.0


def test_a_repeated_frame_gives_the_same_but_for_the_number_of_like_pairs():
    atoms = gas("Ar9Kr4", TRICLINIC)
    larger = atoms.repeat(2)
    like, unlike = (RadialDistribution("Ar", other, r_max=3.5, n_bins=12) for other in ("Ar", "Kr"))
    np.testing.assert_allclose(unlike(larger), unlike(atoms))
    np.testing.assert_allclose(like(larger) * (1 - 1 / (8 * 9)), like(atoms) * (1 - 1 / 9))


def test_order_and_place_do_not_matter():
    atoms = gas("Ar9Kr4", TRICLINIC)
    moved = atoms[np.random.default_rng(5).permutation(13)]
    moved.positions += [3.3, -20.0, 7.1]
    for pair in (("Ar", "Ar"), ("Ar", "Kr"), ("*", "*")):
        g = RadialDistribution(*pair, r_max=3.5, n_bins=12)
        np.testing.assert_allclose(g(moved), g(atoms))
    swapped = [RadialDistribution(*pair, r_max=3.5, n_bins=12)(atoms) for pair in (("Ar", "Kr"), ("Kr", "Ar"))]
    np.testing.assert_allclose(*swapped)


def test_a_cell_that_breathes_carries_the_bins_along():
    atoms = gas("Ar30", TRICLINIC)
    scaled = atoms.copy()
    scaled.set_cell(1.1 * atoms.cell.array, scale_atoms=True)
    narrow, wide = (RadialDistribution("Ar", "Ar", r_max=r, n_bins=12) for r in (3.5, 1.1 * 3.5))
    np.testing.assert_allclose(wide(scaled), narrow(atoms))


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_pairs_are_those_of_another_neighbour_list(name):
    atoms = STRUCTURES[name]()
    atoms = atoms.repeat([4 if periodic else 1 for periodic in atoms.pbc])
    cutoff = min(2.9, widest_cutoff(atoms))
    every = np.arange(len(atoms))
    directed, once = find_pairs(atoms, every, every, cutoff), find_pairs(atoms, every, None, cutoff)
    i, j, vectors = neighbor_list("ijD", atoms, cutoff)
    order, expected = np.lexsort((directed.j, directed.i)), np.lexsort((j, i))
    np.testing.assert_array_equal(directed.i[order], i[expected])
    np.testing.assert_array_equal(directed.j[order], j[expected])
    np.testing.assert_allclose(directed.vectors.T[order], vectors[expected], atol=1e-12)
    np.testing.assert_allclose(directed.lengths, np.linalg.norm(directed.vectors, axis=0))
    assert len(i) == 2 * len(once.i) > 0


def test_atoms_on_the_faces():
    atoms = Atoms("Ar4", [[-1e-17, 0, 0], [12, 12, 0], [0, 12 - 1e-15, 3], [5, 5, -1e-300]], cell=[12.0] * 3, pbc=True)
    assert n_pairs(RadialDistribution("Ar", "Ar", r_max=6.0, n_bins=2), atoms).tolist() == [2, 4]


def test_half_the_width_is_the_widest_r_max():
    atoms = gas("Ar9", TRICLINIC)
    widths = [atoms.get_volume() / np.linalg.norm(np.cross(*TRICLINIC[others])) for others in ([1, 2], [2, 0], [0, 1])]
    assert widest_cutoff(atoms) == pytest.approx(min(widths) / 2)
    assert min(widths) < np.linalg.norm(TRICLINIC, axis=1).min()  # less than the shortest edge
    RadialDistribution("Ar", "Ar", r_max=min(widths) / 2)(atoms)
    at_most = f"{np.floor(min(widths) / 2 * 1e3) / 1e3:.3f}"
    with pytest.raises(InputError, match=f"`r_max` must not exceed half .* got 4.1 Å; pass at most {at_most} Å"):
        RadialDistribution("Ar", "Ar", r_max=4.1)(atoms)
    atoms.set_cell(0.9 * TRICLINIC, scale_atoms=True)
    with pytest.raises(InputError, match="opposite faces of the cell in any frame"):
        RadialDistribution("Ar", "Ar", r_max=min(widths) / 2)(atoms)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"r_max": 0.0}, "`r_max` must be a positive number of Å, got 0.0"),
        ({"r_max": np.inf}, "`r_max` must be a positive number of Å, got inf"),
        ({"r_max": 3.0, "n_bins": 0}, "`n_bins` must be at least 1, got 0"),
        ({"first": "Water", "r_max": 3.0}, "`first` must be the symbol of an element or '\\*', got 'Water'"),
        ({"second": "o", "r_max": 3.0}, "`second` must be the symbol of an element or '\\*', got 'o'"),
    ],
)
def test_bad_arguments_are_named(options, rule):
    with pytest.raises(InputError, match=rule):
        RadialDistribution(**options)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            {"pbc": [True, True, False]},
            "`atoms` must be periodic in three directions, .* pbc \\[True, True, False\\]",
        ),
        ({"symbols": "Ar9"}, "`second` must be an element of the structure, got 'Kr'; the structure has Ar"),
        ({"symbols": "Kr9"}, "`first` must be an element of the structure, got 'Ar'"),
        ({"cell": np.zeros((3, 3))}, "`atoms.cell` must have a vector along every periodic axis"),
        ({"positions": np.full((9, 3), np.nan)}, "`atoms.positions` must be finite"),
    ],
)
def test_bad_structures_are_named(changes, rule):
    given = {"symbols": "Ar5Kr4", "positions": np.zeros((9, 3)), "cell": TRICLINIC, "pbc": True, **changes}
    with pytest.raises(InputError, match=rule):
        RadialDistribution("Ar", "Kr", r_max=3.0)(Atoms(**given))


def test_one_atom_makes_no_pair():
    with pytest.raises(InputError, match="`first` and `second` must make at least one pair, got 'Ar' and 'Ar'"):
        RadialDistribution("Ar", "Ar", r_max=3.0)(gas("ArKr", TRICLINIC))


def test_it_is_a_value():
    g = RadialDistribution("Ar", "Kr", r_max=3.0, n_bins=6)
    again = pickle.loads(pickle.dumps(g))
    assert again == g
    assert (g.unit, g.axis.name, g.axis.unit) == ("1", "r", "Å")
    assert g.centres.dtype == np.float64
    assert g.centres.tolist() == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]
    assert not g.of_members
