"""Import every module of the installed package, and find the files it reads: a wheel may lack what a checkout has."""

import importlib
import pkgutil
from importlib.resources import files
from pathlib import Path

import ase_uq

ROOT = Path(__file__).resolve().parents[1]
if ROOT / "ase_uq" in Path(ase_uq.__file__).resolve().parents:
    raise SystemExit(f"this is the checkout, not the wheel: {ase_uq.__file__}")
for module in pkgutil.walk_packages(ase_uq.__path__, "ase_uq."):
    if module.name != "ase_uq.__main__" and ".data" not in module.name:
        importlib.import_module(module.name)
for name in ("py.typed", "report/template.html", "data/ammonia/train.xyz", "data/ammonia/start.xyz"):
    if not files("ase_uq").joinpath(name).is_file():
        raise SystemExit(f"the wheel lacks {name}")
