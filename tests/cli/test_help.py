"""What help says: in a reader's words, within the terminal, of the verb that was asked for."""

import pytest

from eenet.cli import VERBS, main


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("columns", [60, 100])
def test_help_is_readable(
    verb: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: eenet {verb}" in shown
    for word in ("{None}", "(default: None)", "(default: )", "STR", "[INT"):
        assert word not in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_no_other_verb_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    """The objective of `calibrate` is another thing than that of `train`."""
    for words in ("sweep digits --objective v2", "train digits --risk 3", "predict x --data y"):
        assert main(words.split()) == 2
        said = capsys.readouterr().err
        assert not any(f"eenet {verb}" in said for verb in VERBS)
        assert said.count("\n") == 1


def test_every_verb_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"• {verb} " in shown for verb in VERBS)
    assert "--import MODULE" in shown
    assert main([]) == 2


def test_modules_to_import_are_taken_out_of_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--import", "json", "--json", "--import=csv"]) == 0
    capsys.readouterr()
    for words, message in (
        ("list --import", "needs the name"),
        ("list --import no_such_module", "no_such_module"),
    ):
        assert main(words.split()) == 2
        assert message in capsys.readouterr().err
