"""What a checkpoint holds, or where a backbone can be cut, and what that costs."""

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eenet.backbones import trusted_name
from eenet.common import Result, format_table, lines, require, wrapped
from eenet.data import DataInfo, is_here, stated_tasks
from eenet.networks.config import Config, read_config
from eenet.networks.directories import CONFIG_FILE, checkpoint_directory, shipped_checkpoints
from eenet.networks.graphs.stored import Network, name_of
from eenet.policies import ExitPolicy
from eenet.tasks import task_of

if TYPE_CHECKING:
    from eenet.backbones import Cut


@dataclass(frozen=True, kw_only=True)
class BackboneInfo(Result):
    """Where a backbone can be cut."""

    backbone: str
    input_size: list[int]
    num_classes: int
    macs: int
    parameters: int
    cuts: "list[Cut]"

    def __str__(self) -> str:
        told = {key: value for key, value in self.to_dict().items() if key != "cuts"}
        rows = [[c.name, f"{c.fraction:.3f}", "×".join(map(str, c.feature_size))] for c in self.cuts]
        if not rows:
            why = "No cuts: nowhere is a feature map [channels, height, width] alone alive"
            return f"{lines(told)}\n\n{wrapped(f'{why}. Vision Transformers, for one, work on tokens.')}"
        return f"{lines(told)}\n\n{format_table(['cut', 'relative cost', 'features'], rows)}"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo(Result):
    """What a checkpoint says of itself, see `eenet.networks.Config`, and what leaving at each exit costs."""

    checkpoint: str
    costs: list[float]
    """Relative cost of leaving at each exit, under the checkpoint's policy."""
    config: Config
    policy: ExitPolicy

    def to_dict(self) -> dict[str, Any]:
        """All of the configuration, flat."""
        own = {"checkpoint": self.checkpoint, "costs": self.costs}
        return {**own, **asdict(self.config), "policy": asdict(self.policy)}

    def __str__(self) -> str:
        config, policy, classes = self.config, self.policy, str(self.config.num_classes)
        exits = zip(
            config.exits, config.head_macs, self.costs[:-1], policy.thresholds, policy.enabled, strict=True
        )
        rows = [
            [str(k), place, f"{macs:,}", f"{cost:.3f}", f"{threshold:.4g}" if on else "off"]
            for k, (place, macs, cost, threshold, on) in enumerate(exits)
        ]
        rows.append(["final", "–", "–", f"{self.costs[-1]:.3f}", "–"])
        if config.class_names:
            classes += f": {textwrap.shorten(', '.join(config.class_names), 150, placeholder=' …')}"
        budgets, made = sorted(config.budgets, key=float), config.provenance
        told = {
            "task": config.task,
            "backbone": f"{_backbones(config)}, {config.backbone_macs:,} MACs",
            "pruned": made.get("pruning"),
            "heads": f"{config.head}, gate {config.gate}",
            "images": " × ".join(map(str, config.input_size)),
            "classes": classes,
            "score": policy.score,
            "budgets": budgets and f"{budgets[0]} to {budgets[-1]}, {len(budgets)} policies",
            "policies": list(config.policies),
            "timed on": [f"{t.get('backend')} at batch {t.get('batch_size')}" for t in config.timings],
            "plugins": config.plugins,
            "made by": made.get("command"),
            "made": [made[key] for key in ("date", "hardware") if key in made],
            "versions": made.get("versions"),
        }
        header = ["exit", "behind", "MACs of its head", "cost", "threshold"]
        shown = {key: value for key, value in told.items() if value}
        return f"{format_table(header, rows)}\n\n{lines(shown)}"


def _backbones(config: Config) -> str:
    """What a network, or those of a cascade, are made of."""
    if config.parts:
        return f"{' → '.join(map(_backbones, config.parts))}, of the last"
    return config.backbone or "its own class"


def info(
    name: Network | str | Path,
    *,
    input_size: Sequence[int] | None = None,
    label_column: str | None = None,
    file_column: str | None = None,
    out: str | Path | None = None,
    task: str | None = None,
) -> CheckpointInfo | BackboneInfo | DataInfo:
    """What a checkpoint or a data set holds, or where a backbone can be cut.

    Args:
        name: a network, a checkpoint, the name of a backbone, or a data set that is here, see
            `eenet.data.load`.
        input_size: (channels, height, width) at which to look at a backbone.
        label_column, file_column: of a data set's table.
        out: a picture to write, of some images of each class of a data set.
        task: what a data set is looked at for. Default: as its `info.json` says, else classification.

    Raises:
        FileNotFoundError, ValueError: none of these.
    """
    if not isinstance(name, str | Path):
        return _of_config(name_of(name), name.config)
    name = trusted_name(str(name))
    if is_here(name) and not Path(name, CONFIG_FILE).exists():
        wanted = task or next(iter(stated_tasks(name)), "classification")
        return task_of(wanted).survey(name, label_column=label_column, file_column=file_column, out=out)
    if label_column or file_column or out or task:
        raise ValueError(f"{name} is no data set that is here; columns, a sheet and a task are for data")
    shipped = shipped_checkpoints()
    if not Path(name).exists() and "/" not in name and name not in shipped:
        require("torch", f"looking at a backbone ({name} is no checkpoint)")
        from eenet.backbones import is_backbone

        if is_backbone(name) or not difflib.get_close_matches(name, shipped):
            return _of_backbone(name, input_size)
    return _of_config(name, read_config(checkpoint_directory(name)))


def _of_backbone(name: str, input_size: Sequence[int] | None) -> BackboneInfo:
    from eenet.backbones import create_backbone, default_input_size, trace

    module = create_backbone(name, {"in_chans": input_size[0]} if input_size else {})
    traced = trace(module, input_size or default_input_size(module, name))
    return BackboneInfo(
        backbone=name,
        input_size=list(traced.input_size),
        num_classes=traced.num_classes,
        macs=traced.macs,
        parameters=sum(p.numel() for p in module.parameters()),
        cuts=traced.cuts,
    )


def _of_config(name: str, config: Config) -> CheckpointInfo:
    policy = config.exit_policy()
    return CheckpointInfo(checkpoint=name, costs=config.costs(policy.enabled), config=config, policy=policy)
