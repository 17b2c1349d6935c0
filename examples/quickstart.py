"""Classify images with a network that comes with eenet, and see where each one left."""

import numpy as np
from sklearn.datasets import load_digits

import eenet

digits = load_digits().images[:8] / 16  # any image will do: files, PIL images, arrays, tensors
with eenet.Predictor("digits-eenet8", budget=0.6) as predictor:
    for found in predictor.predict_many(digits.astype(np.float32)):
        work = f"exit {found.exit}, {found.relative_cost:.0%} of the work"
        print(f"{found.label}  {found.probability:.1%}  {work}")
