"""Model files of a stranger: whole, with a hash that fits, and not what they should be."""

import json
import zipfile

import torch

from ase_uq import save
from ase_uq.models.checkpoint import _hash
from ase_uq.models.members import MemberUncertainty
from tests.made.potentials import shallow

TINY = {"channels": 4, "radial_width": 8, "elements": ("Cu", "H")}


def good_file(path, made=None):
    save(MemberUncertainty(shallow(3, **TINY) if made is None else made), path)
    return path


def rewritten(path, change, out):
    """Change the description (a dictionary, in place) and the tensors of a file; the hash fits what comes out."""
    content = torch.load(path, weights_only=True)
    description = json.loads(content["description"])
    changed = change(description, content["state"])
    text = changed if isinstance(changed, str) else json.dumps(description, sort_keys=True)
    torch.save({**content, "description": text, "hash": _hash(text, content["state"])}, out)
    return out


def repacked(path, out, change=lambda name, data: data, **options):
    """Copy the archive of a file, entry by entry."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", **options) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out
