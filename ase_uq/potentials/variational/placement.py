"""Which layers of a module can have noise, ours or foreign, and how patterns pick them.

==========================  ======================================================================================
layer                       what has noise
==========================  ======================================================================================
`blocks.MLP`                all weights
`torch.nn.Linear`           all weights
`e3nn.o3.Linear`            weights between scalars, so that every draw turns with the atoms; the rest is as it was
e3nn's dense layers         all weights, before the activation (`e3nn.nn.FullyConnectedNet` is made of them)
==========================  ======================================================================================

The layers keep their parameters, and with them what they have learned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.blocks import MLP
from ase_uq.potentials.spherical import FullyConnectedNet, o3
from ase_uq.potentials.variational.layers import Noise, NoisyMap, VariationalMLP

DOMAINS = ("node", "edge")
# e3nn has no public name for it.
_Dense = type(FullyConnectedNet([1, 1])[0])


class NoisyLinear(NoisyMap):
    """A linear layer of torch or e3nn with noise on the weights between scalars."""

    def __init__(self, layer: nn.Module, noise: Noise, domain: str, column: int) -> None:
        super().__init__(noise, domain, column)
        self.layer: Any = layer
        # What weights between scalars there are, and unit vectors to read them from the layer.
        mask = torch.stack([torch.outer(inputs, outputs) for inputs, outputs in _scalars(layer)]).sum(dim=0)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("units", torch.eye(len(mask)), persistent=False)

    mask: Tensor
    units: Tensor

    def matrix(self) -> Tensor:
        """theta, (n_in, n_out), zero but between scalars."""
        dtype = next(self.layer.parameters()).dtype
        units = self.units.to(dtype)
        found: Tensor = (self.layer(units) - self.layer(torch.zeros_like(units))) * self.mask.to(dtype)
        return found

    def without_noise(self, x: Tensor) -> Tensor:
        """Apply the layer as it is."""
        out: Tensor = self.layer(x)
        return out

    @property
    def n_weights(self) -> int:
        """How many weights have noise."""
        return int(self.mask.sum())


class NoisyDense(NoisyMap):
    """A dense layer of e3nn with noise on its weights, before its activation."""

    def __init__(self, layer: nn.Module, noise: Noise, domain: str, column: int) -> None:
        super().__init__(noise, domain, column)
        self.layer: Any = layer

    def matrix(self) -> Tensor:
        """theta, (n_in, n_out), with the normalisation of the layer."""
        layer = self.layer
        before = layer.h_in * layer.var_in / (1.0 if layer.act is not None else layer.var_out)
        weights: Tensor = layer.weight / before**0.5
        return weights

    def without_noise(self, x: Tensor) -> Tensor:
        """Apply the weights alone."""
        return x @ self.matrix()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with noise."""
        linear = super().forward(x)
        if self.layer.act is None:
            return linear
        out: Tensor = self.layer.act(linear) * self.layer.var_out**0.5
        return out


# What takes the place of a layer: called with the layer, the shared noise, the domain, the first column of its rates.
KINDS: dict[type, Callable[..., nn.Module]] = {
    MLP: VariationalMLP,
    nn.Linear: NoisyLinear,
    o3.Linear: NoisyLinear,
    _Dense: NoisyDense,
}


def put_noise(module: nn.Module, patterns: Sequence[tuple[str, ...]], noise: Noise) -> dict[str, int]:
    """Replace the layers of a module whose names match, in place; return how many columns of rates each domain has.

    Parameters
    ----------
    module
        Any module.
    patterns
        Domain, "node" or "edge", with a regular expression to be found in the dotted names of its layers, and perhaps
        "last" where an `MLP` is to have noise on its last layer alone.
    noise
        Shared state of the new layers.

    Raises
    ------
    InputError
        For a module without a layer of a known kind, a domain that does not exist, or a pattern that matches none.
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) in KINDS}
    taken: set[str] = set()
    if not layers:
        raise InputError(
            f"`module` must have linear layers to put noise on, {type(module).__name__} has none of torch or e3nn; "
            "only those can be variational."
        )
    columns = dict.fromkeys(DOMAINS, 0)
    for domain, pattern, *part in patterns:
        if domain not in DOMAINS:
            raise InputError(f"`layers` must tag layers as of nodes or edges, got {domain!r}; use node or edge.")
        names = [name for name in layers if re.search(pattern, name)]
        if taken & set(names):
            raise InputError(f"`layers` must tag a layer once, {pattern!r} matches {min(taken & set(names))} again.")
        if not names:
            shown = ", ".join(list(layers)[:6]) + (", ..." if len(layers) > 6 else "")
            raise InputError(f"`layers` must match names of layers, {pattern!r} matches none; there are {shown}.")
        for name in names:
            layer = layers[name]
            taken.add(name)
            options = {"last_only": True} if part == ["last"] and isinstance(layer, MLP) else {}
            noisy = KINDS[type(layer)](layer, noise, domain, columns[domain], **options)
            columns[domain] += sum(isinstance(each, NoisyMap) for each in noisy.modules())
            path, _, last = name.rpartition(".")
            setattr(module.get_submodule(path), last, noisy)
    return columns


def _scalars(layer: Any) -> list[tuple[Tensor, Tensor]]:
    # Inputs and outputs that weights connect: scalars with scalars, pseudoscalars with pseudoscalars.
    if isinstance(layer, nn.Linear):
        return [(torch.ones(layer.in_features), torch.ones(layer.out_features))]
    kinds = (o3.Irrep("0e"), o3.Irrep("0o"))
    return [(_places(layer.irreps_in, kind), _places(layer.irreps_out, kind)) for kind in kinds]


def _places(irreps: o3.Irreps, kind: o3.Irrep) -> Tensor:
    return torch.cat([torch.full((each.dim,), float(each.ir == kind)) for each in irreps])
