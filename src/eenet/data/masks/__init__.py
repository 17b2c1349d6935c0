"""Images with a class for every pixel: where they come from, how they are read, varied and batched."""
