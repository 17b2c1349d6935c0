"""The early-exit network: stages and exit heads, how it is made, saved and loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from huggingface_hub import HfApi
from numpy.typing import NDArray
from torch import Tensor, nn

from eenet.backbones import eval_mode
from eenet.common import write_atomically
from eenet.data import normalize
from eenet.networks.config import Config, write_config
from eenet.networks.directories import CARD_FILE, CONFIG_FILE, GRAPH_FILE, WEIGHTS_FILE
from eenet.policies import Fitted


class ExitOutputs(NamedTuple):
    """What every exit says, in train and in eval mode alike."""

    logits_KBN: list[Tensor]
    """K tensors [B, N], of places [B, N, h, w]: the classification branches, the final exit last."""
    confidence_logits_KB: list[Tensor]
    """K - 1 tensors [B]: the confidence branches of the early exits, before the sigmoid."""


class EENet(nn.Module):
    """A backbone divided into K stages, with an exit head after each stage but the last.

    Made by `create_model`, `convert` or `EENet.from_pretrained`.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        config: Config,
        *,
        copies: Sequence[bool] | None = None,
    ) -> None:
        """From its parts; `create_model` and `convert` make them.

        Args:
            stages: the backbone's parts in order, one more than there are heads.
            heads: one for each early exit.
            config: what is kept in `config.json`: exits, costs, policies, classes.
            copies: whether the stage after exit k writes into its input, and must be given a copy.
        """
        super().__init__()
        assert len(stages) == len(heads) + 1
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.config = config
        self.copies = list(copies) if copies is not None else [False] * len(heads)

    @property
    def num_exits(self) -> int:
        """Number of early exits, K - 1."""
        return len(self.heads)

    @property
    def costs_K(self) -> list[float]:
        """Relative cost of leaving at each exit, heads included; the final exit is above 1."""
        return self.costs()

    def costs(self, enabled: Sequence[bool] | None = None) -> list[float]:
        """Relative cost of leaving at each exit, the final one last.

        Args:
            enabled: the early exits that are on; by default all.
        """
        return self.config.costs(enabled)

    @property
    def memory_format(self) -> torch.memory_format:
        """The faster layout of images and weights: channels last, where that is safe.

        On a CPU, oneDNN's backward pass writes past its buffers for strided 1×1 convolutions
        of fewer than 8 channels in channels-last layout (seen with torch 2.14.1 on AVX2).
        """
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        narrow = (
            max(c.kernel_size) == 1 and max(c.stride) > 1 and c.in_channels // c.groups < 8
            for c in convolutions
            if c.weight.device.type == "cpu"
        )
        return torch.contiguous_format if any(narrow) else torch.channels_last

    def check_format(self, images: torch.dtype = torch.float32) -> None:
        """Whether the weights are in the number format of the images.

        Args:
            images: their number format.

        Raises:
            ValueError: they aren't, as after `.half()`.
        """
        parts = (self.stages, self.heads)
        for weights in (next((p.dtype for p in part.parameters()), images) for part in parts):
            if weights != images:
                raise ValueError(
                    f"the network's weights are in {weights}, the images in {images}; exits are trained and "
                    "measured in float32: network.float() casts it back (for speed: "
                    "Predictor(..., precision='bf16'), or `eenet export --precision fp16`)"
                )

    def forward(self, images_BCHW: Tensor) -> ExitOutputs:
        """Run every stage and every head; leaving early is the runtime's work.

        Args:
            images_BCHW: normalised images, float [B, C, H, W].
        """
        if not torch.compiler.is_compiling():
            self.check_format(images_BCHW.dtype)
        features = images_BCHW
        logits: list[Tensor] = []
        confidence_logits: list[Tensor] = []
        for k, head in enumerate(self.heads):
            features = self.stages[k](features)
            exit_logits, confidence_logit = head(features)
            logits.append(exit_logits)
            confidence_logits.append(confidence_logit)
            if self.copies[k]:
                features = features.clone()
        logits.append(self.stages[-1](features))
        return ExitOutputs(logits, confidence_logits)

    def answers(self, pixels_BCHW: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What every exit says about images, in eval mode: logits [K, B, N], confidence logits [K - 1, B].

        Args:
            pixels_BCHW: of the network's size, 0 to 255.

        Raises:
            ValueError: the network's `config` has no `mean` and `std`.
        """
        mean, std = self.config.normalization()
        pixels = torch.from_numpy(np.array(pixels_BCHW)).to(next(self.parameters()).device)
        images = normalize(pixels, mean, std).contiguous(memory_format=self.memory_format)
        with eval_mode(self), torch.inference_mode():
            outputs = self(images)
        said = outputs.confidence_logits_KB
        confidences = torch.stack(said) if said else torch.empty(0, len(pixels))
        logits = torch.stack(outputs.logits_KBN)
        return logits.float().cpu().numpy(), confidences.float().cpu().numpy()

    def adopt(self, fitted: Fitted) -> None:
        """Leave from now on as `eenet.policies.fit` found best.

        Args:
            fitted: gates, weights of joint answers, and policies.
        """
        for head, gate in zip(self.heads, fitted.gates, strict=bool(fitted.gates)):
            head.get_submodule("confidence").load_state_dict(gate.state_dict())
        self.config.ensemble = fitted.ensemble
        self.config.task_settings = {**self.config.task_settings, **fitted.task_settings}
        self.config.policy = fitted.policy.to_dict()
        self.config.budgets = {budget: policy.to_dict() for budget, policy in fitted.budgets.items()}

    # Checkpoints ---------------------------------------------------------------------

    def save_pretrained(self, directory: str | Path, *, card: str = "", graph: bool | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, perhaps `graph.onnx`, and the model card `README.md`.

        Args:
            directory: is made if it isn't there.
            card: its text. Default: none is written.
            graph: also write the network as a graph, whose weights stay in `model.safetensors`: then what
                runs it needs neither torch nor its class. Making it takes seconds to a minute. Default: if
                the network is trained or of a class of your own, and torch can export it.

        Raises:
            ValueError: `graph` is wanted, and torch can't export the network.
        """
        from eenet.networks.graphs.keeping import put_graph  # which knows networks of this class

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        weights, written = {}, set()
        for name, tensor in self.state_dict().items():
            storage = tensor.untyped_storage().data_ptr()
            # A block that two stages share is written for each: safetensors holds no aliases.
            shared = storage in written
            weights[name] = tensor.detach().clone() if shared else tensor.detach().contiguous()
            written.add(storage)
        write_atomically(directory / WEIGHTS_FILE, safetensors.torch.save(weights))
        self.config.hashes = put_graph(self, directory, graph)
        write_config(self.config, directory)
        if card:
            write_atomically(directory / CARD_FILE, card.encode())
        return directory

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        backbone: nn.Module | Sequence[nn.Module] | None = None,
        trust_model_code: bool = False,
    ) -> "EENet":
        """Load a checkpoint.

        Args:
            name: a checkpoint directory, a shipped name such as `digits-eenet8`, or the id of a model
                on the Hugging Face hub.
            backbone: for a network made by `convert` from a class of your own: an instance
                of that class, or the same list of stages; its weights are overwritten.
            trust_model_code: run the function of a user's own that made the backbone, which the checkpoint
                names as `package.module:function`.

        Raises:
            FileNotFoundError: no such directory, or a file is missing in it.
            ValueError: the checkpoint is damaged or of an unknown format version; the
                message names the file and the key.
        """
        from eenet.networks.checkpoint import load_checkpoint  # which makes networks of this class

        return load_checkpoint(name, backbone, trust_model_code=trust_model_code)

    def push_to_hub(self, repo_id: str, directory: str | Path, *, private: bool = False) -> str:
        """Save to a directory, upload it to the Hugging Face hub, return its address.

        Args:
            repo_id: `owner/name`.
            directory: where the checkpoint is written first.
            private: whether others can't see it.
        """
        self.save_pretrained(directory)
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        allowed = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, GRAPH_FILE]
        return str(api.upload_folder(repo_id=repo_id, folder_path=directory, allow_patterns=allowed))
