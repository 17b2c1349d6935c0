"""Early exit in Triton: after each stage only the images that aren't sure go on.

Beside this file lies `exported/`, written by `eenet export CKPT --format onnx`. Needs numpy and onnxruntime.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        directory = Path(args["model_repository"]) / args["model_version"] / "exported"
        self.manifest = json.loads((directory / "eenet.json").read_text())
        options = ort.SessionOptions()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # stages share the cores
        self.sessions = [
            ort.InferenceSession(directory / stage["file"], options) for stage in self.manifest["stages"]
        ]

    def execute(self, requests):
        """Requests that arrive together run as one batch."""
        images = [pb.get_input_tensor_by_name(request, "pixels").as_numpy() for request in requests]
        ends = np.cumsum([len(part) for part in images])[:-1]
        try:
            probabilities, exits = self.classify(np.concatenate(images))
        except Exception as error:
            failed = pb.InferenceResponse(error=pb.TritonError(f"early exit failed: {error}"))
            return [failed for _ in requests]
        return [
            pb.InferenceResponse([pb.Tensor("probabilities", p), pb.Tensor("exit_index", e[:, None])])
            for p, e in zip(np.split(probabilities, ends), np.split(exits, ends), strict=True)
        ]

    def classify(self, pixels):
        """uint8 [B, C, H, W] → class probabilities [B, N], and the exit each image left at [B]."""
        probabilities = np.zeros((len(pixels), len(self.manifest["class_names"])), np.float32)
        exits = np.zeros(len(pixels), np.int64)
        rows, features, joined = np.arange(len(pixels)), pixels, np.zeros_like(probabilities)
        for stage, session in zip(self.manifest["stages"], self.sessions, strict=True):
            found = dict(
                zip(stage["outputs"], session.run(None, {stage["inputs"][0]: features}), strict=True)
            )
            own, before = stage.get("weights", (1, 0))  # exits answer together
            joined = own * np.log(np.maximum(found["probabilities"], 1e-12)) + before * joined
            leaves = np.ones(len(rows), bool)
            if "threshold" in stage:
                leaves = found["score"] > stage["threshold"]
            answers = np.exp(joined[leaves] - joined[leaves].max(1, keepdims=True))
            probabilities[rows[leaves]] = answers / answers.sum(1, keepdims=True)
            exits[rows[leaves]] = stage["exit"]
            rows, joined = rows[~leaves], joined[~leaves]
            if not len(rows):
                break
            features = found["features"][~leaves]
        return probabilities, exits
