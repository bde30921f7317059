"""Measured speed, memory and disk space: this project beside the method as it was released. See README.md."""
