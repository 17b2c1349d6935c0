"""Killed without warning at any moment, a run is taken up again and ends with the same weights."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from eenet.cli import main
from eenet.networks import network
from eenet.training import state as training_state
from eenet.training.recipes import RECIPES

EPOCHS, STEPS, SAVE_STEPS = 2, 71, 10
STATE, METRICS, WEIGHTS = "training_state.pt", "metrics.jsonl", "model.safetensors"

# Every run is a process of its own, forked from one that has done the slow imports.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["eenet.cli", "eenet.training.run"])


def eenet_train(out: Path, resume: bool, dies_writing: tuple[str, int] | None) -> None:
    """`eenet train digits`, saving as often as it can."""
    config = replace(RECIPES["digits"].config, batch_size=16, save_every=0)
    RECIPES["digits"] = replace(RECIPES["digits"], config=config)
    if dies_writing is not None:
        die_in_a_write(*dies_writing)
    tiny = ["--model", "resnet8_w4_cifar", "--num-exits", "2", "--epochs", str(EPOCHS)]
    sys.exit(main(["train", "digits", *tiny, "--out", str(out), *(["--resume"] if resume else [])]))


def die_in_a_write(name: str, count: int) -> None:
    """Of the file `name`, the `count`th time: half of it has reached the disk, then comes SIGKILL."""
    left, write = count, network.write_atomically

    def killed(file: int) -> None:
        os.ftruncate(file, os.fstat(file).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(path: Path, content: bytes) -> None:
        nonlocal left
        left -= path.name == name
        if not left:
            os.fsync = killed
        write(path, content)

    network.write_atomically = training_state.write_atomically = dying


def start(out: Path, *, resume: bool = False, dies_writing: tuple[str, int] | None = None) -> BaseProcess:
    process = forked.Process(target=eenet_train, args=(out, resume, dies_writing))
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def step_saved(out: Path) -> tuple[int, int]:
    """The epoch and the step within it from which a resumed run would go on."""
    if not (out / STATE).exists():
        return 0, 0
    state = torch.load(out / STATE, weights_only=True)
    return state["epoch"], state["step"]


def wait_for(ready: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("interruption") / "unbroken"
    assert ended(start(out)) == 0
    return out


def assert_same_result(out: Path, unbroken: Path) -> None:
    assert (out / WEIGHTS).read_bytes() == (unbroken / WEIGHTS).read_bytes()
    lines, expected = (
        [json.loads(line) for line in (run / METRICS).read_text().splitlines()] for run in (out, unbroken)
    )
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert [line["validation"] for line in lines] == [line["validation"] for line in expected]


def test_killed_at_three_random_moments(unbroken: Path, tmp_path: Path) -> None:
    out, seed = tmp_path / "run", random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(SAVE_STEPS, EPOCHS * STEPS - 4 * SAVE_STEPS), 3))
    delays = [chance.uniform(0, 0.03) for _ in moments]
    print(f"seed {seed}: killed {delays} seconds after steps {moments} were saved")  # shown on failure
    for moment, delay in zip(moments, delays, strict=True):
        process = start(out, resume=moment != moments[0])
        wait_for(lambda moment=moment: step_saved(out) >= divmod(moment, STEPS), process)
        time.sleep(delay)
        process.kill()
        assert ended(process) == -signal.SIGKILL
        print(f"resumed from {step_saved(out)}")
    assert ended(start(out, resume=True)) == 0
    assert_same_result(out, unbroken)


def test_killed_between_saves_of_one_epoch(unbroken: Path, tmp_path: Path) -> None:
    """Stopped, looked at, and killed only when the state saved last is from within an epoch."""
    out = tmp_path / "run"
    process = start(out)
    assert process.pid is not None
    while True:
        wait_for(lambda: step_saved(out)[1] > 0, process)
        os.kill(process.pid, signal.SIGSTOP)
        epoch, step = step_saved(out)
        if step:
            break
        os.kill(process.pid, signal.SIGCONT)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert step_saved(out) == (epoch, step)
    assert 0 < step < STEPS
    assert ended(start(out, resume=True)) == 0
    assert_same_result(out, unbroken)


@pytest.mark.parametrize(
    ("dies_writing", "saved"),
    [
        ((STATE, 4), (0, 3 * SAVE_STEPS)),  # within the first epoch
        ((METRICS, EPOCHS), None),
        ((WEIGHTS, 1), (EPOCHS, 0)),
    ],
    ids=["state", "metrics", "weights"],
)
def test_killed_within_a_write(
    dies_writing: tuple[str, int], saved: tuple[int, int] | None, unbroken: Path, tmp_path: Path
) -> None:
    out, (name, _) = tmp_path / "run", dies_writing
    assert ended(start(out, dies_writing=dies_writing)) == -signal.SIGKILL
    assert list(out.glob(f".{name}*")), "not killed within the write"
    assert saved is None or step_saved(out) == saved  # the older state is whole
    assert ended(start(out, resume=True)) == 0
    assert_same_result(out, unbroken)
    assert not list(out.glob(".*"))
