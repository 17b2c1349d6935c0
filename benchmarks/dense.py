"""Segmentation and detection: what leaving early is worth, from the records that training left.

    python benchmarks/dense.py compare nuclei runs/nuclei-seed* runs/nuclei-plain-seed*
    python benchmarks/dense.py dial nuclei runs/nuclei-seed0 runs/nuclei-seed1
    python benchmarks/dense.py times nuclei runs/nuclei-seed0 --budget 0.45
    python benchmarks/dense.py serve stream runs/stream-seed0 runs/stream-plain-seed0
    python benchmarks/dense_page.py

Runs without exits are the static networks; a network with exits is compared with that of its seed. No network
is run to compare. For every tenth of a budget `benchmarks/results/dense-NAME-HARDWARE-torchVERSION.csv`
gets cost and metric under its policy, and how many points of the metric it has more than

- the static network (`static`),
- as many images at each exit, but chance says which ones (`chance`, mean of ten draws),
- the best exit that costs no more, where all images leave there (`cut`),

with 95 % intervals: the same images drawn again for both, neighbours in a video together. Thresholds are
those of the run, set on validation images; and those that `eenet calibrate` sets on images without masks or
boxes: here on one half of the test images for the other half.

Detection on a set with empty images: 200 times the threshold for surely empty ones is set on one half of the
images, drawn at random, and the images with objects that leave as empty are counted on the other half.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import results
import tyro
from numpy.typing import NDArray
from serving import CLIENTS, WARM_UP, closed, loaded_in_turn, served

from eenet import EENet
from eenet.evaluation import as_images, bench, collect
from eenet.networks import read_config
from eenet.policies import RECORDS_FILE, ExitPolicy, decide, policy_by_rule, policy_for_risk
from eenet.tasks import DetectionEvaluation, DetectionRecords, measure, task_of
from eenet.tasks.detection.metrics import precisions

DRAWS = 200
MISSED, DELTA = 0.05, 0.1
BACKENDS = ("onnxruntime", "openvino")
SHUFFLES, ENOUGH = 10, 4000  # fewer where there are so many images that chance hardly matters
DIVIDED = 20  # times into halves
TURNS = 5  # of the dial, between the cheapest exit and the final one
FRAMES = 256  # of the test images, asked for again and again
BUDGETS = tuple(f"{tenth / 10:.3f}" for tenth in range(2, 10))
FORCED = 50.0  # a logit of confidence that leaves no doubt


class Ways(NamedTuple):
    """Records, and ways in which their images may leave."""

    records: Any
    exits: list[NDArray[np.integer]]


def leaving(records: Any, exits_B: NDArray[np.integer], name: str | None = None) -> float:
    """The metric, or another figure, where each image leaves at a given exit."""
    if isinstance(records, DetectionRecords) and name is None:
        return float(precisions(records.pooled(exits_B), np.ones((1, len(records))))[0])
    early = records.confidence_logits_KB.shape[0]
    there_KB = np.arange(early)[:, None] == exits_B
    forced = replace(records, confidence_logits_KB=np.where(there_KB, FORCED, -FORCED).astype(np.float32))
    found = measure(forced, ExitPolicy("confidence", (0.5,) * early))
    return getattr(found, name) if name else found.quality


def drawn_again(count: int, block: int) -> list[NDArray[np.int64]]:
    """Rows of images, drawn with neighbours."""
    random, starts = np.random.default_rng(0), np.arange(0, count, block)
    blocks = [np.arange(start, min(start + block, count)) for start in starts]
    return [
        np.concatenate([blocks[i] for i in random.integers(len(blocks), size=len(blocks))])
        for _ in range(DRAWS)
    ]


def metrics(of: Ways, draws: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """In percent, mean over the ways to leave: of all images, then of each draw."""
    every, found = [np.arange(len(of.records)), *draws], []
    if isinstance(of.records, DetectionRecords):
        weights_DB = np.stack([np.bincount(rows, minlength=len(of.records)) for rows in every]).astype(float)
        found = [precisions(of.records.pooled(exits_B), weights_DB) for exits_B in of.exits]
    else:
        for rows in every:
            part = of.records.subset(rows)
            found.append([leaving(part, exits_B[rows]) for exits_B in of.exits])
        found = list(np.array(found).T)
    return 100 * np.mean(found, 0)


class Left(NamedTuple):
    """How images left by thresholds for a budget."""

    budget: str
    set_on: str
    exits_B: NDArray[np.integer]
    cost: float
    costs: Sequence[float]
    """Of every exit."""
    dead: list[int]


def left_by(place: Path, config: Any, records: Any, budgets: Sequence[str]) -> Iterator[Left]:
    """For each budget within reach: with thresholds as the run set them; and with those of one half of the
    test images without truth, for the other half, both ways."""
    order = np.random.default_rng(0).permutation(len(records))
    halves, unlabelled = (order[::2], order[1::2]), without_truth(place, config)
    for budget in sorted(set(budgets) & set(config.budgets)):
        yield _left(
            records, budget, "validation", [(np.arange(len(records)), config.exit_policy(float(budget)))]
        )
        fitted = [policy_by_rule(unlabelled.subset(half), float(budget)) for half in halves]
        yield _left(records, budget, "unlabelled", list(zip(halves[::-1], fitted, strict=True)))


def _left(records: Any, budget: str, set_on: str, parts: list[tuple[Any, ExitPolicy]]) -> Left:
    exits_B, spent = np.zeros(len(records), np.int64), 0.0
    for rows, policy in parts:
        part = records.subset(rows)
        exits_B[rows] = decide(part, policy)
        spent += len(rows) * measure(part, policy).relative_cost
    enabled = np.any([policy.enabled for _, policy in parts], 0)
    dead = [k for k, on in enumerate(enabled) if on and k not in exits_B]
    return Left(budget, set_on, exits_B, spent / len(records), records.costs(enabled), dead)


def without_truth(place: Path, config: Any) -> Any:
    """Records of the test images as if they had no masks or boxes."""
    images = replace(as_images(None, config, "test"), labelled=False, held={})
    return collect(EENet.from_pretrained(place), images)


def rows_of(place: Path, static: Any, budgets: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each budget."""
    config, records = read_config(place), tested(place)
    random, count, found = np.random.default_rng(0), len(records), []
    for left in left_by(place, config, records, budgets):
        shuffles = min(SHUFFLES, max(1, ENOUGH // count))
        others = {"chance": Ways(records, [random.permutation(left.exits_B) for _ in range(shuffles)])}
        first = np.zeros(count, np.int64)
        if static is not None:
            others["static"] = Ways(static, [first])
        affordable = [k for k, cost in enumerate(left.costs) if cost <= left.cost + 1e-9]
        if affordable:
            cut = max(affordable, key=lambda k: leaving(records, first + k))
            others["cut"] = Ways(records, [first + cut])
        row = {
            "seed": seed_of(place),
            "budget": left.budget,
            "thresholds": left.set_on,
            "cost": left.cost,
            "metric": 100 * leaving(records, left.exits_B),
            "full": 100 * leaving(records, first + len(config.exits)),
            "exits": "/".join(
                f"{n / count:.0%}" for n in np.bincount(left.exits_B, minlength=len(left.costs))
            ),
            "dead": " ".join(map(str, left.dead)),
        }
        if static is not None:
            row["static"] = 100 * leaving(static, first)
        if isinstance(records, DetectionRecords):
            row["ap50"] = 100 * leaving(records, left.exits_B, "map50")
            if static is not None:
                row["static_ap50"] = 100 * leaving(static, first, "map50")
        draws = drawn_again(count, getattr(records, "block", 1))
        ours_D = metrics(Ways(records, [left.exits_B]), draws)
        for name, other in others.items():
            points_D = ours_D - metrics(other, draws)
            row[f"over_{name}"] = points_D[0]
            row[f"over_{name}_low"], row[f"over_{name}_high"] = np.quantile(points_D[1:], [0.025, 0.975])
        found.append({k: round(float(v), 4) if isinstance(v, float) else v for k, v in row.items()})
    return found


def guarantee(records: DetectionRecords) -> dict[str, Any]:
    """How often at most 5 % of the images with objects are missed, and how many empty ones leave.

    Raises:
        ValueError: the images are too few for any threshold.
    """
    random, count, kept, missed, left = np.random.default_rng(0), len(records), 0, [], []
    for _ in range(DRAWS):
        order = random.permutation(count)
        fitted, others = records.subset(order[: count // 2]), records.subset(order[count // 2 :])
        policy, _ = policy_for_risk(fitted, MISSED, delta=DELTA, risk="missed")
        found = measure(others, policy)
        assert isinstance(found, DetectionEvaluation)
        missed.append(found.missed / others.holding().sum())
        kept += missed[-1] <= MISSED
        left.append((found.left_as_empty - found.missed) / max(found.empty_images, 1))
    return {
        "allowed": MISSED,
        "delta": DELTA,
        "resamplings": DRAWS,
        "kept": kept,
        "missed": round(float(np.mean(missed)), 4),
        "empty_that_leave": round(float(np.mean(left)), 3),
    }


def tested(place: Path) -> Any:
    """The records of the test images."""
    return task_of(read_config(place).task).load_records(place / RECORDS_FILE.format(split="test"))


def compare(name: str, runs: tuple[Path, ...], /, budgets: tuple[str, ...] = BUDGETS) -> None:
    """Networks of one data set against chance, cuts and static networks.

    Args:
        name: of the table.
        runs: directories of the networks, with exits and without.
        budgets: as a checkpoint has them, with three digits.
    """
    with_exits = [place for place in runs if read_config(place).exits]
    static = {seed_of(place): tested(place) for place in runs if place not in with_exits}
    rows, guarantees = [], []
    for place in with_exits:
        rows += rows_of(place, static.get(seed_of(place)), budgets)
        records = tested(place)
        if isinstance(records, DetectionRecords) and not records.holding().all():
            try:
                guarantees.append({"seed": seed_of(place), **guarantee(records)})
            except ValueError as error:
                print(f"{place.name}, empty images: {error}")
    print(results.write(f"dense-{name}", rows))
    if guarantees:
        print(results.write(f"dense-missed-{name}", guarantees))


def seed_of(place: Path) -> int:
    """That a network was trained with."""
    return read_config(place).provenance["train_config"]["seed"]


def dial(name: str, runs: tuple[Path, ...], /) -> None:
    """What test images cost, beside the budget that thresholds were set for.

    They are set on validation images, as a run does it; and on a half of the test images without their
    truth, as `eenet calibrate` does it, to be measured on the other half: mean and spread over random halves.

    Args:
        name: of the table.
        runs: directories of networks with exits.
    """
    rows, random = [], np.random.default_rng(0)
    for run in runs:
        config, records = read_config(run), tested(run)
        wanted = np.linspace(records.costs()[0], records.costs()[-1], TURNS + 2)[1:-1]
        unlabelled = without_truth(run, config)
        orders = [random.permutation(len(records)) for _ in range(DIVIDED)]
        halves = [[unlabelled.subset(half) for half in (order[::2], order[1::2])] for order in orders]
        for share in wanted:
            budget = min(config.budgets, key=lambda key: abs(float(key) - share))
            known = measure(records, config.exit_policy(float(budget))).relative_cost - float(budget)
            found = [
                measure(others, policy_by_rule(fitted, float(budget))).relative_cost - float(budget)
                for fitted, others in halves
            ]
            row = {"validation": known, "unlabelled_half": np.mean(found), "spread": np.std(found)}
            rows.append(
                {"seed": seed_of(run), "budget": budget, **{k: round(v, 3) + 0.0 for k, v in row.items()}}
            )
    print(results.write(f"dense-dial-{name}", rows))


def times(name: str, run: Path, /, budget: float | None = None) -> None:
    """Time as a part of the static network's, beside MACs as a part of its MACs.

    Args:
        name: of the table.
        run: directory of a network with exits.
        budget: by whose policy images leave. Default: its own policy.
    """
    timed = bench(run, budget=budget, backends=BACKENDS)
    rows = [
        {
            "backend": row.backend,
            "batch": row.batch_size,
            "static_ms": row.plain_ms,
            "early_exit_ms": row.early_exit_ms,
            "time_ratio": round(1 / row.speedup, 3),
            "mac_ratio": round(1 / row.mac_speedup, 3),
            "difference": round(1 / row.speedup - 1 / row.mac_speedup, 3),
        }
        for row in timed.rows
    ]
    print(results.write(f"dense-times-{name}", rows))


def serve(name: str, run: Path, static: Path, /, budget: float | None = None, windows: int = 6) -> None:
    """Images a second of a server, with exits and of the static network, loaded in turn.

    Args:
        name: of the table.
        run: directory of a network with exits.
        static: directory of a network without.
        budget: by whose policy images leave. Default: its own policy.
        windows: turns of each.
    """
    early, plain = EENet.from_pretrained(run), EENet.from_pretrained(static)
    if budget is not None:
        early.config.policy = early.config.exit_policy(budget).to_dict()
    images = as_images(None, early.config, "test")
    frames = task_of(early.config.task).sample(images, FRAMES)[:, None]
    models, outputs = ("early", "static"), ("exit_index",)
    with TemporaryDirectory() as directory:
        for model, network in zip(models, (early, plain), strict=True):
            network.save_pretrained(f"{directory}/{model}")
        with served(directory) as (address, _):
            for model in models:
                closed(address, model, frames, WARM_UP, outputs=outputs)
            loads, ratios = loaded_in_turn(address, models, frames, windows, outputs)
    costs, exits = early.costs_K, loads["early"].exits
    row = {
        "clients": CLIENTS,
        "requests": sum(len(load.seconds) for load in loads.values()),
        "errors": sum(len(load.errors) for load in loads.values()),
        "static_per_second": round(loads["static"].per_second, 1),
        "early_exit_per_second": round(loads["early"].per_second, 1),
        "static_p50_ms": round(loads["static"].quantile(0.5), 1),
        "early_exit_p50_ms": round(loads["early"].quantile(0.5), 1),
        "time_ratio": round(median(1 / ratio for ratio in ratios), 3),
        "mac_ratio": round(float(np.mean([costs[k] for k in exits])), 3),
    }
    print(results.write(f"dense-served-{name}", [row]))


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"compare": compare, "dial": dial, "times": times, "serve": serve})
