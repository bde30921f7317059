"""Explanations of a classifier's answer."""
