"""Images that a network wasn't trained on → thresholds → the checkpoint with a new policy."""

import itertools
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np

from eenet.common import Result, counted, hardware, lines, wrapped, write_atomically
from eenet.data import SOURCES, AnyImages, local_folder
from eenet.evaluation import as_images, collect, measure, named_exits
from eenet.networks import CARD_FILE, SHIPPED, Config, Network, checkpoint_directory, name_of, open_network
from eenet.policies import (
    SCORES,
    AnyRecords,
    ExitPolicy,
    Guarantee,
    policy_by_rule,
    policy_for_budget,
    policy_for_drop,
    policy_for_risk,
    score_for_budgets,
)
from eenet.runtime import StageTimes, default_backend, stage_times, timed
from eenet.tasks import task_of

WIDEST = 0.03  # half of the 95 % interval of the cost, above which a calibration is doubted


@dataclass(frozen=True, kw_only=True)
class Calibration(Result):
    """The new policy, and what it does on the half of the images that it was not set on."""

    checkpoint: str | None
    """Where it was saved; none for a network in memory."""
    thresholds: list[float]
    enabled: list[bool]
    num_examples: int
    """In that half."""
    relative_cost: float
    """Mean, in MACs."""
    dead_exits: list[int]
    accuracy: float | None = None
    full_accuracy: float | None = None
    """Of the full network."""
    miou: float | None = None
    """Of a segmentation instead."""
    full_miou: float | None = None
    map: float | None = None
    """Of a detection."""
    full_map: float | None = None
    agreement: float | None = None
    """With the full network, where images have no labels."""
    guarantee: Guarantee | None = None
    """If a risk was asked for."""
    relative_time: float | None = None
    """Mean, of the plain backbone's, if the budget was in time."""
    timings: StageTimes | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 %, by bootstrap over these images, of `accuracy` or `agreement`, of `relative_cost`, and of
    `relative_time` if the budget was in time."""
    previous: str | None = None
    """Name under which the policy that was replaced is kept."""
    notes: list[str] = field(default_factory=list)
    """What is uncertain, and what else happened."""

    def to_dict(self) -> dict[str, Any]:
        """Without `checkpoint` where nothing was saved."""
        return {key: value for key, value in super().to_dict().items() if value is not None}

    def __str__(self) -> str:
        left_out = ("timings", "intervals", "notes")
        told = [told_intervals(self.intervals), *(f"note: {note}" for note in self.notes)]
        found = {key: value for key, value in self.to_dict().items() if key not in left_out}
        found = lines(found | {"dead_exits": named_exits(self.dead_exits)})
        return "\n\n".join([found, "\n".join(map(wrapped, told))])


def calibrate(
    checkpoint: Network | str | Path,
    *,
    data: str,
    budget: float | None = None,
    max_drop: float | None = None,
    risk: float | None = None,
    delta: float | None = 0.1,
    risk_of: str = "excess_error",
    rule: str = "confidence",
    split: str = "validation",
    objective: str = "macs",
    backend: str | None = None,
    batch_size: int = 1,
    name: str | None = None,
    out: str | Path | None = None,
    skip_damaged: bool = False,
) -> Calibration:
    """Set a network's thresholds on one half of a split, and report on the other half.

    One of three things is asked for: a budget, or the least cost that keeps a drop or a risk.

    Args:
        checkpoint: a network, which is changed in memory, or a directory, shipped name or hub id.
        data: images that the network wasn't trained on; a directory of images without labels
            will do for a budget and for disagreement.
        budget: wanted mean cost, relative to the plain backbone.
        max_drop: how many points of accuracy may be lost against the full network, such as 0.5.
        risk: what must be kept on new images as well, with a guarantee; see `policy_for_risk`.
        delta: how likely the guarantee may fail; none: it holds on average.
        risk_of: `excess_error`, `disagreement`, or, of a detection, `missed`: images with objects that leave
            as empty.
        rule: for a budget in MACs, how thresholds are set: the name of a score, or a way of your own.
        split: of the data.
        objective: `macs`, or `latency`: cost is time measured here, and exits that don't pay
            for their heads are switched off. For a budget.
        backend: to be timed. Default: the fastest that is installed, in the order ONNX Runtime, torch.
        batch_size: to be timed with.
        name: keep the policy beside the checkpoint's own under this name. Default: instead of it, which is
            kept as `before` (`before-2`, ...).
        out: directory for the checkpoint with its new policy. Default: it is changed in place.
        skip_damaged: go on without image files that can't be read.

    Raises:
        FileNotFoundError, ValueError: checkpoint or data can't be read or don't fit each other,
            or what is asked for is impossible, or can't be shown on these images.
    """
    if sum(asked is not None for asked in (budget, max_drop, risk)) != 1:
        raise ValueError("ask for one of budget, max drop and risk")
    if objective not in ("macs", "latency"):
        raise ValueError(f"unknown objective {objective!r}; choose from macs, latency")
    if objective == "latency" and budget is None:
        raise ValueError("objective latency is for a budget")
    directory = checkpoint_directory(checkpoint) if isinstance(checkpoint, str | Path) else None
    if directory is not None and out is None and directory.is_relative_to(SHIPPED):
        raise ValueError(f"{checkpoint} came with eenet and is not changed; give --out for a copy")
    network = open_network(checkpoint)
    if not network.num_exits:
        raise ValueError(f"{name_of(checkpoint)} has no early exits to calibrate")
    trained_on = network.config.provenance.get("train_config", {}).get("data")
    if risk is not None and data == trained_on and split != "test":
        raise ValueError(
            f"the gates of {name_of(checkpoint)} were fitted on the validation images of {trained_on}, and a "
            "guarantee needs images that were not used before; give other data, or --split test"
        )
    task = task_of(network.config.task)
    if objective == "latency":
        task.must_support("a budget in time")
    images = _without_labels(data, network)
    labelled = images is None
    if not labelled and (max_drop is not None or (risk is not None and risk_of != "disagreement")):
        raise ValueError(
            f"{data} holds images without labels; a budget and --risk-of disagreement need none, "
            "what is asked for does"
        )
    if images is None:
        images = as_images(data, network.config, split, skip_damaged=skip_damaged)
    records = collect(network, images, show_progress=True)
    if not labelled:  # what is right is then what the full network says
        records = task.by_itself(records)
    order = np.random.default_rng(0).permutation(len(images))
    fitted, held_out = (records.subset(half) for half in (order[::2], order[1::2]))
    more: dict[str, Any] = {}
    known_to: dict[str, tuple[float, float]] = {}
    if risk is not None:
        policy, more["guarantee"] = policy_for_risk(fitted, risk, delta=delta, risk=risk_of)
        within = f"delta {delta}" if delta else "no delta (on average)"
        asked_for = f"{risk_of} at most {risk} with {within}"
    elif max_drop is not None:
        if not 0 <= max_drop <= 100:
            raise ValueError(f"max drop is {max_drop}; it is in points of {task.metric}, from 0 to 100")
        policy = policy_for_drop(fitted, max_drop / 100)
        asked_for = f"a drop of {task.metric} of at most {max_drop:g} points"
    elif objective == "latency":
        measured = stage_times(
            network, task.sample(images, 64), backend=backend or default_backend(), batch_size=batch_size
        )
        score = score_for_budgets(network.config.exit_policy().score)  # which may be quicker than gates
        in_time = timed(fitted, measured.to_dict())
        policy = policy_for_budget(in_time, cast(float, budget), scores=[score], any_exits=True)
        keep_times(network, measured)
        spent = timed(held_out, measured.to_dict())
        more["relative_time"] = measure(spent, policy).relative_cost
        known_to["relative_time"] = task.intervals(spent, policy)["relative_cost"]
        more["timings"] = measured
        asked_for = f"budget {budget} in time"
    else:
        policy = policy_by_rule(fitted, cast(float, budget), rule)
        asked_for = f"budget {budget} in MACs"
    found = measure(held_out, policy)
    known = dict(task.intervals(held_out, policy))
    figure, full_figure = found.figures
    if not labelled:
        known = {"agreement": known.pop(figure), **known}
    known_to = {**known, **known_to}
    half = f"one half of {f'the {split} split of ' * labelled}{data}"
    notes = doubts(fitted, policy, network.config, labelled=labelled)
    if labelled:
        more |= {figure: found.quality, full_figure: found.full_quality}
        quality = f"{found.metric} {found.quality:.2%} (full network {found.full_quality:.2%})"
    else:
        more["agreement"] = found.quality
        quality = f"{found.metric} {found.quality:.2%} against the full network's answers"
    today = datetime.now(UTC).date().isoformat()
    previous = None
    if name is None:
        previous = _keep_policy(network.config, policy)
        network.config.policy = policy.to_dict()
        network.config.provenance["thresholds"] = f"thresholds set on {today} for {asked_for}, on {half}"
        if previous:
            notes.append(f"the policy that was there is kept as {previous!r} (--policy {previous})")
    else:
        network.config.policies[name] = policy.to_dict()
    if origin := SCORES.origin(policy.score):
        network.config.plugins = sorted({*network.config.plugins, origin})
    target = out or directory
    if target is not None:
        heading = f"Policy {name!r} set" if name else "Policy set again"
        note = (
            f"\n## {heading}, {today}\n\n"
            f"For {asked_for}, on {half}; on the other half {quality} at relative cost "
            f"{found.relative_cost:.3f}; {told_intervals(known_to)}.\n"
            + "".join(f"\n- {note}" for note in notes)
            + "\n" * bool(notes)
        )
        _save(network, Path(target), directory, note)
    return Calibration(
        checkpoint=str(target) if target is not None else None,
        thresholds=list(policy.thresholds),
        enabled=list(policy.enabled),
        num_examples=found.num_examples,
        relative_cost=found.relative_cost,
        dead_exits=found.dead_exits,
        intervals=known_to,
        previous=previous,
        notes=notes,
        **more,
    )


def told_intervals(found: Mapping[str, tuple[float, float]]) -> str:
    """In words."""
    told = []
    for name, (low, high) in found.items():
        share = not name.startswith("relative")
        ends = f"{low:.2%} to {high:.2%}" if share else f"{low:.3f} to {high:.3f}"
        told.append(f"{name.replace('_', ' ')} {ends}")
    return f"95 % intervals: {', '.join(told)}"


def doubts(records: AnyRecords, policy: ExitPolicy, config: Config, *, labelled: bool = True) -> list[str]:
    """Why thresholds that were set on these images may do something else on others."""
    count, notes = len(records), []
    low, high = task_of(records.task).intervals(records, policy)["relative_cost"]
    if (high - low) / 2 > WIDEST:
        notes.append(
            f"{counted(count, 'image')} are too few to tell the cost to ± {WIDEST}: its 95 % interval on "
            f"those that thresholds were set on is {low:.3f} to {high:.3f}"
        )
    seen = records.classes_seen() if labelled else range(config.num_classes)
    if missing := [n for n in range(config.num_classes) if n not in seen]:
        names = [config.class_names[n] if config.class_names else str(n) for n in missing]
        told = textwrap.shorten(", ".join(names), 80, placeholder=" …")
        notes.append(f"none of the images that thresholds were set on is of class {told}")
    return notes


def _keep_policy(config: Config, policy: ExitPolicy) -> str | None:
    """Keep the checkpoint's own policy under a name, before another replaces it; none if it is the same."""
    own = config.policy
    if own is None or ExitPolicy.from_dict(own, len(config.exits)) == policy:
        return None
    names = (f"before-{n}" if n > 1 else "before" for n in itertools.count(1))
    name = next(each for each in names if config.policies.get(each, own) == own)
    config.policies[name] = own
    return name


def _save(network: Network, target: Path, source: Path | None, note: str) -> None:
    """The checkpoint, and its card with a note."""
    card = source / CARD_FILE if source else None
    before = card.read_text() if card and card.exists() else ""
    network.save_pretrained(target)
    write_atomically(target / CARD_FILE, (before + note).encode())


def keep_times(network: Network, measured: StageTimes) -> None:
    """In the checkpoint, instead of others for the same backend and batch size."""
    same = (measured.backend, measured.batch_size)
    others = [t for t in network.config.timings if (t["backend"], t["batch_size"]) != same]
    network.config.timings = [*others, {**measured.to_dict(), "hardware": hardware()}]


def _without_labels(data: str, network: Network) -> AnyImages | None:
    """The images of a directory that has no labels; none if it has, or is no directory."""
    directory = None if data in SOURCES else local_folder(data, os.environ.get("EENET_DATA"))
    if directory is None:
        return None
    return task_of(network.config.task).without_truth(directory, network.config)
