"""e3nn's spherical tensors, imported so that every version of it from 0.4.4 on works with torch 2.6 and later.

e3nn 0.4 reads its table of Wigner matrices with `torch.load`, which since torch 2.6 refuses the slices in it.
"""

from __future__ import annotations

import torch

with torch.serialization.safe_globals([slice]):  # taken back on leaving: no global state
    from e3nn import o3
    from e3nn.nn import FullyConnectedNet

__all__ = ["FullyConnectedNet", "o3"]
