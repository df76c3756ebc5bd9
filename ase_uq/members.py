"""`MemberUncertainty` by its short name."""

from ase_uq.models.members import MemberUncertainty

__all__ = ["MemberUncertainty"]
