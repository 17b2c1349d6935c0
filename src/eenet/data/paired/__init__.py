"""Images with a truth that is no single label: what those with masks and those with boxes have in common."""
