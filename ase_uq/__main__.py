"""`python -m ase_uq` is `ase-uq`."""

from ase_uq.cli import main

if __name__ == "__main__":
    main()
