"""A file with the weights of a user's network → tensors that fit that network, or what is wrong with them."""

import argparse
import difflib
import pickle
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from eenet.backbones.names import classifier_name

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "ema_model.", "ema.", "network.", "net.")
"""What wrappers put in front of names: parallel training, compilation, training frameworks, averages."""
NESTS = (
    "state_dict", "model", "model_state_dict", "network", "net", "state_dict_ema", "model_ema", "ema",
    "ema_state_dict",
)  # fmt: skip
"""Keys under which training scripts keep the weights; the first that is there is taken."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Buffers that answers don't depend on; old files lack them."""
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Outputs that torchvision's networks have in training only."""
NAMED = 3  # tensors that a message names
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")},
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]
"""Beside tensors and plain values, what training scripts keep in a file: arguments, a number of NumPy's."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name, as a network of a user's has them."""

    source: str
    """The file, as messages name it."""
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = field(default=())
    """What was taken off or left out."""

    def fitted(self, module: nn.Module) -> "Weights":
        """With the prefix taken off that makes most names those of `module`."""
        wanted, tensors, taken = module.state_dict().keys(), self.tensors, ""
        for _ in range(len(PREFIXES)):  # wrappers may be nested
            best = max(("", *PREFIXES), key=lambda prefix: _matches(tensors, prefix, wanted))
            if not best:
                break
            tensors = {n.removeprefix(best): t for n, t in tensors.items() if n.startswith(best)}
            taken += best
        if not taken:
            return self
        notes = [f"prefix {taken!r} taken off"]
        if others := [n for n in self.tensors if not n.startswith(taken) and not n.endswith(COUNTERS)]:
            notes.append(f"left out, as they don't begin with it: {_listed(others)}")
        return Weights(self.source, tensors, (*self.notes, *notes))

    def num_classes(self, module: nn.Module) -> int | None:
        """Of a network like `module`, by the tensors; none if its classifier isn't among them."""
        found = self.tensors.get(f"{classifier_name(module)}.weight")
        return found.shape[0] if found is not None and found.ndim else None

    def channels(self, module: nn.Module) -> int | None:
        """Of the images that a network like `module` takes, by the tensors; none if they don't tell."""
        layers = (name for name, part in module.named_modules() if isinstance(part, nn.Conv2d))
        first = next(layers, None)
        found = self.tensors.get(f"{first}.weight")
        return found.shape[1] if found is not None and found.ndim == 4 else None

    def load_into(self, module: nn.Module, *, keep_classifier: bool = True) -> None:
        """Put them into a network.

        Args:
            module: its weights are overwritten.
            keep_classifier: else the classifier stays as it is in `module`.

        Raises:
            ValueError: tensors are missing, unknown, of another shape, or not finite; says which.
        """
        own = module.state_dict()
        left = () if keep_classifier else (f"{classifier_name(module)}.",)

        def counts(name: str) -> bool:
            return not name.endswith(COUNTERS) and not (left and name.startswith(left))

        given = {n: t for n, t in self.tensors.items() if counts(n) or (n in own and n.endswith(COUNTERS))}
        given = {n: t for n, t in given.items() if n in own or not n.startswith(AUXILIARY)}
        missing = [n for n in own if n not in given and counts(n)]
        unknown = [n for n in given if n not in own]
        kind = type(module).__name__
        if missing or unknown:
            raise ValueError(
                f"{self.source} doesn't fit this {kind}: {_told('missing', missing, unknown, 'there is')}"
                f"{'; ' if missing and unknown else ''}{_told('unknown', unknown, missing, 'wanted')}. "
                "Are these the weights of another network, or of other --model-args?"
            )
        for name, tensor in given.items():
            if tensor.shape != own[name].shape:
                raise ValueError(
                    f"{self.source}: tensor {name!r} has shape {tuple(tensor.shape)}, this {kind} has "
                    f"{tuple(own[name].shape)}; are these the weights of another network?"
                )
            if not tensor.to(own[name].dtype).isfinite().all():
                raise ValueError(f"{self.source}: tensor {name!r} holds NaN or infinity")
        module.load_state_dict({**own, **given})


def read_weights_file(file: str | Path) -> Weights:
    """The tensors in a file of safetensors or a PyTorch state dict, without running any code in it.

    Args:
        file: safetensors by its suffix, else what `torch.save` wrote: a state dict, also one nested in
            `NESTS`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else than weights.
    """
    path = Path(file)
    if path.is_dir():
        raise ValueError(
            f"{file} is a directory; weights are a file (a checkpoint of eenet is given as model)"
        )
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
        raise FileNotFoundError(f"no weights file {file}" + (f"; did you mean {near[0]}?" if near else ""))
    if path.suffix == ".safetensors":
        try:
            return Weights(str(file), safetensors.torch.load_file(path))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    return _state_dict_in(_unpickled(path), str(file))


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # of what is refused below
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "Weights only" not in str(error):
            raise ValueError(f"{path} is not a file of weights, or damaged") from error
        raise ValueError(_pickled(path)) from error
    except Exception as error:  # a damaged file makes torch.load raise errors of many kinds
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is TorchScript; save its weights where it was made: "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
            ) from error
        raise ValueError(f"{path} is not a file of weights, or damaged: torch.load says {error!r}") from error


def _pickled(path: Path) -> str:
    """What to say of a file with objects of other classes, and the two lines that make weights of it."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of an old format, or damaged
        found = []
    own = [name for name in sorted(found) if not name.startswith(("torch.nn.", "torch._"))] or sorted(found)
    classes = f" ({_listed(own)})" if own else ""
    return (
        f"{path} holds pickled objects{classes}, not only weights, and is not loaded, because that can "
        f"run any code; if you trust it, make a file of weights where its classes can be imported: "
        f"network = torch.load({path.name!r}, weights_only=False); "
        "torch.save(network.state_dict(), 'weights.pth')"
    )


def _state_dict_in(found: Any, source: str) -> Weights:
    notes: list[str] = []
    while isinstance(found, Mapping) and not _is_state_dict(found):
        nest = next((n for n in NESTS if isinstance(found.get(n), Mapping)), None)
        if nest is None:
            keys = _listed([str(key) for key in found]) or "nothing"
            raise ValueError(f"{source} holds no weights: its keys are {keys}; expected a state dict")
        averaged = [n for n in found if n in NESTS and n != nest and "ema" in n]
        also = f" (there is {averaged[0]!r} too)" if averaged else ""
        notes.append(f"weights found under {nest!r}{also}")
        found = found[nest]
    if not isinstance(found, Mapping):
        raise ValueError(f"{source} holds a {type(found).__name__}, not a state dict of tensors by name")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    return Weights(source, tensors, tuple(notes))


def _is_state_dict(found: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) and value.ndim > 0 for value in found.values())


def _names_beside(path: Path) -> list[str]:
    return [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []


def _matches(tensors: Mapping[str, Tensor], prefix: str, wanted: Collection[str]) -> tuple[int, int]:
    """How many names are wanted without a prefix; then, how many have it."""
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    return sum(name in wanted for name in names), len(names) if prefix else 0


def _told(what: str, names: list[str], others: list[str], but: str) -> str:
    """How many tensors, the first of them, and the one among others that is called most like it."""
    if not names:
        return ""
    near = difflib.get_close_matches(names[0], others, n=1)
    like = f"; most like it {but} {near[0]}" if near else ""
    return f"{len(names)} tensors {what}: {_listed(names)}{like}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
