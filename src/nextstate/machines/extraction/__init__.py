"""Machines found inside networks: observed, searched, learned, and proved where that is possible."""
