"""How long a command takes from the shell's prompt to its answer: the whole process, again and again.

python benchmarks/startup.py            # prints a table, writes benchmarks/results/startup-….csv
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image
from results import write

from eenet import data
from eenet.common import format_table

COMMANDS = {
    "--version": ["--version"],
    "--help": ["--help"],
    "train --help": ["train", "--help"],
    "list": ["list"],
    "info digits-eenet8": ["info", "digits-eenet8"],
    "predict digits-eenet8 IMAGE": ["predict", "digits-eenet8", "IMAGE"],
    "predict cifar10-eenet56 IMAGE": ["predict", "cifar10-eenet56", "IMAGE"],
}


def seconds(words: list[str]) -> float:
    """One run of `eenet`, which must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "eenet", *words], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image.png"
        Image.fromarray(data.load("digits", "test").pixels(0)[0, 0]).save(image)
        commands = {
            name: [str(image) if word == "IMAGE" else word for word in words]
            for name, words in COMMANDS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(repeats + 1):  # in turn; the first run warms caches up
            for name, words in commands.items():
                found = seconds(words)
                if run:
                    times[name].append(found)
    rows = [
        {
            "command": name,
            "seconds": round(median(t), 3),
            "fastest": round(min(t), 3),
            "slowest": round(max(t), 3),
        }
        for name, t in times.items()
    ]
    print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(f"\n{write('startup', rows)}")


if __name__ == "__main__":
    main()
