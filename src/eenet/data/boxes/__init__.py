"""Images with boxes around objects: where they come from, how they are read, varied and batched."""
