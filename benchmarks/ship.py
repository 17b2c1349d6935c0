"""Put a trained network into the package: weights rounded to half precision, measured again, a model card.

The network is measured as it will be shipped: on the test split of its data set, with every
policy of its own. Weights with more than one dimension are rounded to float16 unless that
changes accuracy or cost on the validation split by more than 0.001.

    python benchmarks/ship.py runs/cifar10-eenet20 --plain runs/cifar10-plain
    python benchmarks/ship.py src/eenet/pretrained/cifar10-eenet20 --fit-again
"""

import copy
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import tyro
from tyro.conf import Positional

from eenet import EENet, Records, collect, data, policies
from eenet.common import format_table, write_atomically
from eenet.evaluation import measure
from eenet.networks import CARD_FILE, SHIPPED, WEIGHTS_FILE, Config, graph_of, write_config, write_graph
from eenet.policies import RECORDS_FILE
from eenet.training.objectives import trains_confidence
from eenet.training.planning.clocking import QUICK

TOLERANCE = 0.001
ALONE = {"joined": False, "rule": QUICK}
SHOWN_BUDGETS = ("0.150", "0.200", "0.250", "0.300", "0.400", "0.500", "0.600", "0.700", "0.800", "0.900")


def main(
    run: Positional[Path],
    plain: Path | None = None,
    name: str | None = None,
    fit_again: bool = False,
    alone: bool = False,
) -> None:
    """Ship a run.

    Args:
        run: directory of a finished `eenet train`.
        plain: directory of the same with `--plain`; the card says if there is none.
        name: to be known by. Default: the run's directory's.
        fit_again: what is fitted on the validation split, as this version of eenet does it.
        alone: likewise, and each exit answers alone, as `--for latency` has it where that is quicker.
    """
    network = EENet.from_pretrained(run)
    if fit_again or alone:
        refit(network, **(ALONE if alone else {}))
    target = SHIPPED / (name or run.name)
    accuracy = plain_accuracy(plain, target / CARD_FILE)
    rounded = in_half(network)
    before, after = (recorded(n, "validation") for n in (network, rounded))
    policy = network.config.exit_policy()
    was, became = measure(before, policy), measure(after, policy)
    keys = ("accuracy", "relative_cost")
    half = all(abs(getattr(was, key) - getattr(became, key)) <= TOLERANCE for key in keys)
    shipped = rounded if half else network
    shutil.rmtree(target, ignore_errors=True)
    shipped.save_pretrained(target, graph=not half)
    if half:
        weights = {key: narrow(tensor) for key, tensor in shipped.state_dict().items()}
        write_atomically(target / WEIGHTS_FILE, safetensors.torch.save(weights))
        shipped.config.hashes = write_graph(graph_of(shipped), target, [WEIGHTS_FILE])
        write_config(shipped.config, target)
    tested = recorded(EENet.from_pretrained(target), "test")
    card = model_card(shipped, tested, accuracy, "float16" if half else "float32")
    write_atomically(target / CARD_FILE, card.encode())
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.2f} MB, {'float16' if half else 'float32'}")
    print({key: (getattr(was, key), getattr(became, key)) for key in keys})
    print(card)


def refit(network: EENet, **how: Any) -> None:
    """Ensemble, gates and all policies; `how` is for `eenet.policies.fit`."""
    config = network.config
    trained = config.provenance["train_config"]
    budget = None if trains_confidence(trained["objective"]) else trained["budget"]
    network.adopt(policies.fit(recorded(network, "validation"), budget, gate=config.gate, **how))
    config.provenance["fitted_again"] = datetime.now(UTC).date().isoformat()


def narrow(tensor: torch.Tensor) -> torch.Tensor:
    """Norms, biases and gates, which are small, stay as they are."""
    return tensor.half() if tensor.is_floating_point() and tensor.dim() > 1 else tensor


def in_half(network: EENet) -> EENet:
    """A copy with rounded weights."""
    rounded = copy.deepcopy(network)
    rounded.load_state_dict({key: narrow(tensor) for key, tensor in network.state_dict().items()})
    return rounded


def trained_on(config: Config) -> str:
    """The name of a network's data set."""
    return config.provenance["train_config"]["data"]


def recorded(network: EENet, split: str) -> Records:
    """One pass over a split of the data set that a network was trained on."""
    return collect(network, data.load(trained_on(network.config), split))


def model_card(network: EENet, tested: Records, plain: str, precision: str) -> str:
    config, run = network.config, network.config.provenance
    trained = run["train_config"]
    measured = measure(tested, config.exit_policy())
    rows = []
    for budget in sorted(set(SHOWN_BUDGETS) & set(config.budgets)):
        at = measure(tested, config.exit_policy(float(budget)))
        shares = " / ".join(f"{count / at.num_examples:.0%}" for count in at.exit_counts)
        rows.append([budget, f"{at.relative_cost:.3f}", f"{at.accuracy:.2%}", shares])
    budgets = format_table(["budget", "measured cost", "accuracy", "leave at each exit"], rows)
    channels, height, width = config.input_size
    (epochs, seconds), before = config.effort, run.get("before")
    earlier = f", of which {before['epochs']} made `{trained['model']}`, where it began" if before else ""
    versions = ", ".join(f"{key} {value}" for key, value in run["versions"].items())
    when = f"{run['hardware']}, {run['date']}, {versions} |"
    if date := run.get("fitted_again"):
        before = f"early_pull {trained.get('early_pull', 1.0)} and distillation {trained['distillation']}"
        when += (
            f"\n| fitted again | {date}: how exits answer together, gates, thresholds; the weights were "
            f"trained before, with {before} |"
        )
    return f"""---
library_name: eenet
license: apache-2.0
tags: [early-exit, image-classification]
---

# {config.backbone} with {network.num_exits} early exits on {trained["data"]}

| | |
| --- | --- |
| data | {trained["data"]}: trained on the train split without a validation part, which set thresholds |
| images | {channels} × {height} × {width}, {config.num_classes} classes |
| command | `{run["command"]}` |
| seed, epochs | {trained["seed"]}, {epochs}{earlier} |
| time, hardware | {seconds / 60:.0f} minutes, {when}
| weights | {precision}, {sum(p.numel() for p in network.parameters()):,} parameters |
| MACs of the plain backbone | {config.backbone_macs:,} |

## Measured on {measured.num_examples:,} test images

The plain backbone, trained without exits by the same recipe and seed: {plain}.

{measured}

With other budgets (`--budget`):

{budgets}

Relative cost is MACs spent per image, exit heads included, divided by those of the plain backbone.

## Limits

It knows only its {config.num_classes} classes ({", ".join(config.class_names or [])}) and answers
with one of them whatever it is shown. Thresholds were set for images like those it was trained on; on others
(noise, blur, another camera) accuracy and cost change, and confidences promise too much. One seed, and no
other was tried. For studying and trying out early exits, not for decisions about people.
"""


def plain_accuracy(run: Path | None, card: Path) -> str:
    """From the records of a plain run, or as the card said so far."""
    if run is None:
        known = re.search(r"recipe and seed: (\*\*.*?\*\*)\.", card.read_text() if card.exists() else "")
        return known[1] if known else "not trained yet"
    return f"**{Records.load(run / RECORDS_FILE.format(split='test')).full_accuracy:.2%}**"


if __name__ == "__main__":
    tyro.cli(main)
