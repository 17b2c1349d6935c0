"""A server on the queued engine: Open Inference Protocol, images as they are, metrics, a page."""
