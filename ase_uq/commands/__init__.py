"""The commands of `ase-uq`: each file has `NAME` and `run`, and imports the heavy packages only inside."""
