"""Networks on the same validation images and clock: what each is worth, as it is and leaving early."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eenet.data import Images, sample
from eenet.evaluation import collect, measure
from eenet.networks import Network, open_network
from eenet.optimizing.results import OptimizedRow
from eenet.policies import RECORDS_FILE, ExitPolicy, Records, policies_for_budgets
from eenet.runtime import (
    Contender,
    create_backend,
    mean_ms,
    run_batch,
    segments_of,
    timed,
    times_in_turn,
)
from eenet.tasks import Loss, paired_loss

TIMED_IMAGES = 1000
REPEATS = 5
RUN_SECONDS = 0.3
ROUNDING = 1e-9  # points


@dataclass(frozen=True)
class Runner:
    """A network to be measured."""

    name: str
    place: Path
    """Of its checkpoint or export."""
    precision: str
    epochs: int


def answers_of(place: Path, images: Images) -> tuple[Network, Records]:
    """The network, and what it says about the validation images: as training has kept it, or collected."""
    network, kept = open_network(place), place / RECORDS_FILE.format(split="validation")
    return network, Records.load(kept) if kept.exists() else collect(network, images)


def plain_right(records: Records) -> NDArray[np.bool_]:
    """Which images the network gets right without any exit: bool [B]."""
    count = len(records.head_macs)
    return records.right(ExitPolicy.all_at(count, count))


def policies_of(
    network: Network,
    records: Records,
    plain_B: NDArray[np.bool_],
    max_drop: float,
    leaving: ExitPolicy | None = None,
) -> list[ExitPolicy]:
    """As it is; cut behind the first exit that is good enough; leaving as early as is within the drop.

    The last two only if there are such. What is cut is a smaller static network, which training exits has
    made as well.

    Args:
        network: of which exits and budgets are known.
        records: what it says about the validation images.
        plain_B: which of them the given network gets right.
        max_drop: points that may be lost against it.
        leaving: how it leaves early, if that was decided before.
    """
    count = network.num_exits
    found = [ExitPolicy.all_at(count, count)]
    for k in range(count):
        cut = ExitPolicy.all_at(k, count)
        if paired_loss(records.right(cut), plain_B).points <= max_drop + ROUNDING:
            found.append(cut)
            break
    if leaving is not None:
        return [*found, leaving] if leaving.only_exit is None else found
    if count and network.config.timings:  # trained for the clock: budgets in time, not in MACs
        in_time, score = timed(records, network.config.timings[-1]), network.config.exit_policy().score
        budgets = policies_for_budgets(in_time, score=score, any_exits=True)
    else:
        budgets = {key: ExitPolicy.from_dict(p, count) for key, p in network.config.budgets.items()}
    bold = boldest(records, budgets, plain_B, max_drop)
    return [*found, bold] if bold is not None and bold.only_exit is None else found


def boldest(
    records: Records, budgets: Mapping[str, ExitPolicy], plain_B: NDArray[np.bool_], max_drop: float
) -> ExitPolicy | None:
    """From careful to bold, the last policy before one loses too much against the plain network.

    If already the most careful one does, that. None without policies.
    """
    chosen: ExitPolicy | None = None
    for budget in sorted(budgets, key=float, reverse=True):
        fits = paired_loss(records.right(budgets[budget]), plain_B).points <= max_drop + ROUNDING
        if chosen is not None and not fits:
            break
        chosen = budgets[budget]
        if not fits:
            break
    return chosen


def measured(
    runners: Sequence[Runner],
    images: Images,
    *,
    max_drop: float,
    backend: str,
    batch_size: int,
) -> list[OptimizedRow]:
    """A row for each network as it is, cut, and leaving early; all timed in turns.

    Args:
        runners: the first is the plain network that was given.
        images: of the validation split.
        max_drop: points that may be lost against it.
        backend, batch_size: on which all are timed, see `eenet.Predictor`.
    """
    rows: list[OptimizedRow] = []
    contenders: list[Contender] = []
    plain_B: NDArray[np.bool_] | None = None
    given_macs = 0
    for runner in runners:
        network, records = answers_of(runner.place, images)
        config = network.config
        if plain_B is None:
            plain_B, given_macs = plain_right(records), config.backbone_macs
        decided = config.exit_policy() if runner.precision == "int8" else None
        for policy in policies_of(network, records, plain_B, max_drop, decided):
            found = records.right(policy)
            loss = paired_loss(found, plain_B)
            cost = measure(records, policy).relative_cost
            rows.append(_row(runner, policy, loss, found, cost * config.backbone_macs, given_macs, max_drop))
            fast = create_backend(backend, network, segments_of(policy, config.ensemble), policy.score)
            contenders.append(Contender(str(len(contenders)), partial(run_batch, fast, policy)))
    pixels_BCHW = sample(images, TIMED_IMAGES)
    times = times_in_turn(
        contenders, pixels_BCHW, batch_size=batch_size, repeats=REPEATS, run_seconds=RUN_SECONDS
    )
    return [
        replace(row, ms=mean_ms(times[str(i)]), speedup=mean_ms(times["0"]) / mean_ms(times[str(i)]))
        for i, row in enumerate(rows)
    ]


def _row(
    runner: Runner,
    policy: ExitPolicy,
    loss: Loss,
    right_B: NDArray[np.bool_],
    macs: float,
    given_macs: int,
    max_drop: float,
) -> OptimizedRow:
    return OptimizedRow(
        name=runner.name,
        precision=runner.precision,
        early_exit=policy.only_exit is None,
        cut=policy.only_exit if any(policy.enabled) else None,
        epochs=runner.epochs,
        accuracy=float(right_B.mean()),
        drop=loss.points,
        drop_interval=loss.interval,
        within=loss.points <= max_drop + ROUNDING,
        macs=round(macs),
        relative_cost=macs / given_macs,
        ms=0.0,
        speedup=0.0,
        checkpoint=str(runner.place),
        policy=policy.to_dict(),
    )
