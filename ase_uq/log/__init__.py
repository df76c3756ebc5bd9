"""The log of a run, an HDF5 file: written frame by frame, read at any moment."""
