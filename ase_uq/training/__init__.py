"""Training: labelled frames in, one committee out."""

from ase_uq.training.data import Frame, read_frames, read_structures, split_frames
from ase_uq.training.fit import FitSettings, fit
from ase_uq.training.members import train_members

__all__ = ["FitSettings", "Frame", "fit", "read_frames", "read_structures", "split_frames", "train_members"]
