"""MONAI transforms of the two-stage MGMT method: reading series, slicing, filtering, mask channels, sequences."""
