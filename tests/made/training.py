"""A shallow ensemble in one call, as there are of the other methods."""

from ase_uq.training import Shallow, TrainingRun


def train_shallow(train, valid, *, n_members, **options):
    return TrainingRun(train, valid, Shallow(n_members), **options).complete().potential
