"""Glioma segmentation and MGMT promoter methylation from MRI (research use only)."""
