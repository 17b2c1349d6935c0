"""Users' own parts by name: what is refused, and with which words."""

import sys
from pathlib import Path

import pytest

import eenet
from eenet.common.registry import Registry, import_plugin
from eenet.tasks.classification.heads import HEADS


def test_names_are_unique_and_near_ones_are_suggested() -> None:
    registry: Registry = Registry("test-thing", "thing")

    @registry.add()
    def first() -> int:
        return 1

    @registry.add("second", special=True)
    def other() -> int:
        return 2

    assert [registry[name]() for name in registry] == [1, 2]
    assert (registry.mark("first", "special"), registry.mark("second", "special")) == (False, True)
    with pytest.raises(ValueError, match="thing 'second' is taken by"):
        registry.add("second")(first)
    with pytest.raises(ValueError, match="unknown thing 'secnd'; choose from second"):
        registry["secnd"]
    assert "third" not in registry
    assert registry.origin("first") == __name__


def test_a_module_may_be_loaded_again() -> None:
    registry: Registry = Registry("test-again", "thing")

    def make(value: int):
        def part() -> int:
            return value

        return part

    registry.add()(make(1))
    registry.add()(make(2))
    assert registry["part"]() == 2


def test_register_knows_its_kinds() -> None:
    with pytest.raises(ValueError, match=r"unknown kind 'haed'; choose from .*head"):
        eenet.register("haed")
    with pytest.raises(ValueError, match="exit head 'pool' is taken by eenet"):
        eenet.register("head", "pool")(lambda size: size)
    assert HEADS.origin("pool") is None


def test_a_plugin_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "broken_plugin.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="can't import 'broken_plugin': division by zero"):
        import_plugin("broken_plugin")
    with pytest.raises(ValueError, match="can't import 'no_such_plugin'"):
        import_plugin("no_such_plugin")
