"""Honest figures: folds, the guard against leaks, scores of patients, ensembles, and what a cross-validation found."""
