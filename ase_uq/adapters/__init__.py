"""Foreign packages, one file each, imported only when used."""
