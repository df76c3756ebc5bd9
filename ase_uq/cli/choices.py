"""The words among which options choose: shown in help, completed by the shell, refused by the parser.

Help should be there at once, and the functions that take these words import what is slow; a test holds them together.
"""

from __future__ import annotations

from enum import StrEnum

Average = StrEnum("Average", ["cea", "direct", "gap"])
"""Methods of `ase_uq.reweighting`."""
Target = StrEnum("Target", ["driven", "model"])
"""Of a run on a baseline, see `ase_uq.averages.of_run`."""
Estimator = StrEnum("Estimator", ["student_t", "moment"])
"""Of a calibration, see `ase_uq.validation.calibration`."""
ForcesVar = StrEnum("ForcesVar", ["exact", "low_rank", "stochastic", "off"])
"""Ways to the variance of forces, see `ase_uq.uncertainty.force_variance`."""
Compile = StrEnum("Compile", ["off", "auto"])
"""How members are evaluated, see `ase_uq.models.evaluator`."""
PerAtom = StrEnum("PerAtom", ["positions", "forces", "forces_var", "cell"])
"""What a log can keep of every frame, see `UncertaintyLogger`."""
