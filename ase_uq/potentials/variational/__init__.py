"""Noise on the weights of a potential (BLIP): its layers, its rates, its draws."""
