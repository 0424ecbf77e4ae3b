"""Recipes: a task, a network and a way to train it, joined; one file a task."""
