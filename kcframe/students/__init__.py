"""Uses of a finished student: predict, evaluate on other data, export, probe, serve."""
