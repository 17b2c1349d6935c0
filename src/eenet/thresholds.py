"""What `eenet calibrate` does: data → records → thresholds → the checkpoint with a new policy."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from eenet import data
from eenet import records as recording
from eenet.calibration import policy_for_budget
from eenet.checkpoint import CARD_FILE, SHIPPED, checkpoint_directory, write_atomically
from eenet.console import progress
from eenet.evaluation import evaluate
from eenet.image_sets import Images, sample
from eenet.network import EENet
from eenet.pipeline import hardware
from eenet.readers import unlabelled
from eenet.risk import policy_for_drop, policy_for_risk
from eenet.runtime.predictor import installed
from eenet.runtime.timing import stage_times


def calibrate(
    checkpoint: str | Path,
    data_name: str,
    *,
    budget: float | None = None,
    max_drop: float | None = None,
    risk: float | None = None,
    delta: float | None = 0.1,
    risk_of: str = "excess_error",
    split: str = "validation",
    objective: str = "macs",
    backend: str | None = None,
    batch_size: int = 1,
    name: str | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Set a checkpoint's thresholds on one half of a split, and report on the other half.

    One of three things is asked for: a budget, or the least cost that keeps a drop or a risk.

    Args:
        checkpoint: directory or name.
        data_name: images that the network wasn't trained on; a directory of images without labels
            will do for a budget and for disagreement.
        budget: wanted mean cost, relative to the plain backbone.
        max_drop: how much accuracy may be lost against the full network: 0.01 is one point.
        risk: what must be kept on new images as well, with a guarantee; see `eenet.risk`.
        delta: how likely the guarantee may fail; none: it holds on average.
        risk_of: `excess_error` or `disagreement`.
        split: of the data.
        objective: `macs`, or `latency`: cost is time measured here, and exits that don't pay
            for their heads are switched off. For a budget.
        backend: to be timed. Default: the fastest that is installed, in the order ONNX Runtime, torch.
        batch_size: to be timed with.
        name: keep the policy beside the checkpoint's own under this name. Default: instead of it.
        out: directory for the checkpoint with its new policy. Default: it is changed in place.

    Returns:
        `checkpoint`, `thresholds`, `enabled`, and on the other half `num_examples`, `accuracy`,
        `full_accuracy`, `relative_cost` in MACs, `dead_exits`; without labels `agreement` with the full
        network instead of both accuracies; for a risk `guarantee`; for latency `relative_time` and the
        times under `timings`.

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
    directory = checkpoint_directory(checkpoint)
    if out is None and directory.is_relative_to(SHIPPED):
        raise ValueError(f"{checkpoint} came with eenet and is not changed; give --out for a copy")
    network = EENet.from_pretrained(checkpoint)
    if not network.num_exits:
        raise ValueError(f"{checkpoint} has no early exits to calibrate")
    known = network.config.provenance.get("train_config", {}).get("data")
    if risk is not None and data_name == known and split != "test":
        raise ValueError(
            f"the gates of {checkpoint} were fitted on the validation images of {known}, and a guarantee "
            "needs images that were not used before; give other data, or --split test"
        )
    images = _without_labels(data_name, network)
    labelled = images is None
    if not labelled and (max_drop is not None or (risk is not None and risk_of != "disagreement")):
        raise ValueError(
            f"{data_name} holds images without labels (no class folders); a budget and --risk-of "
            "disagreement need none, what is asked for does"
        )
    if images is None:
        images = data.load(data_name, split, size=network.config.input_size[1:])
    with progress("evaluating", len(images)) as advance:
        records = recording.collect(network, images, on_progress=advance)
    if not labelled:  # what is right is then what the full network says
        records = replace(records, labels_B=records.answers()[-1].argmax(1))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    fitted, held_out = (records.subset(half) for half in (order[::2], order[1::2]))
    result: dict[str, Any] = {"checkpoint": str(out or directory)}
    if risk is not None:
        policy, guarantee = policy_for_risk(fitted, risk, delta=delta, risk=risk_of)
        result["guarantee"] = guarantee.to_dict()
        asked_for = f"{risk_of} at most {risk} with " + (
            f"delta {delta}" if delta else "no delta (on average)"
        )
    elif max_drop is not None:
        policy = policy_for_drop(fitted, max_drop)
        asked_for = f"a drop of accuracy of at most {max_drop}"
    elif objective == "latency":
        backend = backend or default_backend()
        measured = stage_times(network, sample(images, 64), backend=backend, batch_size=batch_size)
        costs = time_as_cost(measured)
        policy = policy_for_budget(replace(fitted, **costs), cast(float, budget), any_exits=True)
        others = [
            t for t in network.config.timings if (t["backend"], t["batch_size"]) != (backend, batch_size)
        ]
        network.config.timings = [*others, {**measured, "hardware": hardware()}]
        result["relative_time"] = evaluate(replace(held_out, **costs), policy)["relative_cost"]
        result["timings"] = measured
        asked_for = f"budget {budget} in time"
    else:
        policy = policy_for_budget(fitted, cast(float, budget))
        asked_for = f"budget {budget} in MACs"
    measured_on = evaluate(held_out, policy)
    result |= {"thresholds": list(policy.thresholds), "enabled": list(policy.enabled)}
    result["num_examples"] = measured_on["num_examples"]
    if labelled:
        result |= {key: measured_on[key] for key in ("accuracy", "full_accuracy")}
        quality = f"accuracy {result['accuracy']:.2%} (full network {result['full_accuracy']:.2%})"
    else:
        result["agreement"] = measured_on["accuracy"]
        quality = f"the full network's answer for {result['agreement']:.2%}"
    result |= {key: measured_on[key] for key in ("relative_cost", "dead_exits")}
    if name is None:
        network.config.policy = policy.to_dict()
    else:
        network.config.policies[name] = policy.to_dict()
    target = network.save_pretrained(out or directory)
    card = (directory / CARD_FILE).read_text() if (directory / CARD_FILE).exists() else ""
    heading = f"Policy {name!r} set" if name else "Policy set again"
    note = (
        f"\n## {heading}, {datetime.now(UTC).date().isoformat()}\n\n"
        f"For {asked_for}, on one half of {f'the {split} split of ' * labelled}{data_name}; on the other "
        f"half {quality} at relative cost {result['relative_cost']:.3f}.\n"
    )
    write_atomically(target / CARD_FILE, (card + note).encode())
    return result


def _without_labels(data_name: str, network: EENet) -> Images | None:
    """The images of a directory that has no labels; none if it has, or is no directory."""
    if data_name in data.SOURCES:
        return None
    directory = data.local_folder(data_name, os.environ.get("EENET_DATA"))
    config = network.config
    names = config.class_names or [str(n) for n in range(config.num_classes)]
    return unlabelled(directory, names, config.input_size) if directory else None


def time_as_cost(measured: dict[str, Any]) -> dict[str, Any]:
    """Stage times as costs for `Records`, in nanoseconds instead of MACs."""
    plain = round(1e6 * measured["plain_ms"])
    stages, heads = ([round(1e6 * ms) for ms in measured[key]] for key in ("stage_ms", "head_ms"))
    return {"stage_macs": stages, "head_macs": heads, "backbone_macs": plain}


def default_backend() -> str:
    """The fastest that is installed."""
    return "onnxruntime" if installed("onnxruntime") else "torch"
