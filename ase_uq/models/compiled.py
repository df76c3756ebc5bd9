"""`CompiledPotential`: a potential as machine code, energies of all members and forces in one call.

The energies, the coefficients of what is to be differentiated and the backward pass are traced into one graph, with the
numbers of atoms and edges left open, and compiled ahead of time (AOTInductor). The weights are arguments: a package
belongs to an architecture and serves every model of it, all members of a deep ensemble among them. It is kept in a
cache folder; loading it takes milliseconds and no compiler.

References
----------
The coefficients of the weighted baseline: arXiv:2011.08828, Eq. 12, see `ase_uq.uncertainty.blend`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_uq.models.code_cache import CodeCache
from ase_uq.potentials import Evaluation, joined, voigt
from ase_uq.potentials.graph import Graph, build_graph
from ase_uq.uncertainty.blend import Target

logger = logging.getLogger(__name__)

# Atoms, edges and neighbours of an atom from which on sizes are open: tracing takes 0 and 1 for constants.
SMALLEST = 2
# Raised whenever what is traced below changes.
VERSION = 4
MEAN = Target()


def cache_folder() -> Path:
    """Return the folder of compiled packages, `ase_uq` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ase_uq"


class CompiledPotential:
    """Compiled potentials of one architecture.

    Parameters
    ----------
    potentials
        What `compilable_parts()` of a potential returns, see `ase_uq.potentials.abilities`: one whole shallow ensemble,
        with a shared body, or independent members of one architecture; on the CPU, with fixed weights.
    folder
        Where packages are kept, `cache_folder()` by default.

    Notes
    -----
    A package is built when it is first needed, one for each number of directions, which takes about a minute. Where
    that fails, for want of a compiler say, `evaluate` returns `None` from then on, after one warning.
    """

    def __init__(self, potentials: Sequence[Any], *, folder: Path | None = None) -> None:
        self._made_of = tuple(potentials), folder
        self._turn = threading.Lock()
        self.potential = potentials[0]
        self.folder = cache_folder() if folder is None else Path(folder)
        self._weights = [tuple(_weights(potential).values()) for potential in potentials]
        self._cache, self._packages = CodeCache(self.folder), dict[int, Any]()
        # As many threads as torch has now. With one there are no atomic additions, which cost a factor of two.
        self._threads = torch.get_num_threads()
        self._key = _key(self.potential, self._threads)

    def __getstate__(self) -> tuple[tuple[Any, ...], Path | None]:
        # Loaded machine code stays in its process, and is for one kind of machine: a copy loads or builds its own.
        return self._made_of

    def __setstate__(self, state: tuple[tuple[Any, ...], Path | None]) -> None:
        potentials, folder = state
        self.__init__(potentials, folder=folder)  # type: ignore[misc]

    def evaluate(
        self,
        graph: Graph,
        *,
        directions: Tensor,
        alpha: float = 1.0,
        target: Target = MEAN,
    ) -> Evaluation | None:
        """Evaluate one structure.

        Parameters
        ----------
        graph
            A single structure.
        directions
            (n_combinations, M): further ones of raw members to differentiate; (0, 1) for potentials of one member.
        alpha
            Calibration factor of the members in the blend.
        target
            Which combination of the members is the first row differentiated; their mean by default.

        Returns
        -------
        Evaluation
            `energies` (M, 1), `forces` (1 + n_combinations, N, 3), and for periodic structures `stresses` (..., 1, 6),
            those of several potentials one after another. `None` where there is no package, or no atom has two
            neighbours.
        """
        if min(graph.positions.shape[0], graph.columns.shape[0]) < SMALLEST:
            return None
        package = self._package(directions.shape[0])
        if package is None:
            return None
        inputs = (*_inputs(graph), directions, *_rule(target, alpha, self.potential.n_members))
        return joined([self._run(package, graph, (*inputs, *weights)) for weights in self._weights])

    @staticmethod
    def _run(package: Any, graph: Graph, inputs: tuple[Tensor, ...]) -> Evaluation:
        energies, forces, virials = package(*inputs)
        stresses = voigt(virials.unsqueeze(1), graph) if bool(graph.periodic.any()) else None
        return Evaluation(energies.unsqueeze(1), forces, stresses)

    def _package(self, n_directions: int) -> Any:
        with self._turn:
            return self._found(n_directions)

    def _found(self, n_directions: int) -> Any:
        if n_directions not in self._packages:
            try:
                with warnings.catch_warnings():
                    # What torch deprecates in itself is nothing a user can do about.
                    warnings.simplefilter("ignore")
                    self._packages[n_directions] = self._loaded_or_built(n_directions)
            except Exception as e:  # whatever a compiler may raise: the eager way gives the same numbers
                reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
                logger.warning("no compiled model, evaluation stays eager: %s", reason)
                self._packages[n_directions] = None
        return self._packages[n_directions]

    def _loaded_or_built(self, n_directions: int) -> Any:
        def build(aside: Path) -> Path:
            return _build(self.potential, n_directions, aside, self._threads)

        return torch._inductor.aoti_load_package(str(self._cache.path(f"{self._key}-{n_directions}", build)))


def _inputs(graph: Graph) -> tuple[Tensor, ...]:
    names = ("positions", "cells", "shifts", "senders", "receivers", "slots", "columns", "numbers")
    return tuple(getattr(graph, name) for name in names)


def _rule(target: Target, alpha: float, n_members: int) -> tuple[Tensor, Tensor]:
    scalars = [alpha, target.energy_baseline, target.sigma_baseline**-2, target.threshold**2]
    shift = np.zeros(n_members) if target.shift is None else target.shift
    return torch.tensor(scalars, dtype=torch.float64), torch.as_tensor(shift, dtype=torch.float64)


def _example(potential: Any) -> tuple[Tensor, ...]:
    # Tracing takes sizes that happen to be equal for the same: a made-up system whose sizes no tensor of a model has.
    atoms = Atoms(f"{potential.elements[0]}1009", positions=np.random.default_rng(0).uniform(size=(1009, 3)))
    atoms.positions *= 3.0 * potential.cutoff
    return _inputs(build_graph(atoms, potential.cutoff))


def _weights(potential: Any) -> dict[str, Tensor]:
    # Buffers that are not in the state follow from the architecture; they become constants of the package.
    return {f"potential.{name}": value.detach().contiguous() for name, value in sorted(potential.state_dict().items())}


def _key(potential: Any, threads: int) -> str:
    # A package is machine code: for one version of torch, one kind of processor and a number of threads.
    processor = f"{_processor()} {torch.backends.cpu.get_cpu_capability()} {threads}"
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in _weights(potential).items()]
    architecture = dict(potential.architecture())
    digest = hashlib.sha256(f"{VERSION} {torch.__version__} {processor} {architecture} {shapes}".encode())
    return digest.hexdigest()[:24]


def _processor() -> str:
    # The compiler uses every instruction of the machine it runs on.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _build(potential: Any, n_directions: int, aside: Path, threads: int) -> Path:
    from torch._inductor import utils as inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    # Its name until torch 2.8.
    fresh_cache = getattr(inductor, "fresh_cache", None) or inductor.fresh_inductor_cache
    logger.info("compiling a model of this architecture, about a minute; it is kept in %s", aside.parent)
    directions = torch.zeros(n_directions, potential.n_members, dtype=torch.float64)
    weights = _weights(potential)
    rule = _rule(Target(1.0, 1.0, 1.0), 1.0, potential.n_members)
    example = (*_example(potential), directions, *rule, *weights.values())
    function = _function(potential, list(weights))
    traced = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    atoms, edges, width = (torch.export.Dim(name, min=SMALLEST) for name in ("atoms", "edges", "width"))
    of_edges = {0: edges}
    fixed = (None,) * (3 + len(weights))
    open_sizes = ({0: atoms}, None, *(of_edges,) * 4, {0: width}, {0: atoms}, *fixed)
    program = torch.export.export(traced, example, dynamic_shapes=open_sizes)
    # What the compiler keeps in between lies in a folder of ours, too: its own has a name that anybody can guess.
    with fresh_cache(dir=str(aside)):
        return Path(
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(aside / "model.pt2"),
                inductor_configs={"cpp.threads": threads},
            )
        )


class _Energies(torch.nn.Module):
    """Energies of members as a module that can be called with other weights."""

    def __init__(self, potential: Any) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, graph: Graph) -> Tensor:
        energies: Tensor = self.potential.energies(graph)
        return energies[:, 0]


def _function(potential: Any, names: list[str]) -> Any:
    model = _Energies(potential)

    def energies_and_derivatives(
        positions: Tensor,
        cells: Tensor,
        shifts: Tensor,
        senders: Tensor,
        receivers: Tensor,
        slots: Tensor,
        columns: Tensor,
        numbers: Tensor,
        directions: Tensor,
        scalars: Tensor,
        shift: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        moving = positions.detach().requires_grad_(True)
        strain = torch.zeros_like(cells).requires_grad_(True)
        structures = torch.zeros_like(numbers)
        graph = Graph(
            positions=moving,
            numbers=numbers,
            cells=cells,
            senders=senders,
            receivers=receivers,
            slots=slots,
            columns=columns,
            shifts=shifts,
            structures=structures,
            periodic=torch.ones(1, dtype=torch.bool),
        ).strained(0.5 * (strain + strain.transpose(1, 2)))
        energies = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (graph,))
        alpha, energy_baseline, precision, largest = scalars.unbind()
        first = _blend(energies.detach(), alpha, energy_baseline, precision, largest, shift)
        rows = torch.cat([first.unsqueeze(0), directions])
        found = [
            torch.autograd.grad((rows[k] * energies).sum(), [moving, strain], retain_graph=True)
            for k in range(rows.shape[0])
        ]
        forces = -torch.stack([gradient[0] for gradient in found])
        return energies.detach(), forces, torch.cat([gradient[1] for gradient in found])

    return energies_and_derivatives


def _blend(
    energies: Tensor,
    alpha: Tensor,
    energy_baseline: Tensor,
    precision: Tensor,
    largest: Tensor | float = float("inf"),
    shift: Tensor | float = 0.0,
) -> Tensor:
    # `Target.blend` for raw members, in tensors; `precision` = 1 / sigma_b^2 is zero without a baseline to blend with,
    # and `largest`, the square of the threshold, infinite without one.
    n_members = energies.shape[0]
    if n_members == 1:
        return torch.ones_like(energies)
    mean = energies.mean()
    deviations = alpha * (energies - mean) - shift
    variance = (deviations**2).sum() / (n_members - 1)
    weight = (variance <= largest).to(energies.dtype) / (1.0 + precision * variance)
    of_weight = -2.0 * weight**2 * precision * deviations / (n_members - 1)
    # The coefficients of calibrated members turn into those of raw ones; the deviations have no mean.
    return weight / n_members + (mean - energy_baseline) * alpha * of_weight
