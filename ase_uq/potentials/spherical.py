"""e3nn's spherical tensors, imported so that every version of it from 0.4.4 on works with torch 2.6 and later.

e3nn 0.4 reads its table of Wigner matrices with `torch.load`, which since torch 2.6 refuses the slices in it.
"""

from __future__ import annotations

import torch

with torch.serialization.safe_globals([slice]):
    from e3nn import o3
    from e3nn.nn import FullyConnectedNet

    _registered = torch.serialization.get_safe_globals()
# Leaving takes back all that was allowed inside: slices, as it should, and what parts of torch allow on first import.
torch.serialization.add_safe_globals([each for each in _registered if each is not slice])

__all__ = ["FullyConnectedNet", "o3"]
