"""Synthetic brains: slices to train a segmenter on, and the phantom cohort."""
