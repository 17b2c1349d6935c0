"""What was measured as Markdown tables, readable as plain text too."""

import textwrap
from collections.abc import Sequence
from typing import Any


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *map(list, rows)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def shift_table(rows: list[dict[str, Any]]) -> str:
    """Rows of `eenet.shift.under_corruptions` as text."""
    percents = ("accuracy", "full_accuracy", "excess_error", "disagreement")
    cells = [
        [
            row["corruption"],
            str(row["severity"] or "–"),
            *(f"{row[key]:.2%}" for key in percents),
            f"{row['relative_cost']:.3f}",
            " / ".join(f"{share:.0%}" for share in row["exit_shares"]),
            f"{row['calibration_error']:.3f}",
        ]
        for row in rows
    ]
    header = ["corruption", "severity", "accuracy", "full network", "excess error", "disagreement"]
    header += ["cost", "leave at each exit", "calibration error"]
    return f"{format_table(header, cells)}\n\n{rows[0]['num_examples']} images"


def diagnosis_table(found: dict[str, Any]) -> str:
    """What `eenet.diagnostics.diagnose` found as text, an exit a line."""
    rows = []
    for k, ((cost, accuracy), error) in enumerate(
        zip(found["oracle"], found["calibration_error"], strict=True)
    ):
        early = k < len(found["auroc"])
        auroc = found["auroc"][k] if early else None
        counts = [str(found[key][k]) if early else "–" for key in ("right_then_wrong", "wrong_then_right")]
        rows.append(
            [
                str(k) if early else "final",
                f"{error:.3f}",
                "–" if auroc is None else f"{auroc:.3f}",
                *counts,
                f"{accuracy:.2%} at {cost:.3f}",
            ]
        )
    header = ["exit", "calibration error", "AUROC", "right, then wrong", "wrong, then right", "oracle"]
    shown = {name: [f"{100 * v:.2f}" for v in pair] for name, pair in found["intervals"].items()}
    low, high = found["intervals"]["relative_cost"]
    return (
        f"{format_table(header, rows)}\n\n95 % intervals: accuracy {' to '.join(shown['accuracy'])} %, "
        f"cost {low:.3f} to {high:.3f}, drop against the full network {' to '.join(shown['drop'])} points; "
        f"mean accuracy over all costs {found['curve_area']:.2%}"
    )


def evaluation_table(measured: dict[str, Any]) -> str:
    """An evaluation as text, an exit a line."""
    final = len(measured["costs"]) - 1
    rows = [
        [
            "final" if k == final else str(k),
            f"{measured['costs'][k]:.3f}",
            "off" if k in measured["switched_off"] else f"{count / measured['num_examples']:.1%}",
            "–" if measured["leaving_accuracy"][k] is None else f"{measured['leaving_accuracy'][k]:.2%}",
            f"{measured['exit_accuracy'][k]:.2%}",
        ]
        for k, count in enumerate(measured["exit_counts"])
    ]
    dead = ", ".join(map(str, measured["dead_exits"])) or "none"
    summary = (
        f"accuracy {measured['accuracy']:.2%} at relative cost {measured['relative_cost']:.3f} "
        f"on {measured['num_examples']} images; without leaving early {measured['full_accuracy']:.2%}; "
        f"dead exits: {dead}"
    )
    header = ["exit", "cost", "images", "accuracy of these", "accuracy on all"]
    return f"{format_table(header, rows)}\n\n{summary}"


def checkpoint_table(found: dict[str, Any]) -> str:
    """What `eenet.verbs.info` found about a checkpoint as text, an exit a line."""
    policy, costs, classes = found["policy"], found["costs"], str(found["num_classes"])
    exits = zip(
        found["exits"], found["head_macs"], costs[:-1], policy["thresholds"], policy["enabled"], strict=True
    )
    rows = [
        [str(k), place, f"{macs:,}", f"{cost:.3f}", f"{threshold:.4g}" if on else "off"]
        for k, (place, macs, cost, threshold, on) in enumerate(exits)
    ]
    rows.append(["final", "–", "–", f"{costs[-1]:.3f}", "–"])
    if found["class_names"]:
        classes += f": {textwrap.shorten(', '.join(found['class_names']), 150, placeholder=' …')}"
    budgets, made = sorted(found["budgets"], key=float), found["provenance"]
    told = {
        "backbone": f"{found['backbone'] or 'its own class'}, {found['backbone_macs']:,} MACs",
        "heads": f"{found['head']}, gate {found['gate']}",
        "images": " × ".join(map(str, found["input_size"])),
        "classes": classes,
        "score": policy["score"],
        "budgets": budgets and f"{budgets[0]} to {budgets[-1]}, {len(budgets)} policies",
        "policies": list(found["policies"]),
        "timed on": [f"{t.get('backend')} at batch {t.get('batch_size')}" for t in found["timings"]],
        "made by": made.get("command"),
        "made": [made[key] for key in ("date", "hardware") if key in made],
        "versions": made.get("versions"),
    }
    header = ["exit", "behind", "MACs of its head", "cost", "threshold"]
    return f"{format_table(header, rows)}\n\n{lines({key: value for key, value in told.items() if value})}"


def lines(found: dict[str, Any]) -> str:
    """A key and its value a line; numbers to four digits."""
    return "\n".join(f"{key:<16} {_brief(value)}" for key, value in found.items())


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(held)}" for key, held in value.items())
    if isinstance(value, list):
        return ", ".join(map(_brief, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
