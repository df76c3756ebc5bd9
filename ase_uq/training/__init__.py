"""Training: labelled frames in, one committee out."""

from ase_uq.structures.frames import Frame, read_frames, read_structures, split_frames
from ase_uq.training.deep import train_members
from ase_uq.training.fit import FitSettings, fit

__all__ = ["FitSettings", "Frame", "fit", "read_frames", "read_structures", "split_frames", "train_members"]
