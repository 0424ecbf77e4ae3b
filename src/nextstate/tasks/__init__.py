"""Tasks: where examples come from and how answers are scored. No task knows networks or training."""
