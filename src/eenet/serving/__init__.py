"""Networks over HTTP."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.serving.app import create_app
    from eenet.serving.guard import App, Limits, Receive, Scope, Send
    from eenet.serving.metrics import Metrics
    from eenet.serving.model import ServeOptions, served_policy
    from eenet.serving.models import Models
    from eenet.serving.run import DRAIN_SECONDS, TOKEN_VARIABLE, named_checkpoints, serve

__getattr__, __dir__ = lazy_names(__name__)
