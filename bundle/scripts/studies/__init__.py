"""From folders as they come to a data list."""
