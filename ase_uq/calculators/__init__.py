"""What is attached to `Atoms`: the calculator of a model, committees of ASE calculators, baselines, biases."""
