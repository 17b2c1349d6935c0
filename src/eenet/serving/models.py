"""The models of a server by name."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eenet.serving.metrics import Metrics
from eenet.serving.model import ServedModel, ServeOptions


class Models:
    """The models of a server by name; each can be loaded again from where it came from."""

    def __init__(
        self,
        checkpoints: Mapping[str, str | Path],
        options: ServeOptions,
        metrics: Metrics,
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Load all, as long as they are `wanted`; see `ServedModel` for what may go wrong."""
        self._checkpoints, self._options, self._metrics = dict(checkpoints), options, metrics
        self._loading = threading.Lock()
        self._models: dict[str, ServedModel] = {}
        for name in self._checkpoints:
            if wanted():
                self.load(name)

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Any:
        return iter(list(self._models))

    @property
    def names(self) -> list[str]:
        return list(self._checkpoints)

    def load(self, name: str) -> None:
        """Load a model again; requests go on with the old one until the new one is ready.

        Raises:
            KeyError: no such name.
            FileNotFoundError, ValueError: the checkpoint can't be loaded; the old one stays.
        """
        with self._loading:
            fresh = ServedModel(name, self._checkpoints[name], self._options, self._metrics)
            old, self._models[name] = self._models.get(name), fresh
        if old is not None:
            old.close()

    def close(self) -> None:
        """Finish everything."""
        for model in self._models.values():
            model.close()
