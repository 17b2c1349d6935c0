"""Many images in: listed and numbered, decoded, run by actors, written in parts."""
