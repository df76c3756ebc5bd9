"""Linear maps whose weights are Gaussians about the trained ones, N(theta, alpha theta^2), with a rate for every row.

==============================  ==================================================================================
symbol                          variable
==============================  ==================================================================================
theta                           `matrix()`, (n_in, n_out)
alpha                           `rates()`, one for each row of x and layer, (R, 1); alpha = p/(1 - p), p the dropout
eps                             `frozen`, (M, n_in, n_out), standard normal, fixed for each of M draws
xi                              fresh standard normal numbers, (R, n_out)
rho                             `prior_rate`, of the prior N(0, rho theta^2)
x0                              `centre`, mean of x over the atoms of an element in training; zero for edges
==============================  ==================================================================================

    mean:    x theta
    frozen:  x theta + sqrt(alpha) ((x - x0) (theta * eps))       a fixed function of x: for members
    local:   x theta + sqrt(alpha ((x - x0)^2 theta^2)) xi        the same law for each row, fresh noise: for training

The bias moves against the weights, so that an average atom of its element is left alone (x0 = 0 is the method as
published). Without that every draw shifts the energies of all frames by a constant of its own. Forces know nothing of
it, but the errors of energies do, and the data then hold the noise down far below what the forces ask for.

Under "frozen" the rows of x come in M equal blocks, one for each draw, and share their rates. Under the law "dropout"
eps is one number for each input instead of each weight, (1 - kept - p)/sqrt(p (1 - p)) of a coin `kept`, and the
factor sqrt(alpha) makes it Monte-Carlo dropout: a mask that falls on whole inputs.

References
----------
Kingma, Salimans and Welling, arXiv:1506.02557: local reparameterisation, variational dropout.
Coscia, de Haan and Welling, arXiv:2508.14022: rates that depend on the input (BLIP).
Gal and Ghahramani, arXiv:1506.02142: Monte-Carlo dropout.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.blocks import MLP

Mode = Literal["mean", "local", "frozen"]
LAWS = ("gaussian", "dropout")

# Activations have unit variance: below this variance of the noise its derivative is cut off, so that no root of zero
# is differentiated.
_FLOOR = 1e-10
PACE = 0.02  # of the running means, a step of a training


@dataclass
class Noise(threading.local):
    """What the layers of one potential share: how noise is made now, and the rates of the structures at hand.

    Layers of a foreign body are called by that body, which knows nothing of noise: what they need cannot be handed to
    them. Each thread has its own, so that several may evaluate one potential on structures of their own.

    Attributes
    ----------
    mode
        "mean", "local" or "frozen".
    law
        "gaussian" or "dropout".
    rates
        Domain ("node" or "edge") to alpha, (R, L): a column for each layer; those of the structures last evaluated with
        noise.
    draws
        Domain and column to eps: the draws that are frozen now.
    generator
        Of the fresh noise, on the CPU; `None` takes torch's own.
    species
        Index of each atom's element, (N,).
    follows, pace
        Whether layers take what they see into their centres, running means, and how much of it.
    """

    mode: Mode = "mean"
    law: str = "gaussian"
    rates: dict[str, Tensor] = field(default_factory=dict)
    draws: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    generator: torch.Generator | None = None
    species: Tensor | None = None
    follows: bool = False
    pace: float = PACE

    def __deepcopy__(self, memo: dict[int, Any]) -> Noise:
        # One for all layers of the copy. Rates belong to the structures last seen, and to the graph of their
        # derivatives.
        copied = Noise(self.mode, self.law)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return Noise, (self.mode, self.law)


class NoisyMap(nn.Module):
    """A linear map with noise; subclasses say what the map is.

    Parameters
    ----------
    noise
        Shared state.
    domain, column
        Which rates are its own.
    """

    centre: Tensor | None

    def __init__(self, noise: Noise, domain: str, column: int) -> None:
        super().__init__()
        self.noise, self.domain, self.column = noise, domain, column
        self.register_buffer("centre", None)

    @property
    def frozen(self) -> Tensor | None:
        """Draws that are frozen now, eps, (M, n_in, n_out)."""
        return self.noise.draws.get((self.domain, self.column))

    @frozen.setter
    def frozen(self, drawn: Tensor) -> None:
        self.noise.draws[self.domain, self.column] = drawn

    def centred(self, n_elements: int) -> None:
        """Let it have a centre for each element; without, and for edges, the noise has none."""
        if self.domain == "node":
            matrix = self.matrix()
            self.register_buffer("centre", matrix.new_zeros(n_elements, matrix.shape[0]))

    def matrix(self) -> Tensor:
        """Mean weights, theta, (n_in, n_out)."""
        raise NotImplementedError

    def without_noise(self, x: Tensor) -> Tensor:
        """Map (R, n_in) to (R, n_out)."""
        raise NotImplementedError

    @property
    def n_weights(self) -> int:
        """How many weights have noise."""
        return self.matrix().numel()

    @property
    def draw_shape(self) -> tuple[int, ...]:
        """Shape of the random numbers of one draw."""
        n_in, n_out = self.matrix().shape
        return (n_in, n_out if self.noise.law == "gaussian" else 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, n_in) to (R, n_out)."""
        y = self.without_noise(x)
        return y if self.noise.mode == "mean" else y + self.perturbation(x)

    def perturbation(self, x: Tensor) -> Tensor:
        """Return the noise alone, (R, n_out)."""
        matrix = self.matrix()
        if self.noise.mode == "mean":
            return x.new_zeros(*x.shape[:-1], matrix.shape[1])
        if x.dim() != 2:
            raise InputError(
                f"`layers` tags a layer that sees an array of shape {tuple(x.shape)}, noise needs rows (R, n_in); "
                "leave it out."
            )
        if self.centre is not None:
            x = self._off_centre(x, self.centre)
        if self.noise.mode == "frozen":
            frozen = self.frozen
            assert frozen is not None
            return self._by_rate(x, matrix * frozen)
        rate = self.rates()
        if len(rate) != len(x):
            raise self._wrong_rows(len(rate), len(x))
        if self.noise.law == "dropout":
            p = rate / (1.0 + rate)
            coin = torch.rand(x.shape, generator=self.noise.generator, dtype=torch.float64).to(x)
            return (x * (p - (coin < p).to(x.dtype)) / (1.0 - p)) @ matrix
        variance = rate * ((x * x) @ (matrix * matrix))
        fresh = torch.randn(variance.shape, generator=self.noise.generator, dtype=torch.float64).to(x)
        # Outputs without a noisy weight (vectors, say) stay without noise.
        return torch.sqrt(variance + _FLOOR) * fresh * (matrix != 0.0).any(dim=0)

    def rates(self) -> Tensor:
        """Rates of this layer, (R, 1)."""
        return self.noise.rates[self.domain][:, self.column : self.column + 1]

    def _by_rate(self, x: Tensor, weights: Tensor) -> Tensor:
        # `weights` (M, n_in, n_out); the rows of x in M blocks, with rates for all rows or for those of one block.
        rate, n_draws = torch.sqrt(self.rates()), len(weights)
        blocks = torch.bmm(x.unflatten(0, (n_draws, -1)), weights)
        if len(rate) == blocks.shape[1]:
            return (blocks * rate).flatten(0, 1)
        if len(rate) == len(x):
            return blocks.flatten(0, 1) * rate
        raise self._wrong_rows(len(rate), len(x))

    def _off_centre(self, x: Tensor, centre: Tensor) -> Tensor:
        species = self.noise.species
        assert species is not None
        if len(x) % len(species):
            raise self._wrong_rows(len(species), len(x))
        species = species.repeat(len(x) // len(species))
        if self.noise.follows:
            self._follow(x.detach(), species, centre)
        return x - centre.index_select(0, species)

    def _follow(self, x: Tensor, species: Tensor, centre: Tensor) -> None:
        # A running mean, as batch normalisation has it.
        counts = torch.bincount(species, minlength=len(centre)).unsqueeze(1).to(x)
        means = torch.zeros_like(centre).index_add(0, species, x) / counts.clamp(min=1.0)
        centre.lerp_(torch.where(counts > 0, means, centre), self.noise.pace)

    def _wrong_rows(self, expected: int, found: int) -> InputError:
        return InputError(
            f"`layers` tags a layer as one of {self.domain}s, of which there are {expected}, but it sees {found} rows; "
            "tag it otherwise, or leave it out."
        )


class VariationalMap(NoisyMap):
    """x theta + b with weights of its own.

    Parameters
    ----------
    weight, bias
        (n_in, n_out) and (n_out,) or `None`: where to start from.
    noise, domain, column
        As for `NoisyMap`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, noise: Noise, domain: str, column: int) -> None:
        super().__init__(noise, domain, column)
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def matrix(self) -> Tensor:
        """Mean weights, theta, (n_in, n_out)."""
        return self.weight

    def without_noise(self, x: Tensor) -> Tensor:
        """Map (R, n_in) to (R, n_out)."""
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


class PlainMap(nn.Module):
    """x theta + b, without noise."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, n_in) to (R, n_out)."""
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)


class VariationalMLP(nn.Module):
    """An `MLP` with noise on its weights; the same calls.

    Parameters
    ----------
    mlp
        Of a single potential; its weights are copied.
    noise, domain, first_column
        As for `NoisyMap`; every layer with noise takes the next column.
    last_only
        Whether the last layer alone has noise, in which the output is then linear.
    """

    def __init__(self, mlp: MLP, noise: Noise, domain: str, first_column: int, *, last_only: bool = False) -> None:
        super().__init__()
        biases = [bias[0, 0] for bias in mlp.biases] + [None]
        n_plain = len(mlp.weights) - 1 if last_only else 0
        self.maps = nn.ModuleList()
        for k, (weight, bias) in enumerate(zip(mlp.weights, biases, strict=True)):
            own = (weight[0], bias)
            self.maps.append(
                PlainMap(*own) if k < n_plain else VariationalMap(*own, noise, domain, first_column + k - n_plain)
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

    def last_noise(self, hidden: Tensor) -> Tensor | None:
        """Return what noise on the last weights adds to the output, (R, n_out), or `None` for none."""
        last: Any = self.maps[-1]
        noise: Tensor | None = None if last.noise.mode == "mean" else last.perturbation(hidden)
        return noise

    def move_last(self, step: Tensor) -> None:
        """Add to the weights of the last layer for a single output, (n_in,), in place."""
        last: Any = self.maps[-1]
        last.weight.add_(step.to(last.weight).view_as(last.weight))


def standard_draws(shape: tuple[int, ...], law: str, generator: torch.Generator, dropout: float) -> Tensor:
    """Return random numbers of mean 0 and variance 1, float64; under "dropout" of coins that fall with `dropout`."""
    if law == "gaussian":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    dropped = (torch.rand(shape, generator=generator, dtype=torch.float64) < dropout).to(torch.float64)
    return (dropout - dropped) / math.sqrt(dropout * (1.0 - dropout))


def kl_of_rate(rate: Tensor, prior_rate: float) -> Tensor:
    """KL divergence of N(theta, alpha theta^2) from N(0, rho theta^2), in nats; theta cancels.

    ((alpha + 1)/rho + ln rho - ln alpha - 1)/2, smallest at alpha = rho, where it is 1/(2 rho).

    References
    ----------
    arXiv:2508.14022.
    """
    return 0.5 * ((rate + 1.0) / prior_rate + math.log(prior_rate) - torch.log(rate) - 1.0)
