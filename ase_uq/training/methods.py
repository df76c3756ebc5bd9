"""The methods of `ase-uq train`, one line each."""

from __future__ import annotations

from ase_uq.training.blip import Blip
from ase_uq.training.deep import Deep
from ase_uq.training.method import Method
from ase_uq.training.shallow import Shallow

METHODS: dict[str, type[Method]] = {
    Deep.name: Deep,
    Shallow.name: Shallow,
    Blip.name: Blip,
}
