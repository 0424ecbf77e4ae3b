"""Machines into weights: blueprints of exact rational networks, and the cells that carry them."""
