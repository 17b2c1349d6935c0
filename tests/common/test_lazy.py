"""What isn't installed is said in a line; what is broken is not called missing."""

import sys

import pytest

from eenet.common import require


def test_a_library_that_is_there() -> None:
    assert require("json.decoder", "reading") is sys.modules["json.decoder"]


@pytest.mark.parametrize(
    ("module", "name"), [("sklearn.datasets", "scikit-learn"), ("torch", "torch"), ("scipy.io", "scipy")]
)
def test_one_that_is_not(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = module.partition(".")[0]
    for known in [*sys.modules]:
        if known.partition(".")[0] == library:
            monkeypatch.setitem(sys.modules, known, None)
    with pytest.raises(ValueError, match=rf"^drawing needs {name}; pip install 'eenet\[train\]'$"):
        require(module, "drawing")
    with pytest.raises(ValueError, match=r"pip install 'eenet\[serve\]'$"):
        require(module, "drawing", "serve")


def test_a_library_that_lacks_another(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import what_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_is_not_there"):
        require("needs_more", "drawing")
