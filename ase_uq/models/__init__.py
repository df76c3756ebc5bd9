"""Where torch ends: models that turn structures into predictions, and the files they live in."""
