"""Around a run: its settings, what it begins with, what is chosen where nothing was said, several seeds."""
