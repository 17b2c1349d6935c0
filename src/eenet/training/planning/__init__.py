"""Before a run: its settings, what it begins with, and what is chosen where nothing was said."""
