"""From folders of any layout to a data list."""
