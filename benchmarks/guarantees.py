"""Do calibrated thresholds keep their promises? On made-up inputs whose true risk is known, and on records.

    python benchmarks/guarantees.py --records runs/a/records-test.safetensors

Writes `benchmarks/results/guarantees-PART-HARDWARE-torchVERSION.csv`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import results
import tyro
from scipy.special import logit

from eenet import ExitPolicy, Records, policy_for_budget, policy_for_drop, policy_for_risk
from eenet.common import format_table, progress
from eenet.evaluation import Evaluation, measure
from eenet.policies.risk import thresholds_to_try

DELTA = 0.1
BUDGETS, DROPS, LIMITS = (0.45, 0.55, 0.65, 0.75, 0.9), (0.005, 0.01, 0.02), (0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Shape:
    """Made-up inputs: two early exits whose confidence is `v ** narrow` for a uniform v, and a final one.

    The final exit is right with probability `full`. An early exit keeps a right answer with
    probability `quality * confidence ** slope`, and mends a wrong one with probability `mends`.
    """

    narrow: float
    slope: float
    full: float
    mends: float
    quality: float = 1.0

    def draw(self, count: int, random: np.random.Generator) -> Records:
        labels_B = random.integers(2, size=count)
        v_KB, luck_KB = random.random((2, 2, count))
        u_KB = v_KB**self.narrow
        final_B = random.random(count) < self.full
        right_KB = np.where(final_B, luck_KB < self.quality * u_KB**self.slope, luck_KB < self.mends)
        says_KB = np.where(np.concatenate([right_KB, final_B[None]]), labels_B, 1 - labels_B)
        logits_KBN = 5 * np.eye(2, dtype=np.float32)[says_KB]
        return Records(logits_KBN, logit(u_KB), labels_B, [10, 10, 10], [0, 0], 30)

    def true_risk(self, threshold: float, risk: str) -> float:
        """Of a shared threshold, in closed form."""
        s = max(threshold, 0.0) ** (1 / self.narrow)  # leaves an exit where v is above
        power = self.narrow * self.slope + 1
        lost = self.full * ((1 - s) - self.quality * (1 - s**power) / power)
        won = (1 - self.full) * self.mends * (1 - s)
        return (1 + s) * (lost - won if risk == "excess_error" else lost + won)


SHAPES = {
    "good scores": Shape(0.2, 1.0, 0.93, 0.1),
    "wide scores": Shape(1.0, 0.1, 0.9, 0.05),
    "crowded near 1": Shape(0.02, 3.0, 0.95, 0.2),
    "useless scores": Shape(0.5, 0.0, 0.9, 0.05, quality=0.97),
    "overconfident": Shape(0.1, 0.5, 0.85, 0.3, quality=0.9),
}


def main(records: tuple[Path, ...] = (), draws: int = 1000, halvings: int = 20) -> None:
    """Promises on made-up inputs, and on the given records, which are halved at random."""
    parts = {"made-up": made_up(draws)}
    if records:
        parts |= {"records": halved(records, halvings)}
    for name, rows in parts.items():
        shown = [[format(v, ".4g") if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        print(f"\n{format_table(list(rows[0]), shown)}\n{results.write(f'guarantees-{name}', rows)}")


def made_up(draws: int) -> list[dict[str, Any]]:
    """For each shape, kind and limit: how often the true risk is above it, and by which share it is used."""
    rows = []
    cases = [
        (shape, risk, delta, count, limit)
        for shape in SHAPES
        for risk in ("excess_error", "disagreement")
        for delta in (DELTA, None)
        for count in (500, 2000)
        for limit in LIMITS
    ]
    with progress("drawing", len(cases)) as advance:
        for shape, risk, delta, count, limit in cases:
            random, risks, refused = np.random.default_rng(0), [], ""
            for _ in range(draws):
                drawn = SHAPES[shape].draw(count, random)
                try:
                    policy, _ = policy_for_risk(drawn, limit, delta=delta, risk=risk)
                    risks.append(SHAPES[shape].true_risk(policy.thresholds[0], risk))
                except ValueError as error:
                    risks.append(0.0)  # nobody leaves early
                    refused = "too few inputs" if "needed" in str(error) else "not shown"
            rows.append(
                {
                    "shape": shape,
                    "risk": risk,
                    "delta": "on average" if delta is None else delta,
                    "inputs": count,
                    "limit": limit,
                    "violations": mean(r > limit for r in risks),
                    "mean true risk": mean(risks),
                    "refused": refused,
                }
            )
            advance(1)
    return rows


def halved(paths: Sequence[Path], halvings: int) -> list[dict[str, Any]]:
    """Policies set on one half of real records and measured on the other."""
    rows = []
    for path in paths:
        found = Records.load(path)
        pairs = []
        for seed in range(halvings):
            order = np.random.default_rng(seed).permutation(len(found))
            pairs.append([found.subset(half) for half in (order[::2], order[1::2])])
        for budget in BUDGETS:
            measured: list[Any] = [measure(b, policy_for_budget(a, budget)) for a, b in pairs]
            cost = mean(m.relative_cost for m in measured)
            rows.append(_row(path, "budget", budget, measured, cost - budget))
        for drop in DROPS:
            measured = [measure(b, policy_for_drop(a, drop)) for a, b in pairs]
            rows.append(_row(path, "drop", drop, measured, _drop(measured) - drop))
        for limit in LIMITS:
            for delta in (DELTA, None):
                try:
                    policies = [policy_for_risk(a, limit, delta=delta)[0] for a, _ in pairs]
                except ValueError as error:
                    print(f"{path}, risk {limit}, delta {delta}: {error}")
                    continue
                measured = [measure(b, policy) for (_, b), policy in zip(pairs, policies, strict=True)]
                row = _row(path, f"risk, delta {delta}", limit, measured, _drop(measured) - limit)
                best = [hindsight(b, limit) for _, b in pairs]
                saved = mean(1 - m.relative_cost for m in measured)
                rows.append({**row, "saving / hindsight": saved / mean(1 - cost for cost in best)})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key, "") for key in keys} for row in rows]


def hindsight(records: Records, limit: float) -> float:
    """The cost of the cheapest threshold that keeps the risk on the very inputs it is measured on."""
    tried = [
        measure(records, ExitPolicy("confidence", (threshold,) * len(records.head_macs)))
        for threshold in thresholds_to_try("confidence", records.logits_KBN.shape[2])[::3]
    ]
    return min(m.relative_cost for m in tried if m.full_accuracy - m.accuracy <= limit)


def _row(path: Path, what: str, asked: float, measured: list[Evaluation], off: float) -> dict[str, Any]:
    return {
        "records": path.parent.name,
        "asked": what,
        "value": asked,
        "accuracy": mean(m.accuracy for m in measured),
        "cost": mean(m.relative_cost for m in measured),
        "drop": _drop(measured),
        "measured − asked": off,
    }


def _drop(measured: list[Evaluation]) -> float:
    return mean(m.full_accuracy - m.accuracy for m in measured)


if __name__ == "__main__":
    tyro.cli(main)
