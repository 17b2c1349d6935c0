"""The one seam between where a network is cut and when an image leaves, and what an exit answers.

Where and when are the same for every task. A task says what a head gives and how it is trained, what a
record keeps of an answer, and how good that is. Nothing outside this package asks for a task's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.policies import ExitPolicy, graph_scores, logarithm, probabilities
from eenet.tasks.handed import Parts, Pixels, Seen, refuse
from eenet.tasks.measured import Loss, Measured

if TYPE_CHECKING:
    from torch import Tensor

    from eenet.backbones import TracedBackbone


class Task(ABC):
    """What a kind of networks answers, and how good that is."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """As messages call it."""
    head: ClassVar[str]
    """The kind of exit head unless another is asked for."""
    gate: ClassVar[str]
    """What the confidence is computed from, likewise."""
    keeps_classifier: ClassVar[bool]
    """Whether the final exit is the backbone's own classifier, so that its classes count."""
    any_size: ClassVar[bool]
    """Whether a network takes images of other sizes than the one it was made for."""
    batch_sizes: ClassVar[Sequence[int]] = (64, 32, 16, 8)
    """Images per step of a run without a recipe: the first of which there are eight batches."""
    timed_sizes: ClassVar[Sequence[int]] = (1, 64)
    """Images that arrive together where a network is timed."""
    objectives: ClassVar[Sequence[str] | None] = None
    """Names of those it can be trained by. None: all."""
    cross_entropy: ClassVar[bool] = True
    """Whether exits are trained by that, and not by an `exit_loss`."""
    carried: ClassVar[Sequence[str]] = ("features",)
    """What goes from stage to stage: one tensor, or a tuple of several."""
    settings: ClassVar[Sequence[str]] = ()
    """Names of what a network of it may be told, see `create_model`."""
    unsupported: ClassVar[Mapping[str, str]] = {}
    """Verbs that can't be had yet, and what to do instead."""

    def heads(self) -> list[str]:
        """The kinds of exit heads there are."""
        return [self.head]

    def must_have(self, head: str, gate: str) -> None:
        """Refuse other kinds of heads and gates, where a task has one of each.

        Raises:
            ValueError: another one is asked for.
        """
        for kind, given, own in (("exit head", head, self.head), ("gate", gate, self.gate)):
            if given != own:
                raise ValueError(f"unknown {kind} {given!r} for {self.name}; choose from {own}")

    def must_know(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings that a task doesn't have.

        Raises:
            ValueError: one of them is unknown.
        """
        for name in settings:
            if name not in self.settings:
                known = ", ".join(self.settings) or "none"
                raise ValueError(f"unknown task setting {name!r}; {self.name} has: {known}")

    def must_support(self, verb: str) -> None:
        """Refuse a verb that this task has none of.

        Raises:
            ValueError: it hasn't.
        """
        refuse(verb, self.unsupported, f"{self.name} yet")

    # Data -------------------------------------------------------------------------------

    @abstractmethod
    def load(self, name: str, split: str, **options: Any) -> Any:
        """A split of a data set; arguments and errors as of `eenet.data.load`."""

    def sample(self, images: Any, count: int) -> Pixels:
        """Pixels [B, C, H, W] of some images of one size at random, the same every time, as a network
        takes them; at least one, at most so many."""
        return images.of_one_size(count)

    def survey(self, name: str, **options: Any) -> Any:
        """What a data set holds: `eenet.data.DataInfo`; arguments and errors as of `eenet.data.survey`."""
        from eenet.data import survey_pairs

        if asked := [key for key, value in options.items() if value is not None]:
            raise ValueError(f"{asked[0]} is for images with labels, not for {self.name}")
        return survey_pairs(name, self.load, self.counted)

    @abstractmethod
    def batches(self, images: Any, batch_size: int, augmentation: Any, **which: Any) -> Iterator[Any]:
        """Shuffled batches of training images, named tuples of tensors; see `eenet.data.batches`."""

    def without_truth(self, directory: Path, config: Any) -> Any | None:  # noqa: ARG002
        """The images of a folder that holds none with truths, for thresholds that need none; else None."""
        return None

    @abstractmethod
    def varied(self, batch: Any, augmentation: Any, device: Any) -> "tuple[Tensor, Tensor]":
        """Pixels uint8 [B, C, H, W] of a batch as the augmentation says, and the truth, on a device."""

    # Networks ---------------------------------------------------------------------------

    @abstractmethod
    def parts(
        self,
        traced: "TracedBackbone",
        chosen: Sequence[int],
        *,
        num_classes: int | None,
        head: str,
        gate: str,
        settings: dict[str, Any],
        prove: bool,
    ) -> Parts:
        """Stages and heads for exits behind the chosen cuts.

        Args:
            traced: see `eenet.backbones.trace`.
            chosen: increasing indices into its cuts.
            num_classes: that are answered. None: those of the backbone.
            head, gate: kinds of these.
            settings: of the task, as `config.json` keeps them; what is missing is filled in.
            prove: that the division is exact.

        Raises:
            ValueError: unknown kinds, or a backbone that doesn't suit the task.
        """

    @abstractmethod
    def targets(self, truth: "Tensor", logits: "Tensor") -> "Tensor":
        """What logits of this shape are compared with by the losses; negative where nothing counts."""

    def exit_loss(self) -> "Callable[[Tensor, Tensor], Tensor] | None":
        """Logits of an exit and targets → its loss. None: cross-entropy."""
        return None

    # Answers ----------------------------------------------------------------------------

    def channels(self, num_classes: int) -> int:
        """How many numbers an exit gives, along the second axis of its logits."""
        return num_classes

    def answered(self, logits: "Tensor") -> "Tensor":
        """Logits of an exit → what an image leaves with; by default class probabilities."""
        return logits.softmax(1)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same for arrays, [B, N, ...]."""
        return probabilities(logits)

    def unanswered(self, answers: NDArray[np.float32]) -> NDArray[np.float32]:
        """The other way round."""
        return logarithm(answers)

    def scores(self) -> list[str]:
        """Those of one exit alone that a network's graph holds."""
        return graph_scores()

    @abstractmethod
    def read(self, image: Any, config: Any) -> Seen:
        """Any image that `eenet.data.to_pixels` takes, as a network of this configuration sees it.

        Raises:
            FileNotFoundError, ValueError: it can't be read.
        """

    def read_large(self, image: Any, config: Any) -> Seen:
        """The same at its own size, to be run in tiles."""
        raise NotImplementedError

    def prediction_of_tiles(
        self,
        probabilities: NDArray[np.float32],
        exits: list[list[int]],
        cost: float,
        size: tuple[int, int],
        config: Any,
    ) -> Any:
        """The answer put together of tiles, with the exit of each by row."""
        raise NotImplementedError

    def explained(self, config: Any) -> dict[str, str]:
        """What programs without eenet have to know: how to `resize` an image, and what an `answer` is."""
        raise NotImplementedError

    @abstractmethod
    def prediction(
        self,
        probabilities: NDArray[np.float32],
        exit_index: int,
        cost: float,
        size: tuple[int, int],
        config: Any,
    ) -> Any:
        """The answer of the exit that an image left at, for an image of this (height, width)."""

    # Answers over the wire ---------------------------------------------------------------

    outputs: ClassVar[Mapping[str, str]] = {}
    """Tensors that a server gives, beside those of every task: name → datatype of the Open Inference
    Protocol."""

    def output_shapes(self, config: Any) -> dict[str, list[int]]:
        """The shape of each for one image; -1 where it depends on the image."""
        raise NotImplementedError

    def output(
        self,
        name: str,
        answers: NDArray[np.float32],
        exits_B: NDArray[np.integer],
        size: tuple[int, int],
        config: Any,
    ) -> NDArray[Any] | list[str]:
        """One of these for images of a (height, width), from what they left with, and where."""
        raise NotImplementedError

    def told(self, found: Any, image: Any = None) -> dict[str, Any]:
        """An answer for JSON, beside its exit; with its image also a `picture` to look at, as data URI."""
        raise NotImplementedError

    # Rows of answers --------------------------------------------------------------------

    @abstractmethod
    def places(self, out: Path | None) -> tuple[Path | None, Path | None]:
        """Where rows of answers go, and where pictures of answers do; none: nowhere."""

    @abstractmethod
    def row(self, found: Any, likeliest: int) -> dict[str, Any]:
        """What a row says of an answer, by the fields of `FilePrediction`."""

    @abstractmethod
    def draw(self, found: Any, image: Any, target: Path) -> dict[str, Any]:
        """Write an answer as pictures that begin with a name; the fields of a row that tell where."""

    def document(self, rows: Iterable[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """All rows as one JSON document in a usual format.

        Raises:
            ValueError: there is none.
        """
        raise ValueError(f"answers of {self.name} are no JSON document; give a .csv, .jsonl or .parquet file")

    @abstractmethod
    def columns(self, likeliest: int) -> list[str]:
        """Of a file of rows."""

    @abstractmethod
    def same(self, row: Mapping[str, Any], found: Any) -> str | None:
        """None if a row of a file tells the same as an answer, else both in words."""

    # Records and figures ----------------------------------------------------------------

    @abstractmethod
    def collect(self, network: Any, images: Any, batch_size: int, advance: Callable[[int], Any]) -> Any:
        """Records of all exits on all images."""

    def by_itself(self, records: Any) -> Any:
        """Records of images without truth, as if the full network's answers were true."""
        return records

    @abstractmethod
    def measure(self, records: Any, policy: ExitPolicy) -> Measured:
        """What a policy does on recorded inputs."""

    @abstractmethod
    def evaluate(self, records: Any, policy: ExitPolicy) -> Measured:
        """The same with all that takes longer, such as intervals."""

    @abstractmethod
    def intervals(self, records: Any, policy: ExitPolicy) -> dict[str, tuple[float, float]]:
        """95 % intervals of the metric and of `relative_cost`, by bootstrap over images."""

    @abstractmethod
    def loss(self, records: Any, policy: ExitPolicy) -> Loss:
        """What a policy loses against the full network on the same images."""

    @abstractmethod
    def by_class(self, records: Any, policy: ExitPolicy, class_names: Sequence[str]) -> dict[str, float]:
        """The metric of each class that occurs, by its name."""

    # What a report shows -------------------------------------------------------------------

    counted: ClassVar[str] = "images"
    """What a table of classes counts."""
    pictured: ClassVar[str] = "A dashed red frame: wrong answer."
    """What pictures of answers are."""

    def load_records(self, path: Path) -> Any:
        """Records that were saved; errors as of `eenet.Records.load`."""
        raise NotImplementedError

    def kept_records(self, path: Path, images: Any) -> Any | None:
        """Those that were saved, if they are of as many images with the same truth."""
        raise NotImplementedError

    def exits_shown(self, records: Any, policy: ExitPolicy) -> dict[str, Any]:
        """Of the exits: the metric of each (`exit_quality`) and of the last (`full`). Where a task has them:
        `plain`, that of the last one's own answer; by exit `auroc` of the policy's score,
        `calibration_error` and bins of `reliability`; `oracle`, points of cost and metric."""
        raise NotImplementedError

    def policy_shown(self, records: Any, policy: ExitPolicy) -> dict[str, Any]:
        """Of a policy: the metric's `interval`; `by_class`, see `worst_classes`. Where a task has them:
        `confusion`, see `confusions`; `leaving`, the metric of those that leave at each exit."""
        raise NotImplementedError

    def figures(
        self, records: Any, policy: ExitPolicy, images: Any, members: Sequence[int], network: Any
    ) -> list[dict[str, Any]]:
        """Some images with their answers, see `figure`."""
        raise NotImplementedError
