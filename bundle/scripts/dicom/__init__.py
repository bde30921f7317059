"""DICOM out: Segmentation and Structured Report objects."""
