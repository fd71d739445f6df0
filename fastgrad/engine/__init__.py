"""The only place that loops over layers, steps and realizations."""
