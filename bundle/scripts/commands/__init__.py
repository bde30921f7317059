"""The commands by what they are for: one's own studies, training, evaluation, tools. ``cli.py`` is their entry point."""
