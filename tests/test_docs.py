"""The site builds without warnings and needs no network; tutorials run as they are; sentences are short."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import prose
import pytest
from playwright.sync_api import Page

import eenet
from eenet.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STEPS = [
    "start/index",
    *(f"tutorials/{page}" for page in ("own-photos", "own-network", "segment", "budget", "deploy")),
]
STEPS += [
    "tutorials/serve",
    "tutorials/detect",
    "tutorials/many-machines",
    "tutorials/paper",
    "how-to/python",
]
FENCE = re.compile(r"^```(\{code-block\} )?(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
A_SCREEN = 25  # lines
LOGS = ("lab-notes", "decisions")  # newest last
SETUP = "pip install"  # a line for the reader's machine, which here has everything


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html"]
    done = subprocess.run(
        [sys.executable, *words, str(DOCS), str(out)], capture_output=True, text=True, check=False
    )
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
    assert "Parameters" in pages.partition('id="eenet.batch"')[2].partition("<section")[0]


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


@pytest.mark.parametrize("path", list(prose.pages()), ids=lambda path: path.stem)
def test_sentences_are_short(path: Path) -> None:
    """Notes and decisions, in the order they were made, are left as they were written."""
    if path.stem not in LOGS:
        assert prose.median_length(path.read_text("utf-8")) <= prose.MOST_WORDS


def test_lengths_are_counted_by_hand() -> None:
    page = (
        "# Title\n\nOne two `three four`. Five:\nsix?\n\n- seven [eight nine](there.md)\n\n| not | this |\n"
    )
    assert [len(words) for words in prose.sentences(page)] == [3, 2, 3]
    assert prose.median_length(page) == 3
    assert prose.facts("at 98.5 % by `eenet eval`, 10,000 of 3") == {"98.5", "10000", "eenet eval"}


def test_pages_say_where_to_go_next() -> None:
    for path in prose.pages():
        if path.parent.parent == DOCS and path.stem not in LOGS:
            assert "\n## Where to go next\n" in path.read_text("utf-8"), path


def test_a_picture_comes_early() -> None:
    lines = (DOCS.parent / "README.md").read_text("utf-8").splitlines()
    assert next(number for number, line in enumerate(lines) if line.startswith("![")) < A_SCREEN


def test_search_works_from_files(site: Path, page: Page) -> None:
    """As opened from a disk: no server, no network connection, no error."""
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto(f"{(site / 'search.html').as_uri()}?q=threshold")
    page.wait_for_selector("ul.search li a")
    found = page.locator("ul.search li a").all_inner_texts()
    assert "Thresholds" in found
    assert not failed
