"""What a policy does on images unlike those it was calibrated on."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from eenet import records as recording
from eenet.corruptions import CORRUPTIONS, corrupt
from eenet.diagnostics import expected_calibration_error
from eenet.evaluation import decide, evaluate
from eenet.image_sets import Images, ImageSet
from eenet.network import EENet
from eenet.policies import ExitPolicy
from eenet.records import Records

MOST_IMAGES = 2000


def under_corruptions(
    network: EENet,
    policy: ExitPolicy,
    images: Images,
    *,
    names: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = (1, 3, 5),
    most: int = MOST_IMAGES,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure a policy on clean images, then under each corruption and severity.

    Args:
        network: whose policy it is.
        policy: stays as it was calibrated.
        images: not those it was calibrated on.
        names: see `eenet.corruptions.CORRUPTIONS`.
        severities: 1 to 5.
        most: images, taken at even distances.
        on_progress: called with 1 after every row.

    Yields:
        Rows with `corruption` ("none" for the first), `severity`, and those of `describe`.

    Raises:
        ValueError: unknown corruption or severity, or images that don't fit the network.
    """
    step = max(1, -(-len(images) // most))
    rows = list(range(0, len(images), step))
    clean = ImageSet(images.pixels(rows), images.labels_B[rows], images.class_names)
    cases = [("none", 0), *((name, severity) for name in names for severity in severities)]
    for name, severity in cases:
        damaged = clean
        if severity:
            damaged = ImageSet(corrupt(clean.pixels_BCHW, name, severity), clean.labels_B, clean.class_names)
        found = describe(recording.collect(network, damaged), policy)
        yield {"corruption": name, "severity": severity, **found}
        if on_progress is not None:
            on_progress(1)


def describe(records: Records, policy: ExitPolicy) -> dict[str, Any]:
    """What counts under shift.

    Returns:
        `num_examples`, `accuracy`, `relative_cost`, `full_accuracy`; `excess_error`, accuracy of the full
        network minus the policy's; `disagreement`, inputs with another answer than the full
        network's; `exit_shares`; `calibration_error` of the answers given.
    """
    measured, exits_B = evaluate(records, policy), decide(records, policy)
    answers_KBN = records.answers(policy.enabled)
    answers_BN = answers_KBN.gather(0, exits_B[None, :, None].expand(1, -1, answers_KBN.shape[2]))[0]
    right_B = answers_BN.argmax(1) == records.labels_B
    other_B = answers_BN.argmax(1) != records.answers()[-1].argmax(1)
    return {
        **{key: measured[key] for key in ("num_examples", "accuracy", "relative_cost", "full_accuracy")},
        "excess_error": measured["full_accuracy"] - measured["accuracy"],
        "disagreement": other_B.double().mean().item(),
        "exit_shares": [count / len(records) for count in measured["exit_counts"]],
        "calibration_error": expected_calibration_error(answers_BN, right_B),
    }
