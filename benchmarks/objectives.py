"""Objectives against each other: our gates and training against rivals on the same backbone and recipe.

Trains every method with every seed (resumable; what is finished is not run again), then
compares on the test split at equal budgets. Thresholds and gates come from the validation
split. Prints tables and writes `benchmarks/results/objectives-DATA-HARDWARE-torchVERSION.csv`.

    python benchmarks/objectives.py --seeds 0 1 2 --out runs/objectives
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch
import tyro
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from eenet import Records, policies, policy_for_budget
from eenet.common import format_table
from eenet.evaluation import measure
from eenet.policies import RECORDS_FILE, recorded_scores
from eenet.policies.gates import AnswerGate, accuracy_kept
from eenet.tasks.classification.diagnostics import bootstrap_interval
from eenet.training import get_recipe, train
from eenet.training.objectives import trains_confidence

BUDGETS = (0.45, 0.55, 0.65, 0.75, 0.9)
TRAINED: dict[str, dict[str, Any]] = {  # how each network is trained, on top of the recipe
    "ours": {},
    "imitating": {"distillation": 0.5},
    "plain": {"num_exits": 0},
    "shallow_deep": {"objective": "shallow_deep"},
    "boosted": {"objective": "boosted"},
    "weighted": {"objective": "weighted"},
    "halting": {"objective": "halting"},
    "halting_0.1": {"objective": "halting", "cost_weight": 0.1},
    "halting_0.03": {"objective": "halting", "cost_weight": 0.03},
    "joint_gates": {"objective": "joint_gates"},
    "joint_gates_0.3": {"objective": "joint_gates", "cost_weight": 0.3},
    "joint_gates_0.1": {"objective": "joint_gates", "cost_weight": 0.1},
}
METHODS = {  # network, what decides, whether answers are joined
    "ours": ("ours", "confidence", True),
    "ours, own answers": ("ours", "confidence", False),
    "joined, max softmax": ("ours", "max_softmax", True),
    "joined, entropy": ("ours", "entropy", True),
    "joined, margin": ("ours", "margin", True),
    "joined, patience": ("ours", "patience", True),
    "joint, max softmax": ("ours", "max_softmax", False),
    "BranchyNet": ("ours", "entropy", False),
    "patience": ("ours", "patience", False),
    "imitating": ("imitating", "confidence", True),
    "Shallow-Deep": ("shallow_deep", "max_softmax", False),
    "Shallow-Deep's weights, ours otherwise": ("shallow_deep", "confidence", True),
    "BoostNet": ("boosted", "max_softmax", True),
    "BoostNet's training, ours otherwise": ("boosted", "confidence", True),
    "L2W-DEN": ("weighted", "max_softmax", False),
    "L2W-DEN's training, ours otherwise": ("weighted", "confidence", True),
    "halting": ("halting", "confidence", False),
    "halting, λ 0.1": ("halting_0.1", "confidence", False),
    "halting, λ 0.03": ("halting_0.03", "confidence", False),
    "joint gates": ("joint_gates", "confidence", False),
    "joint gates, λ 0.3": ("joint_gates_0.3", "confidence", False),
    "joint gates, λ 0.1": ("joint_gates_0.1", "confidence", False),
}


@dataclass(frozen=True)
class Outcome:
    """What a method does with the test images."""

    right_B: NDArray[np.float64]
    """Right answers; a part of one where two policies are mixed."""
    cost: float
    dead_exits: list[int]


def main(
    recipe: str = "cifar10-resnet20",
    seeds: tuple[int, ...] = (0,),
    networks: tuple[str, ...] = tuple(TRAINED),
    out: Path = Path("runs/objectives"),
    epochs: int | None = None,
) -> None:
    """Train what is missing, compare what is there.

    Args:
        recipe: backbone, data and schedule, the same for all.
        seeds: one network of each kind for each.
        networks: kinds to train.
        out: directory with a directory for each network.
        epochs: of each. Default: the recipe's. Given, they are part of the table's name.
    """
    config = get_recipe(recipe)
    config = replace(config, epochs=epochs or config.epochs)
    for seed in seeds:
        for name in networks:
            path = out / f"{name}-seed{seed}"
            if not (path / "model.safetensors").exists():
                print(f"training {path}", flush=True)
                train(replace(config, seed=seed, **TRAINED[name]), path, resume=path.exists())
    rows = compare(out, seeds)
    path = results.write(f"objectives-{recipe}{f'-{epochs}-epochs' if epochs else ''}", rows)
    print(f"\n{path}")


def compare(out: Path, seeds: tuple[int, ...]) -> list[dict]:
    """Print the tables; returns a row for each method, seed and budget."""
    rows, right = [], {}
    for method, (network, score, joined) in METHODS.items():
        for seed in seeds:
            path = out / f"{network}-seed{seed}"
            if not (path / "model.safetensors").exists():
                continue
            gates_trained = trains_confidence(TRAINED[network].get("objective", "joint"))
            held_out, tested = loaded(path) if gates_trained else fitted(path, joined=joined)
            for budget in BUDGETS:
                done = outcome(held_out, tested, score, budget)
                right[method, seed, budget] = done.right_B
                rows.append(
                    {
                        "method": method,
                        "seed": seed,
                        "budget": budget,
                        "accuracy": round(done.right_B.mean().item(), 4),
                        "relative_cost": round(done.cost, 4),
                        "dead_exits": " ".join(map(str, done.dead_exits)),
                    }
                )
    print_budgets(rows)
    print_exits(out, seeds)
    for method in METHODS:
        print_difference(method, right)
    return rows


def outcome(held_out: Records, tested: Records, score: str, budget: float) -> Outcome:
    """Set thresholds on held-out images and use them on the test images."""
    if score == "patience":
        return patience(tested, budget)
    policy = policy_for_budget(held_out, budget, scores=[score])
    measured = measure(tested, policy)
    return Outcome(tested.right(policy).astype(np.float64), measured.relative_cost, measured.dead_exits)


def loaded(path: Path) -> tuple[Records, Records]:
    """Records of the validation and the test split, as training left them."""
    held_out, tested = (Records.load(path / RECORDS_FILE.format(split=s)) for s in ("validation", "test"))
    return held_out, tested


@cache
def fitted(path: Path, *, joined: bool) -> tuple[Records, Records]:
    """Records of a run as `fitted_again` makes them."""
    return fitted_again(*loaded(path), joined=joined)


def fitted_again(held_out: Records, tested: Records, *, joined: bool) -> tuple[Records, Records]:
    """Records with answers joined or not, and with gates fitted to what is answered."""
    if joined:
        found = policies.fit(held_out, max(BUDGETS))
        ensemble, gates = found.ensemble, found.gates
    else:
        ensemble, gates = None, own_gates(held_out)
    with torch.no_grad():
        held_out, tested = (
            replace(
                records,
                ensemble=ensemble,
                confidence_logits_KB=np.stack(
                    [
                        gate.judge(torch.from_numpy(z_BN)).numpy()
                        for gate, z_BN in zip(gates, records.logits_KBN, strict=False)
                    ]
                ),
            )
            for records in (held_out, tested)
        )
    return held_out, tested


def own_gates(records: Records) -> list[AnswerGate]:
    """Gates fitted to what each exit says alone."""
    *early_KBN, final_BN = map(torch.from_numpy, records.logits_KBN)
    gates = [AnswerGate(0, final_BN.shape[1]) for _ in early_KBN]
    for gate, logits_BN in zip(gates, early_KBN, strict=True):
        gate.fit(logits_BN, accuracy_kept(logits_BN.double(), final_BN.double()))
    return gates


def patience(records: Records, budget: float) -> Outcome:
    """Leave once the answer hasn't changed for some exits (Zhou et al. 2020); two patiences are mixed."""
    answers_KB, costs_K = records.answers().argmax(2), np.array(records.costs())
    tried = []
    for wanted in range(len(answers_KB) + 1):
        exits_B = np.full(len(records), len(answers_KB) - 1)
        for k in reversed(range(wanted, len(answers_KB) - 1)):
            exits_B[(answers_KB[k - wanted : k + 1] == answers_KB[k]).all(0)] = k
        right_B = records.correct()[exits_B, np.arange(len(records))].astype(np.float64)
        tried.append((float(costs_K[exits_B].mean()), right_B))
    for (cheap, right_B), (dear, right_too_B) in pairwise(tried):
        if cheap <= budget < dear:
            part = (budget - cheap) / (dear - cheap)
            return Outcome((1 - part) * right_B + part * right_too_B, budget, [])
    return Outcome(tried[-1][1], tried[-1][0], [])


def print_budgets(rows: list[dict]) -> None:
    """Accuracy ± standard error over seeds at measured cost, for each method and budget."""
    lines = []
    for method in METHODS:
        cells = [method]
        for budget in BUDGETS:
            found = [r for r in rows if r["method"] == method and r["budget"] == budget]
            values = [100 * r["accuracy"] for r in found]
            cost = np.mean([r["relative_cost"] for r in found]) if found else 0
            dead = any(r["dead_exits"] for r in found)
            cells.append(f"{spread(values)} at {cost:.3f}{' dead' * dead}" if found else "–")
        lines.append(cells)
    print(format_table(["method", *(f"budget {b}" for b in BUDGETS)], lines))


def print_exits(out: Path, seeds: tuple[int, ...]) -> None:
    """Each exit's own accuracy, the AUROC of its scores for "right if stopped here", and minutes."""
    lines = []
    for network in TRAINED:
        paths = [out / f"{network}-seed{seed}" for seed in seeds]
        paths = [path for path in paths if (path / "model.safetensors").exists()]
        if not paths:
            continue
        tested = [loaded(path)[1] for path in paths]
        accuracy = [[100 * a for a in t.correct().mean(1).tolist()] for t in tested]
        lines.append([network, *(spread(list(values)) for values in zip(*accuracy, strict=True))])
        for score in ("confidence", "max_softmax"):
            if tested[0].head_macs:
                aurocs = [auroc(t, score) for t in tested]
                lines.append(
                    [f"{network}, AUROC of {score}", *(spread(list(v)) for v in zip(*aurocs, strict=True))]
                )
    width = max(len(line) for line in lines)
    print()
    print(
        format_table(
            ["network", *(f"exit {k}" for k in range(width - 1))],
            [line + [""] * (width - len(line)) for line in lines],
        )
    )


def auroc(records: Records, score: str) -> list[float]:
    scores_KB = recorded_scores(records, score)
    return [
        100 * roc_auc_score(right_B, s_B) for right_B, s_B in zip(records.correct(), scores_KB, strict=False)
    ]


def print_difference(method: str, right: dict) -> None:
    """Ours minus another method, paired by image, mean over budgets and over the seeds that both have.

    With the 95 % interval by bootstrap over images.
    """
    for name, chosen in (("≤ 0.65", BUDGETS[:3]), ("all", BUDGETS)):
        pairs = [
            right[key] - right[(method, *key[1:])]
            for key in right
            if key[0] == "ours" and key[2] in chosen and (method, *key[1:]) in right
        ]
        if pairs and method != "ours":
            differences_B = 100 * np.stack(pairs).mean(0)
            low, high = bootstrap_interval(differences_B, draws=2000)
            mean = f"{differences_B.mean():+.2f} [{low:+.2f}, {high:+.2f}] points"
            print(f"ours − {method}, budgets {name}: {mean}")


def spread(values: list[float]) -> str:
    """Mean ± standard error."""
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{error}"


if __name__ == "__main__":
    tyro.cli(main)
