"""What a classifier's answer rests on."""
