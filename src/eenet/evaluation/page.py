"""A self-contained HTML report, interactive: accuracy against cost, exits, confusions, images, time."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eenet.data import Images
from eenet.evaluation.benching import Bench
from eenet.evaluation.shift import ShiftRow
from eenet.policies import ExitPolicy, Records, decide, probabilities, recorded_scores
from eenet.tasks import diagnose, measure, reliability

IMAGES_PER_STRIP = 8
MOST_IMAGES = 200  # on a page
EXACT_UP_TO, THUMBNAIL = 32, 96  # pixels: small images are kept whole, others made smaller
PAPER_DATA = {"cifar10", "svhn", "mnist", "tiny-imagenet"}
PAPER_COST = 0.2  # Demir & Akbas 2024, abstract: "similar accuracy ... computational cost to 20%"
PLOTLY = "plotly-basic.min.js"
MATRIX_UP_TO = 25  # classes; a list of the most frequent confusions above
MOST_CONFUSIONS = 15  # in that list
EXIT_COLOURS = ("#1b7f5c", "#4d7a12", "#8a6100", "#b34700", "#a3286f", "#5b539f", "#2c6596", "#6b5426")
FINAL_COLOUR = "#56626e"  # of the last exit, however many there are before it
LINE_COLOURS = ("#2f7fc1", "#d9701a", "#2a9d6f", "#b04fa0", "#8a7a1f", "#6f6fd0")


@dataclass(frozen=True)
class Entry:
    """One network on the page."""

    name: str
    records: Records
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


def build_report(entries: Sequence[Entry], images: Images, *, title: str, data_name: str = "") -> str:
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
    first = entries[0].records.backbone_macs
    page = {
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


def _network(entry: Entry, images: Images, first_macs: int, entries: int) -> dict[str, Any]:
    records, found = entry.records, diagnose(entry.records, entry.policy)
    early = len(records.head_macs)
    behind = [f", {block}" for block in entry.exits] or [""] * early
    classes = len(images.class_names)
    own = _setting(records, entry.policy, None, classes)
    return {
        "name": entry.name,
        "about": entry.about,
        "command": entry.command,
        "backbone": entry.backbone,
        "scale": records.backbone_macs / first_macs,
        "exits": [*(f"exit {k}{block}" for k, block in enumerate(behind)), "final exit"],
        "policy": _described(entry),
        "own_budget": _own_budget(entry),
        "full": records.full_accuracy,
        "plain": float((records.logits_KBN[-1].argmax(1) == records.labels_B).mean()),
        "full_cost": records.costs()[-1],
        "exit_accuracy": records.correct().mean(1).tolist(),
        "auroc": [*found.auroc, None],
        "oracle": found.oracle,
        "calibration_error": found.calibration_error,
        "reliability": [
            dict(zip(("probability", "accuracy", "count"), reliability(logits_BN, right_B), strict=True))
            for logits_BN, right_B in zip(records.answers(), records.correct(), strict=True)
        ],
        "settings": [
            own,
            *(
                _setting(records, policy, float(budget), classes)
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


def _setting(records: Records, policy: ExitPolicy, budget: float | None, classes: int) -> dict[str, Any]:
    """What a policy does, for a position of the slider."""
    measured, exits_B = measure(records, policy), decide(records, policy)
    right, count = round(measured.accuracy * len(records)), len(records)
    answers_B = _answers(records, policy, exits_B)
    confusion = _confusion(records.labels_B, answers_B, classes)
    return {
        "budget": budget,
        "accuracy": measured.accuracy,
        "interval": wilson(right, count),
        "cost": measured.relative_cost,
        "costs": measured.costs,
        "counts": measured.exit_counts,
        "leaving": measured.leaving_accuracy,
        "off": measured.switched_off,
        "dead": measured.dead_exits,
        "confusion": confusion.tolist(),
        "by_class": _by_class(records, answers_B == records.labels_B, classes),
    }


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share. Wilson 1927."""
    square = NormalDist().inv_cdf(0.975) ** 2
    middle = (right + square / 2) / (count + square)
    reach = (square * (right * (count - right) / count + square / 4)) ** 0.5 / (count + square)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _confusion(labels_B: NDArray[Any], answers_B: NDArray[Any], classes: int) -> NDArray[Any]:
    """Rows of label, answer, count: all that occur, or the most frequent mistakes if classes are many."""
    kinds, counts = np.unique(np.stack([labels_B, answers_B], 1), axis=0, return_counts=True)
    found = np.column_stack([kinds, counts])
    if classes <= MATRIX_UP_TO:
        return found
    wrong = found[found[:, 0] != found[:, 1]]
    return wrong[_descending(wrong[:, 2])][:MOST_CONFUSIONS]


def _by_class(records: Records, right_B: NDArray[Any], classes: int) -> list[list[int]]:
    """Rows of class, images, right ones, and right ones of never leaving early; the worst classes first."""
    labels_B = records.labels_B
    each = [np.bincount(labels_B, over, classes) for over in (None, right_B, records.correct()[-1])]
    rows_N4 = np.column_stack([np.arange(classes), *each]).astype(int)
    rows_N4 = rows_N4[rows_N4[:, 1] > 0]
    return rows_N4[np.argsort(rows_N4[:, 2] / rows_N4[:, 1], kind="stable")][:MATRIX_UP_TO].tolist()


def _answers(records: Records, policy: ExitPolicy, exits_B: NDArray[Any]) -> NDArray[Any]:
    return records.answers(policy.enabled)[exits_B, np.arange(len(records))].argmax(1)


def _descending(values: NDArray[Any]) -> NDArray[Any]:
    return np.argsort(-values, kind="stable")


def _strips(entry: Entry, images: Images, entries: int) -> list[dict[str, Any]]:
    """Per exit the images it is surest of and those it is least sure of, then wrong early exits."""
    records, policy = entry.records, entry.policy
    exits_B = decide(records, policy)
    answers_B, on = _answers(records, policy, exits_B), [k for k, on in enumerate(policy.enabled) if on]
    final = len(policy.thresholds)
    room = MOST_IMAGES // (entries * (2 * len(on) + 3))
    number = max(2, min(IMAGES_PER_STRIP, room))
    if on:
        score_KB = recorded_scores(records, policy.score)
        score_B = score_KB[np.minimum(exits_B, on[-1]), np.arange(len(records))]
    else:
        score_B = probabilities(records.answers()[-1]).max(1)
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
        full_B = records.correct()[-1]
        lost = np.flatnonzero((exits_B < final) & (answers_B != records.labels_B) & full_B)
        ranked = lost[_descending(score_B[lost])]
        title = f"Left too early: wrong, and the final exit is right ({len(lost)})"
        chosen.append((title, ranked[: 2 * number]))
    return [{"title": title, "figures": _figures(members, answers_B, images)} for title, members in chosen]


def _figures(members: NDArray[Any], answers_B: NDArray[Any], images: Images) -> list[dict[str, str]]:
    names = images.class_names
    pixels = images.pixels(members.tolist()) if len(members) else []
    return [
        {
            "src": _data_uri(pixels_CHW),
            "said": names[int(answers_B[i])],
            "is": names[int(images.labels_B[i])],
        }
        for i, pixels_CHW in zip(members.tolist(), pixels, strict=True)
    ]


def _data_uri(pixels_CHW: Any) -> str:
    """Small images as they are, large ones as small ones."""
    array = np.asarray(pixels_CHW)
    array = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    picture, buffer = Image.fromarray(array), io.BytesIO()
    exact = max(picture.size) <= EXACT_UP_TO
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(buffer, "webp", **({"lossless": True, "method": 6} if exact else {"quality": 75}))
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
