"""Unbiased figures: folds, the guard against leaks, patient scores, ensembles, and results of a cross-validation."""
