"""Networks, inferers, handlers, metrics, data lists and writers of the bundle."""
