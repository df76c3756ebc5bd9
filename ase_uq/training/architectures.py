"""The options of the architectures at the shell, by the names of `ase_uq.potentials.architectures`.

Their fields are arguments of the class there, which Python takes as `config`; what is not here keeps its default.
"""

from __future__ import annotations

from dataclasses import dataclass

from ase_uq.options import check_options, option


@dataclass(frozen=True, slots=True)
class EquivariantOptions:
    """Sizes of an `EquivariantPotential`."""

    cutoff: float = option(5.0, "Neighbour cut-off, Å.", above=0)
    channels: int = option(64, "Features of an atom per spherical component.", above=0)
    l_max: int = option(2, "Highest degree of the neighbour density, 0 to 2.", at_least=0, at_most=2)
    hidden_l_max: int = option(
        0, "Highest degree of the messages, 0 to that of the neighbour density.", at_least=0, at_most=2
    )
    n_layers: int = option(2, "Number of message-passing steps.", flag="layers", above=0)
    dtype: str = option(
        "float32", "Precision of the numbers in the network.", choices=("float32", "float64"), cure="choose one"
    )

    def __post_init__(self) -> None:
        check_options(self)


ARCHITECTURE_OPTIONS = {
    "equivariant": EquivariantOptions,
}
