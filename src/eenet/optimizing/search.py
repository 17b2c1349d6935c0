"""The race from end to end: train in rounds, drop those behind, quantise, time all, keep the winner."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eenet.common import format_table, hardware, say
from eenet.data import Images
from eenet.evaluation import as_images
from eenet.exporting import export
from eenet.networks import CARD_FILE, read_config, write_config
from eenet.optimizing.candidates import GIVEN, SHARES, Candidate, candidates
from eenet.optimizing.clock import FROM_SCRATCH, Clock
from eenet.optimizing.halving import Point, rounds, survivors
from eenet.optimizing.journal import Journal
from eenet.optimizing.measuring import Runner, answers_of, measured, plain_right, policies_of
from eenet.optimizing.results import Optimized, OptimizedRow, ranked, write_page, write_table
from eenet.runtime import BACKENDS, installed
from eenet.tasks import task_of
from eenet.training import STATE_FILE, TrainConfig, default_directory, start_of, train, typed

PASSED = 60_000  # training images with repeats, that a network sees at most by default
FEWEST, MOST = 6, 60  # epochs
LEFT_OUT = ("training_state.pt", "records_test.npz", "records_validation.npz", CARD_FILE, "report.html")
OBJECTIVES = ("latency", "macs")


def optimize(
    model: str,
    *,
    data: str,
    weights: str | None = None,
    max_drop: float = 0.5,
    objective: str = "latency",
    backend: str = "onnxruntime",
    batch_size: int = 1,
    minutes: float | None = None,
    epochs: int | None = None,
    shares: Sequence[float] = SHARES,
    backbones: Sequence[str] | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Optimized:
    """Look for the fastest network that loses little against a trained one.

    Tries it as it is, pruned to several shares, and smaller backbones; each with early exits and without, in
    float32 and int8. All are trained by the same rules, and imitate the trained network; those that fall
    behind stop early. The same call goes on where it was stopped, and repeats nothing.

    Args:
        model: as for `eenet.train`: a name with `weights`, or a checkpoint, whose backbone is taken.
        data: whose training images are trained on, and by whose validation images all are judged.
        weights: file with the trained weights.
        max_drop: points of accuracy that may be lost.
        objective: `latency`, milliseconds on this machine, or `macs`.
        backend, batch_size: on which all are timed, in turns.
        minutes: no training begins that would not fit into so many, and epochs are as few as that takes.
        epochs: passes over the training images that each network gets at most. Default: by their number.
        shares: of the MACs, that pruning leaves.
        backbones: other networks, by name. Default: some that suit the images, if they are smaller.
        out: directory for everything. Default: runs/DATA-MODEL-optimized.
        settings: for all trainings, see `eenet.TrainConfig`.

    Raises:
        FileExistsError: `out` holds something else.
        FileNotFoundError, ValueError: arguments that can't be, a network that isn't trained, another race in
            `out`.
    """
    asked = {"data": data, "model": model, **({"weights": weights} if weights else {}), **typed(settings)}
    _check(max_drop, objective, backend, batch_size, minutes, epochs, shares)
    task_of(TrainConfig(**asked).task).must_support("optimize")
    if not start_of(TrainConfig(**asked)).trained:
        raise ValueError(
            f"optimize starts from a trained network, and {model} has random weights; give weights, "
            "pretrained, or a checkpoint as model"
        )
    out = Path(out or f"{default_directory(asked)}-optimized")
    question = {**asked, "max_drop": max_drop, "objective": objective, "backend": backend}
    question |= {"batch_size": batch_size, "epochs": epochs, "shares": list(shares)}
    question |= {"backbones": list(backbones) if backbones is not None else None}
    journal = Journal(out, question)
    race = _Race(journal, out, Clock(journal, minutes))
    if objective == "latency":  # the exits of each lie where the clock wants them
        asked = {"aim": "latency", "backend": backend, "at_once": batch_size, **asked}
    race.train(Candidate(GIVEN, {**asked, "freeze_backbone": True}, 1), epochs)
    config = read_config(race.places[GIVEN])
    images = as_images(data, config, "validation")
    count = len(as_images(data, config, "train"))
    budget = epochs or min(max(round(PASSED / count), FEWEST), MOST)
    timing = {"max_drop": max_drop, "backend": backend, "batch_size": batch_size}
    alive = candidates({"teacher": str(race.places[GIVEN]), **asked}, config, shares, backbones)
    alive, budget = race.chosen(alive, budget, may_leave_out=backbones is None)
    for number, (passes, keep) in enumerate(rounds(budget, len(alive))):
        if number:
            alive = race.halved(number, alive, keep, images, objective, timing)
        for candidate in alive:
            if race.fits(candidate, passes, count):
                race.train(candidate, passes)
    finalists = [GIVEN, *(candidate.name for candidate in alive if candidate.name in race.places)]
    for name in finalists:
        race.quantise(name, images, max_drop)
    found = race.journal.once(
        "measure", lambda: [row.to_dict() for row in race.rows(images, timing, int8=True)]
    )
    rows, chosen = ranked([_row(values) for values in found], objective)
    race.journal.once("winner", lambda: race.keep(chosen))
    result = Optimized(
        rows=rows,
        chosen=chosen,
        checkpoint=str(out / "checkpoint"),
        artifact=str(out / "artifact"),
        objective=objective,
        backend=backend,
        batch_size=batch_size,
        max_drop=max_drop,
        epochs=budget,
        images=len(images),
        seconds=race.journal.seconds,
        hardware=hardware(),
        notes=race.notes,
    )
    write_table(rows, out)
    write_page(result, out)
    return result


def _check(
    max_drop: float,
    objective: str,
    backend: str,
    batch_size: int,
    minutes: float | None,
    epochs: int | None,
    shares: Sequence[float],
) -> None:
    if not 0 <= max_drop <= 100:
        raise ValueError(f"max_drop is {max_drop}; it is in points of accuracy, from 0 to 100")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; choose from {', '.join(OBJECTIVES)}")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
    if not installed(backend):
        raise ValueError(f"backend {backend!r} is not installed")
    for name, value in {"batch_size": batch_size, "minutes": minutes, "epochs": epochs}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
    for share in shares:
        if not 0 < share < 1:
            raise ValueError(f"shares has {share}; each must be above 0 and below 1")


def _row(values: Mapping[str, Any]) -> OptimizedRow:
    return OptimizedRow(**{**values, "drop_interval": tuple(values["drop_interval"])})


@dataclass
class _Race:
    """Where it stands."""

    journal: Journal
    out: Path
    clock: Clock

    def __post_init__(self) -> None:
        self.places: dict[str, Path] = {}
        """Of the last checkpoint of each network."""
        self.epochs: dict[str, int] = {}
        self.states: dict[str, str] = {}
        """For the table of progress."""
        self.int8: dict[str, Path] = {}
        self.notes: list[str] = []

    def train(self, candidate: Candidate, epochs: int | None) -> None:
        """A network with exits, unless it is there already; a part of it is taken up."""
        place = (
            self.out / "networks" / f"{candidate.name}-{epochs or 'own'}".replace(" ", "-").replace("/", "-")
        )
        given = {"epochs": epochs} if epochs else {}
        step = f"train {candidate.name} {epochs}"
        self.states[candidate.name] = f"training, {epochs or 'its own number of'} epochs"
        self._show()

        def do() -> dict[str, Any]:
            resume = (place / STATE_FILE).exists()
            done = train(None, place, resume=resume, **{"budget": "auto", **candidate.settings, **given})
            config = read_config(place)
            passes = config.provenance["train_config"]["epochs"]
            return {"seconds": done.train_seconds, "epochs": passes, "macs": config.backbone_macs}

        try:
            found = self.journal.once(step, do)
        except (ValueError, FloatingPointError) as error:
            if candidate.name == GIVEN:
                raise
            told = " ".join(str(error).split())
            found = self.journal.once(step, lambda: {"error": told})
        if "error" in found:
            self.states[candidate.name] = f"left out: {found['error']}"
            self.notes.append(f"{candidate.name} was left out: {found['error']}.")
            return
        self.places[candidate.name], self.epochs[candidate.name] = place, found["epochs"]
        self.states[candidate.name] = f"trained {found['epochs']} epochs in {found['seconds']:.0f} s"

    def chosen(
        self, alive: list[Candidate], epochs: int, *, may_leave_out: bool
    ) -> tuple[list[Candidate], int]:
        """Who takes part, and for how many epochs at most."""
        planned = self.journal.once("plan", lambda: self.clock.plan(alive, epochs, may_leave_out))
        for candidate in alive:
            if candidate.name not in planned["names"]:
                self.states[candidate.name] = "left out: too little time to train from scratch"
                self.notes.append(
                    f"{candidate.name} was not tried: from scratch it needs at least {FROM_SCRATCH} epochs, "
                    "and there was no time for them. Name it in --backbones, or give more minutes."
                )
        return [candidate for candidate in alive if candidate.name in planned["names"]], planned["epochs"]

    def fits(self, candidate: Candidate, epochs: int, images: int) -> bool:
        """Whether a training is there, or would end in time."""
        step = f"train {candidate.name} {epochs}"
        if self.journal.found(step) is not None or self.clock.fits(candidate, epochs):
            return True
        told = f"{candidate.name} was not trained for {epochs} epochs on {images} images: no time was left."
        self.notes.append(told)
        self.states[candidate.name] = "no time left"
        return False

    def halved(
        self,
        number: int,
        alive: Sequence[Candidate],
        keep: int,
        images: Images,
        objective: str,
        timing: Mapping[str, Any],
    ) -> list[Candidate]:
        """Those who go on after a round."""

        def judged() -> list[str]:
            points: dict[str, list[Point]] = {}
            for row in self.rows(images, timing):
                points.setdefault(row.name, []).append(Point(row.accuracy, row.cost(objective)))
            points.pop(GIVEN)
            return survivors(points, keep)

        names = self.journal.once(f"round {number}", judged)
        for candidate in alive:
            if candidate.name in self.places and candidate.name not in names:
                self.states[candidate.name] += ", fell behind"
        return [candidate for candidate in alive if candidate.name in names]

    def rows(self, images: Images, timing: Mapping[str, Any], *, int8: bool = False) -> list[OptimizedRow]:
        """All networks that there are, measured in turns."""
        say("timing all in turns")
        runners = [Runner(name, place, "fp32", self.epochs[name]) for name, place in self.places.items()]
        if int8:
            runners += [Runner(name, place, "int8", self.epochs[name]) for name, place in self.int8.items()]
        return measured(runners, images, **timing)

    def quantise(self, name: str, images: Images, max_drop: float) -> None:
        """A network in int8, as an export, which is a checkpoint too; it leaves as early as in float32."""
        place = self.out / "int8" / self.places[name].name
        self.states[name] += ", int8"

        def do() -> dict[str, Any]:
            network, records = answers_of(self.places[name], images)
            _, given = answers_of(self.places[GIVEN], images)
            as_it_is, *others = policies_of(network, records, plain_right(given), max_drop)
            policy = next((each for each in others if each.only_exit is None), as_it_is)
            try:
                export(self.places[name], place, precision="int8", policy=policy, force=True)
            except ValueError as error:  # an operation that can't be quantised, or answers that differ
                return {"error": " ".join(str(error).split())}
            return {"policy": policy.to_dict()}

        found = self.journal.once(f"int8 {name}", do)
        if "error" in found:
            self.notes.append(f"{name} is not in int8: {found['error']}.")
        else:
            self.int8[name] = place
        self._show()

    def keep(self, chosen: OptimizedRow) -> dict[str, str]:
        """The winner's checkpoint and artifact, with the policy that was measured."""
        place, artifact = self.out / "checkpoint", self.out / "artifact"
        for directory in (place, artifact):
            shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.places[chosen.name], place, ignore=shutil.ignore_patterns(*LEFT_OUT))
        config = read_config(place)
        config.policy = chosen.policy
        if chosen.precision == "int8" and chosen.early_exit:  # whose thresholds are for int8
            config.policy = self.journal.found(f"int8 {chosen.name}")["policy"]
            shutil.copytree(self.int8[chosen.name], artifact)
        write_config(config, place)
        if not artifact.exists():
            export(place, artifact, precision=chosen.precision)
        return {"checkpoint": str(place), "artifact": str(artifact)}

    def _show(self) -> None:
        """The table of progress, anew."""
        say(format_table(["network", "state"], [[name, state] for name, state in self.states.items()]))
