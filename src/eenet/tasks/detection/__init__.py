"""Object detection: boxes around objects, and what each holds."""
