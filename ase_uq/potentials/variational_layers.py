"""Linear maps whose weights are Gaussians about the trained ones, N(theta, alpha theta^2), with a rate for every row.

==============================  ==================================================================================
symbol                          variable
==============================  ==================================================================================
theta                           `weight`, (n_in, n_out)
alpha                           `rate`, one for each row of x and layer, (R, 1); alpha = p/(1 - p), p the dropout
eps                             `frozen`, (n_in, n_out), standard normal, fixed for a draw
xi                              fresh standard normal numbers, (R, n_out)
rho                             `prior_rate`, of the prior N(0, rho theta^2)
==============================  ==================================================================================

    mean:    x theta
    frozen:  x theta + sqrt(alpha) (x (theta * eps))           a fixed function of x: for members
    local:   x theta + sqrt(alpha (x^2 theta^2)) xi            the same law for each row, fresh noise: for training

References
----------
Kingma, Salimans and Welling, arXiv:1506.02557: local reparameterisation, variational dropout.
Coscia, de Haan and Welling, arXiv:2508.14022: rates that depend on the input (BLIP).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ase_uq.potentials.blocks import MLP

Mode = Literal["mean", "local", "frozen"]

# Activations have unit variance: below this variance of the noise its derivative is cut off, so that no root of zero
# is differentiated.
_FLOOR = 1e-10


@dataclass
class Noise:
    """What the layers of one potential share: how noise is made now, and the rates of the structures at hand.

    Attributes
    ----------
    mode
        "mean", "local" or "frozen".
    rates
        Domain ("node" or "edge") to alpha, (R, L): a column for each layer.
    generator
        Of the fresh noise; `None` takes torch's own.
    """

    mode: Mode = "mean"
    rates: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Noise:
        # Rates belong to the structures last seen, and to the graph of their derivatives.
        return Noise(self.mode)


class VariationalMap(nn.Module):
    """x theta + b with noise on theta.

    Parameters
    ----------
    weight, bias
        (n_in, n_out) and (n_out,) or `None`: where to start from.
    noise
        Shared state.
    domain, column
        Which rates are its own.
    """

    frozen: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, noise: Noise, domain: str, column: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.noise, self.domain, self.column = noise, domain, column
        self.frozen = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, n_in) to (R, n_out)."""
        y = x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
        return y if self.noise.mode == "mean" else y + self.perturbation(x)

    def perturbation(self, x: Tensor) -> Tensor:
        """Return the noise alone, (R, n_out)."""
        if self.noise.mode == "mean":
            return x.new_zeros(x.shape[0], self.weight.shape[1])
        rate = self.rates()
        if self.noise.mode == "frozen":
            assert self.frozen is not None
            return torch.sqrt(rate) * (x @ (self.weight * self.frozen))
        variance = rate * ((x * x) @ (self.weight * self.weight))
        fresh = torch.randn(variance.shape, generator=self.noise.generator, dtype=x.dtype, device=x.device)
        return torch.sqrt(variance + _FLOOR) * fresh

    def rates(self) -> Tensor:
        """Rates of this layer, (R, 1)."""
        return self.noise.rates[self.domain][:, self.column : self.column + 1]

    def kl_divergence(self, prior_rate: float) -> Tensor:
        """KL divergence of a weight from the prior, mean over rows; see `kl_of_rate`."""
        return kl_of_rate(self.rates(), prior_rate).mean()


class VariationalMLP(nn.Module):
    """An `MLP` with noise on its weights; the same calls.

    Parameters
    ----------
    mlp
        Of a single potential; its weights are copied.
    noise, domain, first_column
        As for `VariationalMap`; every layer takes the next column.
    """

    def __init__(self, mlp: MLP, noise: Noise, domain: str, first_column: int) -> None:
        super().__init__()
        biases = [bias[0, 0] for bias in mlp.biases] + [None]
        self.maps = nn.ModuleList(
            VariationalMap(weight[0], bias, noise, domain, first_column + k)
            for k, (weight, bias) in enumerate(zip(mlp.weights, biases, strict=True))
        )

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        """Map (R, n_in) to (R, n_out), times a factor (R, 1)."""
        out: Tensor = self.maps[-1](self.hidden(x) * factor)
        return out

    def hidden(self, x: Tensor) -> Tensor:
        """What the last, linear layer sees."""
        for each in self.maps[:-1]:
            x = nn.functional.silu(each(x)) * 1.6766  # as in `MLP`
        return x

    def last_weights(self) -> Tensor:
        """Weights of the last layer for a single output, (1, n_in)."""
        last: Any = self.maps[-1]
        weights: Tensor = last.weight.T
        return weights


def kl_of_rate(rate: Tensor, prior_rate: float) -> Tensor:
    """KL divergence of N(theta, alpha theta^2) from N(0, rho theta^2), in nats; theta cancels.

    ((alpha + 1)/rho + ln rho - ln alpha - 1)/2, smallest at alpha = rho, where it is 1/(2 rho).

    References
    ----------
    arXiv:2508.14022.
    """
    return 0.5 * ((rate + 1.0) / prior_rate + math.log(prior_rate) - torch.log(rate) - 1.0)
