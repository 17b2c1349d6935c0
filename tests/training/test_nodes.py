"""Two machines, each with its launcher, address and disk: equal to one process, and ended by each other."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eenet.training.state import METRICS_FILE, STATE_FILE

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
    return [json.loads(line)["loss"] for line in (out / METRICS_FILE).read_text().splitlines()]


def test_two_nodes(tmp_path: Path) -> None:
    alone, here, there = (tmp_path / name for name in ("alone", "here", "there"))
    for code, said in ended(start([alone])):
        assert code == 0, said
    launched = start([here, there])
    while not (here / METRICS_FILE).exists():
        assert all(process.poll() is None for process in launched)
        time.sleep(0.01)
    os.kill(int(there.with_suffix(".pid").read_text()), signal.SIGKILL)
    assert all(code != 0 for code, _ in ended(launched)), "both end"
    assert (here / STATE_FILE).exists()
    assert not (there / STATE_FILE).exists(), "one process writes"
    assert len(losses(here)) < len(losses(alone))
    fewer = tmp_path / "fewer"
    shutil.copytree(here, fewer)
    for code, said in ended(start([here, there], "--resume")):
        assert code == 0, said
    ((code, said),) = ended(start([fewer], "--resume"))
    assert code == 0, said
    assert "the number of processes was 2, is 1" in said
    expected = losses(alone)
    assert losses(here) == pytest.approx(expected, abs=1e-5)
    assert losses(fewer) == pytest.approx(expected, abs=1e-5)
