"""A self-contained HTML report, interactive: accuracy against cost, exits, confusions, images, time."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eenet.data import AnyImages
from eenet.evaluation.benching import Bench
from eenet.evaluation.shift import ShiftRow
from eenet.policies import AnyRecords, ExitPolicy, decide, recorded_scores
from eenet.tasks import MATRIX_UP_TO, measure, task_of

IMAGES_PER_STRIP = 8
MOST_IMAGES = 200  # on a page
PAPER_DATA = {"cifar10", "svhn", "mnist", "tiny-imagenet"}
PAPER_COST = 0.2  # Demir & Akbas 2024, abstract: "similar accuracy ... computational cost to 20%"
PLOTLY = "plotly-basic.min.js"
EXIT_COLOURS = ("#1b7f5c", "#4d7a12", "#8a6100", "#b34700", "#a3286f", "#5b539f", "#2c6596", "#6b5426")
FINAL_COLOUR = "#56626e"  # of the last exit, however many there are before it
LINE_COLOURS = ("#2f7fc1", "#d9701a", "#2a9d6f", "#b04fa0", "#8a7a1f", "#6f6fd0")


@dataclass(frozen=True)
class Entry:
    """One network on the page."""

    name: str
    records: AnyRecords
    """Of the page's images, in the same order, not used for training or calibration."""
    policy: ExitPolicy
    """The network's own."""
    about: str = ""
    command: str = ""
    """How to make the network again."""
    backbone: str = "the plain backbone"
    budgets: Mapping[str, ExitPolicy] = field(default_factory=dict)
    """Wanted mean relative cost → policy, for the slider."""
    exits: Sequence[str] = ()
    """Behind which blocks the early exits sit."""
    corruptions: Sequence[ShiftRow] = ()
    """How it does on damaged images."""
    timings: Bench | None = None
    """How fast it is."""
    network: Any = None
    """Itself, to show answers that records don't keep."""


def build_report(entries: Sequence[Entry], images: AnyImages, *, title: str, data_name: str = "") -> str:
    """The page as one string of HTML, scripts and pictures included; it needs no network access.

    Args:
        entries: one network, or several to be compared.
        images: shown by exit.
        title: of the page.
        data_name: of the images, to say what the paper reports on them.

    Raises:
        ValueError: no entries, or records that aren't of these images.
    """
    if not entries:
        raise ValueError("give at least one network to report on")
    for entry in entries:
        if len(entry.records) != len(images):
            raise ValueError(f"{len(entry.records)} records of {entry.name}, but {len(images)} images")
    first, task = entries[0].records.backbone_macs, task_of(images.task)
    measured = measure(entries[0].records, entries[0].policy)
    page = {
        "metric": measured.metric,
        "class_metric": measured.class_metric,
        "compared": measured.compared,
        "counted": task.counted,
        "pictured": task.pictured,
        "networks": [_network(entry, images, first, len(entries)) for entry in entries],
        "budgets": sorted({budget for entry in entries for budget in entry.budgets}, key=float),
        "images": len(images),
        "classes": list(images.class_names),
        "matrix_up_to": MATRIX_UP_TO,
        "colours": EXIT_COLOURS,
        "final_colour": FINAL_COLOUR,
        "lines": LINE_COLOURS,
        "claim": PAPER_COST if data_name in PAPER_DATA and entries[0].records.head_macs else None,
    }
    data = json.dumps(page, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    scripts = f"<script>{asset(PLOTLY)}</script><script>{asset('report.js')}</script>"
    return document(title, "", f'<script type="application/json" id="data">{data}</script>{scripts}')


def document(title: str, body: str, scripts: str) -> str:
    """A page with its style, which needs no network."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{asset('report.css')}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1>{body}</main>{scripts}</body></html>\n"
    )


def asset(name: str) -> str:
    """The text of a file that pages are made of."""
    return files("eenet").joinpath("assets", name).read_text("utf-8")


def _network(entry: Entry, images: AnyImages, first_macs: int, entries: int) -> dict[str, Any]:
    records, task = entry.records, task_of(entry.records.task)
    behind = [f", {block}" for block in entry.exits] or [""] * len(records.head_macs)
    return {
        "name": entry.name,
        "about": entry.about,
        "command": entry.command,
        "backbone": entry.backbone,
        "scale": records.backbone_macs / first_macs,
        "exits": [*(f"exit {k}{block}" for k, block in enumerate(behind)), "final exit"],
        "policy": _described(entry),
        "own_budget": _own_budget(entry),
        "full_cost": records.costs()[-1],
        "cuts": _cuts(records),
        **task.exits_shown(records, entry.policy),
        "settings": [
            _setting(records, entry.policy, None),
            *(
                _setting(records, policy, float(budget))
                for budget, policy in sorted(entry.budgets.items(), key=lambda item: float(item[0]))
            ),
        ],
        "strips": _strips(entry, images, entries),
        "corruptions": [row.to_dict() for row in entry.corruptions],
        "timings": entry.timings.to_dict() if entry.timings else None,
    }


def _described(entry: Entry) -> str:
    """What the policy is now, however it came about."""
    policy = entry.policy
    on = [k for k, enabled in enumerate(policy.enabled) if enabled]
    if not on:
        return "Own policy: all early exits are switched off." if policy.enabled else ""
    above = [f"{policy.thresholds[k]:.3g}" for k in on]
    each = [f"{threshold} at exit {k}" for k, threshold in zip(on, above, strict=True)]
    shown = above[:1] if len(set(above)) == 1 else each
    text = f"Own policy: an image leaves where the score {policy.score} is above {', '.join(shown)}"
    off = [f"exit {k}" for k, enabled in enumerate(policy.enabled) if not enabled]
    text += f"; switched off: {', '.join(off)}." if off else "."
    own = _own_budget(entry)
    here = f"the one for budget {own}" if own else "not among those for budgets on the slider"
    return f"{text} It is {here}." if entry.budgets else text


def _own_budget(entry: Entry) -> str | None:
    return next((budget for budget, policy in entry.budgets.items() if policy == entry.policy), None)


def _setting(records: AnyRecords, policy: ExitPolicy, budget: float | None) -> dict[str, Any]:
    """What a policy does, for a position of the slider."""
    measured = measure(records, policy)
    return {
        "budget": budget,
        "quality": measured.quality,
        "cost": measured.relative_cost,
        "costs": measured.costs,
        "counts": measured.exit_counts,
        "off": measured.switched_off,
        "dead": measured.dead_exits,
        **task_of(records.task).policy_shown(records, policy),
    }


def _cuts(records: AnyRecords) -> list[dict[str, float]]:
    """Static networks: all images leave at one early exit, and no other is run."""
    early, found = len(records.head_macs), []
    for k in range(early):
        only = ExitPolicy("confidence", (-1.0,) * early, tuple(i == k for i in range(early)))
        measured = measure(records, only)
        found.append({"cost": measured.relative_cost, "quality": measured.quality})
    return found


def _descending(values: NDArray[Any]) -> NDArray[Any]:
    return np.argsort(-values, kind="stable")


def _strips(entry: Entry, images: AnyImages, entries: int) -> list[dict[str, Any]]:
    """Per exit the images it is surest of and those it is least sure of, then those that left too early."""
    records, policy = entry.records, entry.policy
    near = records.around(policy) or records
    exits_B, worth_KB = decide(records, policy), near.worth(policy.enabled)
    own_B = worth_KB[exits_B, np.arange(len(records))]
    on = [k for k, on in enumerate(policy.enabled) if on]
    final = len(policy.thresholds)
    room = MOST_IMAGES // (entries * (2 * len(on) + 3))
    number = max(2, min(IMAGES_PER_STRIP, room))
    if on:
        score_KB = recorded_scores(records, policy.score)
        score_B = score_KB[np.minimum(exits_B, on[-1]), np.arange(len(records))]
    else:
        score_B = records.sureness()
    chosen: list[tuple[str, NDArray[Any]]] = []
    for k in [*on, final]:
        members = np.flatnonzero(exits_B == k)
        ranked = members[_descending(score_B[members])]
        name = f"Exit {k}" if k < final else "Final exit"
        sure = "surest" if k < final or not on else f"nearly left at exit {on[-1]}"
        unsure = "just sure enough" if k < final else "least sure"
        many = f"{name}, {len(members)} image{'' if len(members) == 1 else 's'}"
        chosen.append((f"{many}: {sure}", ranked[:number]))
        if len(ranked) > number:
            chosen.append((f"{name}: {unsure}", ranked[number:][::-1][:number]))
    if on:
        gained_B = worth_KB[-1] - own_B
        lost = np.flatnonzero((exits_B < final) & (gained_B > 0))
        ranked = lost[np.lexsort((-score_B[lost], -gained_B[lost]))]
        title = f"Left too early: the final exit answers better ({len(lost)})"
        chosen.append((title, ranked[: 2 * number]))
    task = task_of(records.task)
    return [
        {"title": title, "figures": task.figures(records, policy, images, members.tolist(), entry.network)}
        for title, members in chosen
    ]
