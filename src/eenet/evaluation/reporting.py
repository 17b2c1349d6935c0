"""The report: a page about a checkpoint, or comparing several, from data to file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eenet.common import Result, counted, lines, write_atomically
from eenet.data import AnyImages
from eenet.evaluation.benching import bench
from eenet.evaluation.evaluating import as_images, collect
from eenet.evaluation.page import Entry, build_report
from eenet.evaluation.shift import evaluate_under_corruptions
from eenet.networks import Config, Network, checkpoint_directory, name_of, open_network
from eenet.policies import RECORDS_FILE, AnyRecords, ExitPolicy
from eenet.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Report(Result):
    """A page that was written."""

    report: str
    """The file."""
    bytes: int
    seconds: float

    def __str__(self) -> str:
        return lines(self.to_dict())


def report(
    checkpoints: Network | str | Path | Sequence[Network | str | Path],
    out: str | Path,
    *,
    data: str,
    split: str = "test",
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 3, 5),
    timed: bool = False,
    skip_damaged: bool = False,
) -> Report:
    """Write one HTML page about a checkpoint, or comparing several; see `eenet.evaluation.page`.

    Args:
        checkpoints: one or several of: networks, directories, shipped names, hub ids; those without early
            exits are shown as static networks.
        out: the file to write.
        data: whose images to measure on. Records that training left are used if they are of these.
        split: train, validation or test.
        corruptions: also measure on damaged images: names, or `all`.
        severities: 1 to 5.
        timed: also run `eenet.bench` on each.
        skip_damaged: go on without image files that can't be read.

    Raises:
        FileNotFoundError, ValueError: as `eenet.evaluate`; the file can't be written.
    """
    start, out = time.perf_counter(), Path(out)
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"can't write to {out}: {'a directory' if out.is_dir() else 'no such directory'}")
    if not isinstance(checkpoints, Sequence) or isinstance(checkpoints, str):
        checkpoints = [checkpoints]
    known = [name_of(checkpoint) for checkpoint in checkpoints]
    names = [Path(name).name for name in known]
    labels = names if len(set(names)) == len(names) else known
    entries, shown = [], None
    for label, checkpoint in zip(labels, checkpoints, strict=True):
        network = open_network(checkpoint)
        task_of(network.config.task).must_support("report")
        images = as_images(data, network.config, split, skip_damaged=skip_damaged)
        shown = images if shown is None else shown
        if (images.task, images.class_names) != (shown.task, shown.class_names):
            raise ValueError(f"{label} has other classes than {labels[0]}")
        measured: dict[str, Any] = {}
        if corruptions:
            measured["corruptions"] = evaluate_under_corruptions(
                network, data=images, names=corruptions, severities=severities
            )
        if timed:
            measured["timings"] = bench(
                network, data=images if split == "test" else data, skip_damaged=skip_damaged
            )
        records = _records(network, checkpoint, images, split)
        policy = network.config.exit_policy()
        entries.append(report_entry(label, network.config, records, policy, network=network, **measured))
    if shown is None:
        raise ValueError("give at least one checkpoint to report on")
    title = f"{' and '.join([', '.join(labels[:-1]), labels[-1]] if labels[1:] else labels)} on {data}"
    page = build_report(entries, shown, title=title, data_name=data).encode()
    write_atomically(out, page)
    return Report(report=str(out), bytes=len(page), seconds=round(time.perf_counter() - start, 1))


def _records(network: Network, checkpoint: Network | str | Path, images: AnyImages, split: str) -> Any:
    """Those that training left, if they are of these images and this network, else collected now."""
    if isinstance(checkpoint, str | Path):
        path = checkpoint_directory(checkpoint) / RECORDS_FILE.format(split=split)
        kept = task_of(network.config.task).kept_records(path, images) if path.exists() else None
        if kept is not None:
            some = np.linspace(0, len(images) - 1, min(len(images), 64)).astype(int)
            if kept.subset(some).alike(collect(network, images.subset(some.tolist()))):
                return kept
    return collect(network, images, show_progress=True)


def report_entry(
    name: str, config: Config, records: AnyRecords, policy: ExitPolicy, **measured: Any
) -> Entry:
    """A trained network for `build_report`; `measured`: its `corruptions`, `timings` and `network`."""
    return Entry(
        name,
        records,
        policy,
        about=about_run(config),
        command=config.provenance.get("command", ""),
        backbone=config.backbone or ("the last network" if config.parts else "the plain backbone"),
        budgets={b: ExitPolicy.from_dict(p, len(config.exits)) for b, p in config.budgets.items()},
        exits=config.exits,
        **measured,
    )


def about_run(config: Config) -> str:
    """How a network was made, as a sentence."""
    made = config.provenance
    trained = made.get("train_config", {})
    if not trained:
        return ""
    splits = [f"images: {made['splits']}"] if made.get("splits") else []
    if config.parts:
        text = f"A cascade of {', '.join(made['networks'])}, as they were trained; {made['thresholds']}"
        return _sentences([text, *splits, *made.get("notes", [])])
    processes = f", {made['processes']} processes" if made.get("processes", 1) > 1 else ""
    text = (
        f"{'Exit heads trained' if trained['freeze_backbone'] else 'Trained'} for "
        f"{counted(trained['epochs'], 'epoch')} in {_duration(made['train_seconds'])} on {made['hardware']}"
        f"{processes}, seed {trained['seed']}"
    )
    if before := made.get("before"):
        text += f", with weights that took {counted(before['epochs'], 'epoch')} before"
    if config.exits:
        trained_gates = config.gate == "features"  # all that older checkpoints say about it
        before = "thresholds at 0.5" if trained_gates else f"thresholds set for budget {trained['budget']}"
        text += f", objective {trained['objective']}; {made.get('thresholds', before)}"
    return _sentences([text, *splits, *made.get("notes", [])])


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def _duration(seconds: float) -> str:
    return counted(max(round(seconds), 1), "second") if seconds < 100 else f"{seconds / 60:.0f} minutes"
