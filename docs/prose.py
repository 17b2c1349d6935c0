"""How long sentences are, and whether a page has lost a figure: `python docs/prose.py`.

Prints for every page the number of sentences, the median and the longest in words, and whether the page ends
with where to go next. With `--since COMMIT` it prints what stood in the pages of that commit and stands
nowhere now: figures, and words in the style of code.
"""

import argparse
import re
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_WORDS = 18  # the median of a page
GENERATED = ("cli", "python-")
NOT_PROSE = re.compile(
    r"^(?:```|~~~).*?^(?:```|~~~)$"  # code, figures
    r"|^\{.*?\}$|^[|!#:].*?$"  # attributes, tables, pictures, headings, options
    r"|^ {4,}\S.*?$|^\$\$.*?\$\$$|<!--.*?-->",
    re.MULTILINE | re.DOTALL,
)


def pages() -> Iterator[Path]:
    """The README, and every page of the site that is written by hand or by a benchmark."""
    yield ROOT / "README.md"
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if "_build" not in path.parts and not path.stem.startswith(GENERATED):
            yield path


def sentences(page: str) -> list[list[str]]:
    """Sentences of a page in Markdown, as words. A link or a piece of code is one word."""
    text = NOT_PROSE.sub("", page)
    text = re.sub(r"`[^`]*`|\$[^$]*\$|<[^>]*>", "x", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    found = re.split(r"(?<=[.?!])\)?\s+|\n\n", text)
    return [words for each in found if len(words := each.split()) > 1]


def median_length(page: str) -> float:
    """The median sentence of a page in Markdown, in words; 0 without any sentence."""
    return statistics.median([len(words) for words in sentences(page)] or [0])


def facts(page: str) -> set[str]:
    """Figures with two digits or more, and code: what must not get lost when a page is written anew."""
    figures = re.findall(r"(?<![\w.])\d[\d,]*\.?\d+(?![\w])", page)
    code = (re.sub(r"\s+", " ", each) for each in re.findall(r"`([^`\n]+)`", page))
    return {each.replace(",", "") for each in figures} | set(code)


def lost(since: str) -> Iterator[tuple[str, list[str]]]:
    """By page of an older commit, the facts that stand nowhere in the repository's pages today."""
    today = " ".join(re.sub(r"\s+", " ", path.read_text("utf-8")) for path in pages())
    plain = today.replace(",", "")
    listed = _git("ls-tree", "-r", "--name-only", since, "README.md", "docs").splitlines()
    for name in (each for each in listed if each.endswith(".md")):
        missing = [each for each in facts(_git("show", f"{since}:{name}")) if each not in plain + today]
        if missing:
            yield name, sorted(missing)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print a line for each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--since", help="a commit whose facts are looked for")
    parser.add_argument("--longest", action="store_true", help="print the longest sentence of each page")
    options = parser.parse_args()
    for path in pages():
        text = path.read_text("utf-8")
        found = sorted(sentences(text), key=len)
        most = f"{len(found[-1]):4}" if found else "   -"
        print(f"{path.relative_to(ROOT)!s:42}{len(found):5}{median_length(text):6.1f}{most}")
        if options.longest and found:
            print("    " + " ".join(found[-1]))
    for name, missing in lost(options.since) if options.since else ():
        print(f"{name}: {' · '.join(missing)}")


if __name__ == "__main__":
    main()
