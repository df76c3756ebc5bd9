"""Small potentials for tests, in float64 unless said."""

from ase_uq.potentials import DeepEnsemble, EquivariantPotential, ShallowEnsemble


def potential(seed: int = 0, elements=("Cu", "H", "O"), cutoff: float = 3.5, **options) -> EquivariantPotential:
    settings = {"channels": 8, "radial_width": 16, "dtype": "float64", **options}
    made = EquivariantPotential(elements=list(elements), cutoff=cutoff, seed=seed, **settings)
    made.set_reference(shifts=[0.1 * i - 1.0 for i in range(len(elements))], scale=1.3, mean_neighbours=11.0)
    return made


def ensemble(n_members: int = 3, **options) -> DeepEnsemble:
    return DeepEnsemble([potential(seed, **options) for seed in range(n_members)])


def shallow(n_members: int = 5, **options) -> ShallowEnsemble:
    return ShallowEnsemble(potential(**options), n_members, seed=3)
