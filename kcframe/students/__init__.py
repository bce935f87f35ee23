"""What one does with a finished student: predict, measure it elsewhere, export, probe, serve."""
