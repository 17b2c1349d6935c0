"""`benchmarks/results/{scale,fleet}-*.csv` of this hardware → `docs/results/scale.md`.

python benchmarks/scale_page.py
"""

from pathlib import Path

import pyarrow
import ray
import results

from eenet.common import format_table, hardware

FILE = Path(__file__).parents[1] / "docs/results/scale.md"
CHECKPOINT = "cifar10-eenet56"


def main() -> None:
    """Write the page."""
    bulk = {row["way"]: row for row in results.read("scale-bulk")}
    rates = [float(bulk[way]["images a second, without the start"]) for way in ("Ray", "by hand")]
    plan = results.read(f"fleet-plan-{CHECKPOINT}")
    given = {name: table(results.read(f"scale-{name}")) for name in NAMES}
    page = PAGE.format(
        machine=f"{hardware()}, Ray {ray.__version__}, Arrow {pyarrow.__version__}",
        ratio=f"{rates[0] / rates[1]:.2f}",
        validate=table(results.read(f"fleet-validate-{CHECKPOINT}")),
        at_once=table([row for row in plan if row["images"] == "all at once"], without=("images",)),
        in_bursts=table([row for row in plan if row["images"] == "in bursts"], without=("images",)),
        **given,
    )
    FILE.write_text(page)


def table(rows: list[dict[str, str]], without: tuple[str, ...] = ()) -> str:
    """Columns that are empty in all rows are left out."""
    if not rows:
        return "Not measured yet."
    keys = [key for key in rows[0] if key not in without and any(row[key] for row in rows)]
    return format_table(keys, [[row[key] for key in keys] for row in rows])


NAMES = ("equal", "bulk", "memory", "stages", "faults", "load", "killed", "rolled", "nodes")
PAGE = """# Many machines

What [`eenet batch` and Ray Serve](../how-to/scale.md) do, and what a simulator says of larger fleets. Made
by `python benchmarks/scale_page.py` from CSVs in `benchmarks/results`.

{machine}: one machine with two processors. No cluster and no GPU were there. `cifar10-eenet56` under its
own policy on ONNX Runtime, unless another network is named. Other programs ran on the machine now and then:
compare what stands in one table, and take rates as what was reached, not as what can be.

## The same answers

`python benchmarks/scale.py --parts equal`: training images of CIFAR-10, by Ray from a parquet file, by
`eenet predict` from files.

{equal}

## Against processes run by hand

`python benchmarks/scale.py --parts bulk`: `eenet batch --by network --workers 2`, and two processes of
`eenet.Predictor` with one thread and half of the images each, in turn; medians. *Without the start*: what
the last two thirds of the images took.

{bulk}

Once it runs, Ray has {ratio} times the rate of processes run by hand. *Other rows*: with another label or
exit. Few images are better labelled by `eenet predict`, which has no such start.

## Memory

`python benchmarks/scale.py --parts memory`: the object store may hold much less than what goes through it.

{memory}

What the store holds stays below what it may hold. By stage the features of images that go on lie there too;
what doesn't fit goes to disk.

## By stage against by network

`python benchmarks/scale.py --parts stages`: a ResNet-50 with random weights and three exits, images of 224
pixels, thresholds that let a quarter come to the last segment.

{stages}

Where all segments share the same two processors, fuller batches of the last segment don't make up for
features that are handed on: by stage is slower here. It is for segments on machines of different kinds.

## What is killed

`python benchmarks/scale.py --parts faults`: a worker is killed by its process id when the first part is
there; the whole command is killed after a third of the parts, and given again with `--resume`. Rows are
compared with those of `eenet.Predictor`.

{faults}

## Ray Serve

`python benchmarks/scale_serving.py --parts load`: clients on the same machine, each waiting for its
answer; requests of one image; two replicas of every deployment.

{load}

`--parts killed`: under the load of eight threads of NVIDIA's `tritonclient` a replica is killed by its
process id. What fails is sent again. Answers are compared with those of `eenet.Predictor`.

{killed}

`--parts rolled`: the application is deployed again, with other arguments, under the same load.

{rolled}

## Training on two nodes

`python benchmarks/nodes.py`: `torchrun --nnodes 2` with gloo on two loopback addresses, against one process.

{nodes}

## The simulator against reality

`python benchmarks/fleet.py`: segments are timed alone, in batches of several sizes. What Ray takes is timed
by runs whose workers sleep while networks would run. Both in turn with real runs of `eenet batch`, two
workers. The simulator is given these times and the shares of exits. Compared is the work of processors.

{validate}

Means of two turns, nothing else on the machine. Single turns were up to 9 % off. What was wrong before:
[lab notes](../development/lab-notes.md).

## Fleets

The same simulator with these times, machines with one processor each.

All images are there from the start. One process collects the answers of a job; its limit isn't simulated.

{at_once}

Requests in bursts of four times the mean rate, which is 0.6 of the lower capacity. They bring pixels.

{in_bursts}

## Where to go next

- How to use it: [many machines](../how-to/scale.md).
- A tutorial: [many machines, step by step](../tutorials/many-machines.md).
"""


if __name__ == "__main__":
    main()
