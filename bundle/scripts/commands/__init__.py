"""The commands by what they are for: use, train, evaluate, tools. ``cli.py`` is their entry point."""
