"""The architectures that can be trained and stored, by the name that `ase-uq train --potential` takes.

A new one is a class in a file of its own, and a line here.
"""

from __future__ import annotations

from typing import Any

from ase_uq.potentials.equivariant import EquivariantPotential

ARCHITECTURES: dict[str, Any] = {
    "equivariant": EquivariantPotential,
}
