"""The scheduler of the other EENet against ours, on the networks that are shipped.

    python benchmarks/scheduler.py cifar10-eenet56 cifar10-eenet20 --seeds 0 1 2

Ilhan et al., "Adaptive Deep Neural Network Inference Optimization with EENet" (arXiv 2301.07099), take a
trained network with exits and a budget, and learn on validation images

- for every exit a score, from its probabilities, its largest probability, its entropy, how many exits agree
  with it, and the scores before; it is to tell whether the exit is right (g in the paper),
- how images are best shared out among exits within the budget (h in the paper).

Shares stay close to the scores, raised to a power and divided by their sum over exits; that is their loss,
with that of missing the budget. Thresholds then let that share of images leave at each exit, those with the
highest scores first. Of several powers the one is taken that does best on validation images. What the paper
leaves open is set here: both are networks of one hidden layer, trained together with Adam. Both schedulers
get the same answers, the same validation images and the same budget. Writes
`benchmarks/results/scheduler-NAME-HARDWARE-torchVERSION.csv`; intervals are 95 %, over images.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import results
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

import eenet
from eenet.common import format_table
from eenet.evaluation import as_images, collect
from eenet.policies import Records, decide, policy_for_budget
from eenet.tasks.classification.diagnostics import bootstrap_interval

BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
STEPS = 200
BUDGET_WEIGHT = 10.0
POWERS = (1.0, 8.0, 64.0)
HIDDEN = 32


class Seen(NamedTuple):
    """What the scheduler may look at, of each exit."""

    features_KBD: Tensor
    right_KB: Tensor


class Scheduler(nn.Module):
    """A score and a claim on images for every exit but the last, which takes what is left."""

    def __init__(self, exits: int, width: int) -> None:
        super().__init__()
        sizes = [width + k for k in range(exits)]
        self.scores = nn.ModuleList(_network(size) for size in sizes[:-1])
        self.shares = nn.ModuleList(_network(size) for size in sizes)

    def forward(self, features_KBD: Tensor) -> tuple[Tensor, Tensor]:
        """Scores as logits [K - 1, B] and the part of each image that goes to each exit [K, B]."""
        scores: list[Tensor] = []
        claims: list[Tensor] = []
        for k, features_BD in enumerate(features_KBD):
            known_BD = torch.cat([features_BD, *(score_B[:, None] for score_B in scores)], 1)
            claims.append(self.shares[k](known_BD)[:, 0])
            if k < len(self.scores):
                scores.append(self.scores[k](known_BD)[:, 0])
        return torch.stack(scores), torch.softmax(torch.stack(claims), 0)


def _network(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def seen_of(records: Records) -> Seen:
    """Probabilities of every exit with three measures of how sure it is."""
    log_p_KBN = torch.log_softmax(torch.from_numpy(records.answers()).float(), 2)
    p_KBN = log_p_KBN.exp()
    said_KB = p_KBN.argmax(2)
    votes_KB = torch.stack([(said_KB[: k + 1] == said_B).float().mean(0) for k, said_B in enumerate(said_KB)])
    measures = [p_KBN.amax(2), (p_KBN * log_p_KBN).sum(2), votes_KB]
    features_KBD = torch.cat([p_KBN, torch.stack(measures, 2)], 2)
    return Seen(features_KBD, torch.from_numpy(np.asarray(records.correct())).float())


def best(records: Records, budget: float, seed: int) -> tuple[Scheduler, list[float]]:
    """A scheduler for a budget, of the power that does best on the images it was fitted to."""

    def right(found: tuple[Scheduler, list[float]]) -> float:
        exits_B = leaving(*found, records, records)
        return records.correct()[exits_B, np.arange(len(records))].mean().item()

    return max((learn(records, budget, seed, power) for power in POWERS), key=right)


def learn(records: Records, budget: float, seed: int, power: float) -> tuple[Scheduler, list[float]]:
    """A scheduler for a budget, and the part of all images that each exit is to take."""
    torch.manual_seed(seed)
    features_KBD, right_KB = seen_of(records)
    costs_K1 = torch.tensor(records.costs(), dtype=torch.float32)[:, None]
    last_1B = torch.log(features_KBD[-1, :, -3])[None]  # the last exit is as sure as its largest probability
    scheduler = Scheduler(len(features_KBD), features_KBD.shape[2])
    optimizer = torch.optim.Adam(scheduler.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS)
    for _ in range(STEPS):
        scores_KB, shares_KB = scheduler(features_KBD)
        over = (shares_KB * costs_K1).sum(0).mean() / budget - 1
        weights_KB = (shares_KB[:-1] / shares_KB[:-1].mean(1, keepdim=True).clamp(min=1e-3)).detach()
        scored = nn.functional.binary_cross_entropy_with_logits(scores_KB, right_KB[:-1], 0.5 + weights_KB)
        sure_KB = torch.cat([nn.functional.logsigmoid(scores_KB), last_1B]).detach()
        wanted_KB = torch.log_softmax(power * sure_KB, 0)
        apart = nn.functional.kl_div(shares_KB.log().T, wanted_KB.T, reduction="batchmean", log_target=True)
        loss = scored + apart + BUDGET_WEIGHT * over.abs()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return scheduler, scheduler(features_KBD)[1].mean(1).tolist()


@torch.no_grad()
def leaving(
    scheduler: Scheduler, shares: list[float], held_out: Records, tested: Records
) -> NDArray[np.integer]:
    """The exit of every test image, by thresholds from held-out images."""
    held_KB, tested_KB = (
        scheduler(seen_of(records).features_KBD)[0].numpy() for records in (held_out, tested)
    )
    staying_B, exits_B = np.ones(len(held_out), bool), np.full(len(tested), len(shares) - 1)
    thresholds = []
    for k, share in enumerate(shares[:-1]):
        scores = np.sort(held_KB[k][staying_B])[::-1]
        count = min(round(share * len(held_out)), len(scores))
        thresholds.append(scores[count - 1] if count else np.inf)
        staying_B &= held_KB[k] < thresholds[-1]
    for k in reversed(range(len(thresholds))):
        exits_B[tested_KB[k] >= thresholds[k]] = k
    return exits_B


def main(names: tuple[str, ...], /, seeds: tuple[int, ...] = (0, 1, 2), data: str | None = None) -> None:
    """Compare both on test images.

    Args:
        names: checkpoints or names of shipped networks.
        seeds: of the other scheduler's weights.
        data: data set, if not that of the checkpoint's card.
    """
    for name in names:
        rows = compare(name, seeds, data)
        print(format_table(list(rows[0]), [list(map(str, row.values())) for row in rows]))
        print(results.write(f"scheduler-{Path(name).name}", rows))


def compare(name: str, seeds: tuple[int, ...], data: str | None) -> list[dict]:
    """A row for each budget."""
    network = eenet.EENet.from_pretrained(name)
    held_out, tested = (
        collect(network, as_images(data, network.config, split)) for split in ("validation", "test")
    )
    rows = []
    for budget in BUDGETS:
        if budget < held_out.costs()[0]:
            continue
        policy = policy_for_budget(held_out, budget, scores=["confidence"])
        images = np.arange(len(tested))
        right_KB, costs_K = tested.correct(), np.array(tested.costs())
        ours_B = decide(tested, policy)
        ours_right_B = tested.correct(policy.enabled)[ours_B, images].astype(float)
        theirs = [leaving(*best(held_out, budget, seed), held_out, tested) for seed in seeds]
        theirs_right_B = np.mean([right_KB[exits_B, images] for exits_B in theirs], 0)
        low, high = bootstrap_interval(100 * (ours_right_B - theirs_right_B), draws=2000)
        rows.append(
            {
                "budget": budget,
                "ours": round(100 * ours_right_B.mean(), 2),
                "ours_cost": round(costs_K[ours_B].mean(), 4),
                "theirs": round(100 * theirs_right_B.mean(), 2),
                "theirs_cost": round(float(np.mean([costs_K[exits_B].mean() for exits_B in theirs])), 4),
                "more": f"{100 * (ours_right_B - theirs_right_B).mean():+.2f} ({low:+.2f} to {high:+.2f})",
            }
        )
    return rows


if __name__ == "__main__":
    tyro.cli(main)
