"""Exits where this machine's clock wants them, and thresholds by its time."""

import copy
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, combinations
from pathlib import Path

import torch

from eenet.backbones import trace
from eenet.common import say, working, write_atomically
from eenet.data import Images, sample
from eenet.networks import EENet, convert
from eenet.policies import Fitted, fit, policies_for_budgets, policy_for_budget
from eenet.runtime import (
    Contender,
    StageTimes,
    create_backend,
    default_backend,
    mean_ms,
    run_batch,
    segments_of,
    stage_times,
    timed,
    times_in_turn,
)
from eenet.tasks import expected_accuracy, task_of
from eenet.training.planning.budgeting import cheapest, wanted_budget
from eenet.training.planning.making import pruned_backbone
from eenet.training.planning.settings import TrainConfig
from eenet.training.planning.starting import Start

CLOCK_FILE = "clock.json"
MOST_CUTS = 12  # that are timed; evenly chosen of more
MOST_EXITS = 4
TIMED_HEADS = ("deep", "separable")
"""Kinds of heads to choose from, if none is asked for. On a frozen backbone they are about as good at equal
cost, see the lab notes."""
QUICK = "margin"
"""The score of exits that answer alone: of those that take few operations, the best at equal cost."""
MOST_LOST = 0.001
"""Of the accuracy, by letting exits answer alone."""
TIMED_IMAGES, TIMED_RUNS = 512, 5
LEAVING = 0.5
"""Of the images, `f ** LEAVING` are taken to have left by a place behind a share f of the MACs; trained
networks have from 0.2 (CIFAR-10, ResNet-56) to 1.3 (Tiny-ImageNet-50), see the lab notes."""


@dataclass(frozen=True)
class Clocked:
    """What was timed, and the exits that follow."""

    head: str
    """Kind of the exit heads."""
    names: list[str]
    """Of the cuts, in running order."""
    times: StageTimes
    """With an exit at each of them."""
    chosen: list[int]
    """Indices into `names`."""
    expected: float
    """Time of an image on average, relative to the plain backbone, if images leave as `LEAVING` says."""

    def __str__(self) -> str:
        names = ", ".join(self.names[i] for i in self.chosen)
        return (
            f"exits by the clock ({self.times.backend}, batches of {self.times.batch_size}): {names}; of "
            f"{len(self.names)} places, {self.head} heads, expected time {self.expected:.2f} of the plain "
            "network's"
        )


def by_the_clock(
    config: TrainConfig,
    images: Images,
    start: Start,
    out: Path,
    *,
    asked: Collection[str] = (),
    resume: bool = False,
) -> TrainConfig:
    """A configuration whose exits lie where they save most time here.

    Every place is timed with an exit, with each of `TIMED_HEADS` unless another kind is asked for. Of all
    choices that one is taken with which an image takes least time on average, heads included, if images
    leave as `LEAVING` says. A head that takes longer than it saves is thereby left out.

    Args:
        config: its `head`, `backend` and `at_once` count, and `num_exits` if that is asked for.
        images: that it is made for.
        start: its backbone, which is not changed.
        out: what was measured is kept here, and taken again by a run that is resumed.
        asked: settings that the user has given. Who names the places, keeps them.
        resume: go on with what was chosen before.

    Raises:
        ValueError: the backend can't be had, or the backbone has no cut.
    """
    file = out / CLOCK_FILE
    if resume and file.exists():
        known = json.loads(file.read_text())
        head = known.get("head", config.head)
        return replace(config, placement=known["placement"], num_exits=len(known["placement"]), head=head)
    if "placement" in asked:
        return config
    task_of(config.task).must_support("exits by the clock")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("exits by the clock are chosen in one process; in several, name the places")
    backbone, _, _ = pruned_backbone(config, images, start)
    cuts = trace(backbone, images.image_size).cuts
    if len(cuts) > MOST_CUTS:
        cuts = [cuts[round(i * (len(cuts) - 1) / (MOST_CUTS - 1))] for i in range(MOST_CUTS)]
    names, fractions = [cut.name for cut in cuts], [cut.fraction for cut in cuts]
    count = config.num_exits if "num_exits" in asked else None
    heads = TIMED_HEADS if config.head in TIMED_HEADS and "head" not in asked else [config.head]
    mean, std = images.mean_std()

    def clocked(head: str) -> Clocked:
        network = convert(
            copy.deepcopy(backbone),
            images.image_size,
            placement=names,
            head=head,
            task=config.task,
            num_classes=len(images.class_names),
            recognise=False,
        )
        network.config.mean, network.config.std = mean, std
        times = measured_times(network.eval(), images, config)
        return Clocked(head, names, times, *least_time(times.stage_ms, times.head_ms, fractions, count))

    with working("timing places for exits"), torch.random.fork_rng(devices=[]):
        every = [clocked(head) for head in heads]
    found = min(every, key=lambda each: each.expected)
    say(str(found))
    placement = [found.names[i] for i in found.chosen]
    told = {"placement": placement, "head": found.head, "expected": found.expected, "names": found.names}
    told |= {"times": found.times.to_dict(), "heads": {each.head: each.expected for each in every}}
    write_atomically(file, json.dumps(told, indent=2).encode())
    return replace(config, placement=placement, num_exits=len(placement), head=found.head)


def measured_times(network: EENet, images: Images, config: TrainConfig) -> StageTimes:
    """Of all stages and heads, on the backend and with as many images at once as a configuration says."""
    pixels_BCHW = sample(images, config.at_once)
    return stage_times(
        network, pixels_BCHW, backend=config.backend or default_backend(), batch_size=config.at_once
    )


def least_time(
    stage_ms: Sequence[float],
    head_ms: Sequence[float],
    fractions: Sequence[float],
    num_exits: int | None = None,
) -> tuple[list[int], float]:
    """The choice of exits with the least expected time of an image, and that relative to all stages.

    Args:
        stage_ms: K, between the places.
        head_ms: K - 1, of an exit at each place.
        fractions: K - 1, of the MACs, before each place.
        num_exits: that are wanted. Default: what takes least, 1 to `MOST_EXITS`.

    Raises:
        ValueError: more exits are wanted than there are places.
    """
    if num_exits is not None and num_exits > len(head_ms):
        raise ValueError(f"num_exits is {num_exits}, but there are {len(head_ms)} places for exits")
    total, until = sum(stage_ms), list(accumulate(stage_ms))
    left = [fraction**LEAVING for fraction in fractions]

    def expected(chosen: Sequence[int]) -> float:
        gone, spent, heads = 0.0, 0.0, 0.0
        for i in chosen:
            heads += head_ms[i]
            spent += (left[i] - gone) * (until[i] + heads)
            gone = left[i]
        return (spent + (1 - gone) * (total + heads)) / total

    counts = range(1, min(MOST_EXITS, len(head_ms)) + 1) if num_exits is None else [num_exits]
    chosen = min(
        (each for count in counts for each in combinations(range(len(head_ms)), count)), key=expected
    )
    return list(chosen), expected(chosen)


def in_time(
    network: EENet, fitted: Fitted, images: Images, config: TrainConfig, measured: StageTimes
) -> tuple[Fitted, str]:
    """What was fitted, with thresholds for the least time instead of the fewest MACs, and how, in words.

    Exits that don't pay for their heads by the clock are switched off. Joined answers and a learned
    confidence take some twenty small operations at every exit. So it is also tried to let each exit answer
    alone and to compare its `QUICK` score. That is taken if it is quicker here and loses at most `MOST_LOST`
    on held-out images, by the probabilities of the full network's joined answers: labels are too noisy for so
    little, and thresholds were set by them.

    Args:
        network: trained; it has adopted what was fitted.
        fitted: for the same configuration, by MACs.
        images: held out, those that it was fitted on.
        config: its `budget`, `max_drop`, `backend` and `at_once` count.
        measured: times of the network. A budget below that of its first exit is given up, in words.
    """
    with working("trying exits that answer together, and alone"):
        together, told = _least_time(fitted, config, measured)
        highest = max(1.0, *fitted.records.costs())
        quick = fit(fitted.records, highest, gate=network.config.gate, rule=QUICK, joined=False)
        alone, told_alone = _least_time(quick, config, measured)
        kept, kept_alone = (
            expected_accuracy(way.records, way.policy, fitted.records) for way in (together, alone)
        )
        if kept - kept_alone > MOST_LOST:
            return together, told
        ms, ms_alone = _times(network, [together, alone], images, config)
    if ms_alone >= ms:
        return together, told
    return (
        alone,
        f"{told_alone}; each exit answers alone, in {ms_alone / ms:.2f} of the time of joined answers",
    )


def _least_time(fitted: Fitted, config: TrainConfig, measured: StageTimes) -> tuple[Fitted, str]:
    records, score = timed(fitted.records, measured.to_dict()), fitted.policy.score
    where = f"in time ({measured.backend}, batches of {measured.batch_size})"
    budget, least = wanted_budget(config, "latency"), records.costs()[0]
    if budget is not None and budget >= least:
        policy = policy_for_budget(records, budget, scores=[score], any_exits=True)
        return replace(fitted, policy=policy), f"thresholds set for budget {budget}, {where}"
    budgets = policies_for_budgets(records, score=score, any_exits=True)
    policy, told = cheapest(records, budgets, config.max_drop)
    if budget is not None:
        told = f"budget {budget} can't be kept, since leaving at the first exit takes {least:.3f}; {told}"
    return replace(fitted, policy=policy), f"{told}, {where}"


def _times(network: EENet, ways: Sequence[Fitted], images: Images, config: TrainConfig) -> list[float]:
    """Milliseconds of a batch under each policy, in turns on the same images."""
    contenders = []
    for i, way in enumerate(ways):
        segments = segments_of(way.policy, way.ensemble)
        backend = create_backend(config.backend or default_backend(), network, segments, way.policy.score)
        contenders.append(Contender(str(i), partial(run_batch, backend, way.policy)))
    pixels_BCHW = sample(images, max(TIMED_IMAGES, config.at_once))
    found = times_in_turn(contenders, pixels_BCHW, batch_size=config.at_once, repeats=TIMED_RUNS)
    return [mean_ms(found[contender.name]) for contender in contenders]
