"""Classification: a label for an image."""
