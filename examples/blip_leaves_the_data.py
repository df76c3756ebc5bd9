"""Noise on the weights knows where there were no data: ammonia pulled apart and turned inside out.

Trained on frames near the pyramid (they come with the package), BLIP is asked for the energy along one N-H bond and
along the inversion, which it has not seen. The figure has its error bars, and the labels of the inversion.
"""

from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
from ase.io import read

from ase_uq.members import MemberUncertainty
from ase_uq.training import FitSettings, read_frames
from ase_uq.training.variational import train_variational
from ase_uq.validation.residuals import residuals, with_factors

data = files("ase_uq") / "data" / "ammonia"
train, valid = (read_frames(data / f"{name}.xyz") for name in ("train", "valid"))
settings = FitSettings(epochs=60, batch_size=10, learning_rate=0.02)
config = {"cutoff": 4.0, "channels": 16, "n_layers": 1, "radial_width": 32}
draws = train_variational(train, valid, n_members=32, settings=settings, config=config)
model = MemberUncertainty(draws)
model = with_factors(model, residuals(model, valid).factors())

start, lengths = read(str(data / "start.xyz")), np.linspace(0.85, 1.6, 26)
stretched = [start.copy() for _ in lengths]
for atoms, length in zip(stretched, lengths, strict=True):
    atoms.set_distance(0, 1, length, fix=0)
path = [frame for frame in read_frames(data / "test_inversion.xyz") if frame.group == "inversion_path"]
inverted, labels = [frame.atoms for frame in path], np.array([frame.energy for frame in path])
degrees = np.linspace(60, 120, len(path))
bonds = [frame.atoms.get_distance(0, k) for frame in train for k in (1, 2, 3)]

figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), constrained_layout=True)
for axis, name, x, frames in (
    (axes[0], "N-H, Å", lengths, stretched),
    (axes[1], "umbrella angle, °", degrees, inverted),
):
    found = [model.predict(atoms) for atoms in frames]
    energy, std = np.array([p.energy for p in found]) - labels.min(), np.array([p.energy_std for p in found])
    axis.plot(x, energy, color="C0", label="BLIP")
    axis.fill_between(x, energy - 2 * std, energy + 2 * std, color="C0", alpha=0.25, lw=0, label="± 2 std")
    axis.set(xlabel=name, ylabel="energy, eV")
    for k in (0, int(std.argmin()), len(x) // 2, len(x) - 1):
        print(f"{name}: {x[k]:6.2f}: {energy[k]:.4f} ± {std[k]:.4f} eV")
axes[0].axvspan(min(bonds), max(bonds), color="0.92", zorder=0, label="bonds of the training")
axes[1].plot(degrees, labels - labels.min(), "k.", ms=4, label="labels, unseen")
for axis in axes:
    axis.legend(frameon=False)
figure.savefig("blip_leaves_the_data.png", dpi=120)
