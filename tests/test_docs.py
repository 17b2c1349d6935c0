"""The site builds without warnings and needs no network; tutorials run as they are; sentences are short."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import eenet
from eenet.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STEPS = ["start/index", *(f"tutorials/{page}" for page in ("own-photos", "own-network", "budget", "deploy"))]
STEPS += ["tutorials/serve", "tutorials/paper"]
FENCE = re.compile(r"^```(\{code-block\} )?(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MOST_WORDS = 18  # of a sentence, in the middle
SETUP = "pip install"  # a line for the reader's machine, which here has everything


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-b",
        "html",
        str(DOCS),
        str(out),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_needs_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://[^"]+', text), page.name


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    ids = {page: set(re.findall(r'id="([^"]+)"', page.read_text("utf-8"))) for page in site.rglob("*.html")}
    for page in ids:
        for target in re.findall(r'<a[^>]*href="([^"]+)"', page.read_text("utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or there not in ids or anchor in ids[there], f"{page.name}: {target}"


def test_every_verb_and_every_public_name_has_its_place(site: Path) -> None:
    commands = (site / "reference/cli.html").read_text("utf-8")
    assert all(f"eenet {verb}" in commands for verb in VERBS)
    pages = "".join(page.read_text("utf-8") for page in (site / "reference").glob("python-*.html"))
    assert not [name for name in eenet.__all__ if f'id="eenet.{name}"' not in pages]


@pytest.mark.parametrize("page", STEPS)
def test_a_tutorial_runs_as_it_is(page: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Block after block, in a directory that the tutorials share; servers stay up until the page ends."""
    place = tmp_path_factory.getbasetemp() / "tutorials"
    place.mkdir(exist_ok=True)
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    around = {**os.environ, "PATH": bin_first, "EENET_CACHE": str(place / "cache"), "COLUMNS": "100"}
    behind: list[subprocess.Popen[bytes]] = []
    try:
        for code_block, language, text in FENCE.findall((DOCS / f"{page}.md").read_text("utf-8")):
            options, body = "", text
            if code_block:
                options, body = re.match(r"((?::[^\n]*\n)*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
            if name := re.search(r":name: (\S+)", options):
                (place / name[1]).write_text(body)
            elif "background" in options:
                behind.append(subprocess.Popen(body.split(), cwd=place, env=around))
                _wait(body)
            elif language == "python":
                _run([sys.executable, "-c", body], place, around)
            elif SETUP not in body:
                _run([shutil.which("bash") or "bash", "-euo", "pipefail", "-c", body], place, around)
    finally:
        for process in behind:
            process.terminate()
            process.wait(30)


def _run(words: list[str], place: Path, around: dict[str, str]) -> None:
    done = subprocess.run(words, cwd=place, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"


def _wait(command: str) -> None:
    port = re.findall(r"--port (\d+)", command)[0]
    url = f"http://127.0.0.1:{port}/v2/health/ready"
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"not ready: {command}")


@pytest.mark.parametrize("page", ["../README", "index", *STEPS])
def test_sentences_are_short(page: str) -> None:
    text = FENCE.sub("", (DOCS / f"{page}.md").read_text("utf-8"))
    text = re.sub(r"^(```.*?^```|[|!#].*?)$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|`[^`]*`", r"\1x", text)
    sentences = [each.split() for each in re.split(r"(?<=[.:?!])\s+|\n\n|\n- ", text)]
    assert statistics.median(len(words) for words in sentences if len(words) > 1) <= MOST_WORDS
