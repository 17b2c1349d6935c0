"""Two machines, each with its launcher, address and disk: equal to one process, and ended by each other."""

import shutil
from pathlib import Path

import pytest
from nodes import ended, kill_after_an_epoch, losses, start

from eenet.training.state import STATE_FILE


def test_two_nodes(tmp_path: Path) -> None:
    alone, here, there = (tmp_path / name for name in ("alone", "here", "there"))
    for code, said in ended(start([alone])):
        assert code == 0, said
    launched = start([here, there])
    kill_after_an_epoch(launched, here, there)
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
