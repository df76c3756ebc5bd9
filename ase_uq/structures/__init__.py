"""Structures and their labels before any model sees them."""
