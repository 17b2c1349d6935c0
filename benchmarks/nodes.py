"""Training on two machines, as far as one shows it: a launcher for each, on a loopback address of its own.

    EENET_DATA=... python benchmarks/nodes.py

Trains the same network alone, and on two "nodes"; there once without a stop, and once with one process killed
and all resumed. Tells how far losses are apart. Writes benchmarks/results/scale-nodes-….csv.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results
import tyro

from eenet.common import format_table
from eenet.training.state import METRICS_FILE

SCRIPT = """
import os, sys
from pathlib import Path
import eenet
from eenet import data

out, resume = Path(sys.argv[1]), "--resume" in sys.argv
out.with_suffix(".pid").write_text(str(os.getpid()))
size = (32, 32)
images = {split: data.load("digits", split, size=size).subset(range(130)) for split in data.SPLITS}
settings = {"num_exits": 1, "head": "pool", "precision": "fp32", "batch_size": 24, "save_every": 0.0}
config = eenet.TrainConfig("digits", "test_convnext", budget=0.9, epochs=5, **settings)
print(eenet.train(config, out, images=images, resume=resume).num_examples)
"""  # neither backbone nor heads have a BatchNorm; 130 images don't fill the last batch of 24


def start(outs: list[Path], *words: str) -> list[subprocess.Popen[str]]:
    """A launcher for each directory, on a loopback address of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = outs[0].with_suffix(".py")
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launched = []
    for rank, out in enumerate(outs):
        node = ["--nnodes", str(len(outs)), "--node-rank", str(rank), "--local-addr", f"127.0.0.{rank + 1}"]
        place = ["--master-addr", "127.0.0.1", "--master-port", port, "--nproc-per-node", "1"]
        command = [sys.executable, "-m", "torch.distributed.run", *node, *place, script, out, *words]
        pipe = subprocess.PIPE
        launched.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    return launched


def ended(launched: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes, and what was said on stderr."""
    found = []
    for process in launched:
        _, said = process.communicate(timeout=200)
        found.append((process.returncode, said))
    return found


def losses(out: Path) -> list[float]:
    """Of each epoch."""
    return [json.loads(line)["loss"] for line in (out / METRICS_FILE).read_text().splitlines()]


def kill_after_an_epoch(launched: list[subprocess.Popen[str]], here: Path, there: Path) -> None:
    """The process that trains in `there`, as soon as the other one has written what an epoch gave."""
    while not (here / METRICS_FILE).exists():
        assert all(process.poll() is None for process in launched)
        time.sleep(0.01)
    os.kill(int(there.with_suffix(".pid").read_text()), signal.SIGKILL)


def compared() -> Iterator[dict[str, Any]]:
    """Losses of two nodes, without a stop and after one, beside those of one process."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        alone, here, there, stopped, other = (home / name for name in ("alone", "a", "b", "c", "d"))
        runs = [start([alone]), start([here, there])]
        for code, said in [each for run in runs for each in ended(run)]:
            assert code == 0, said
        launched = start([stopped, other])
        kill_after_an_epoch(launched, stopped, other)
        assert all(code != 0 for code, _ in ended(launched))
        for code, said in ended(start([stopped, other], "--resume")):
            assert code == 0, said
        expected = losses(alone)
        for name, out in (("without a stop", here), ("one process killed, all resumed", stopped)):
            found = losses(out)
            apart = max(abs(one - two) for one, two in zip(found, expected, strict=True))
            yield {"two nodes": name, "epochs": len(found), "losses apart, at most": f"{apart:.1e}"}


def main() -> None:
    """Train, compare, write."""
    rows = list(compared())
    print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(results.write("scale-nodes", rows))


if __name__ == "__main__":
    tyro.cli(main)
