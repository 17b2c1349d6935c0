"""How long a command takes from the shell's prompt to its answer: the whole process, again and again.

    python -m venv light && light/bin/pip install '.[serve]'
    python benchmarks/startup.py --python light/bin/python

Measures in the environment of another interpreter: commands in turn, again and again; the server from its
start until it has answered; megabytes that the environment holds beside pip. Prints a table, and writes
benchmarks/results/startup-….csv.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
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
SERVE = "serve digits-eenet8, until the first answer"


def run(python: str, words: list[str]) -> float:
    """Seconds of one run of `eenet`, which must succeed."""
    start = time.perf_counter()
    subprocess.run([python, "-m", "eenet", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def serve(python: str, image: Path) -> float:
    """Seconds of the server, from its start to the answer for one image."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "eenet", "serve", "digits-eenet8", "--port", str(port)]
    address, start = f"http://127.0.0.1:{port}", time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    request = urllib.request.Request(f"{address}/classify", image.read_bytes(), method="POST")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                break
        except OSError:
            assert process.poll() is None
            assert time.perf_counter() - start < 60
            time.sleep(0.01)
    seconds = time.perf_counter() - start
    process.terminate()
    process.wait()
    return seconds


def megabytes(python: str) -> float:
    """Of all that is installed beside pip."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    root = Path(done.stdout.strip())
    files = (path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != "pip")
    return sum(path.stat().st_size for path in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment")
    parser.add_argument("--name", default="startup", help="of the file of results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image.png"
        Image.fromarray(np.asarray(data.load("digits", "test").pixels([0])[0, 0])).save(image)
        calls: dict[str, Callable[[], float]] = {
            name: partial(run, given.python, [str(image) if word == "IMAGE" else word for word in words])
            for name, words in COMMANDS.items()
        }
        calls[SERVE] = partial(serve, given.python, image)
        found: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(given.repeats + 1):  # in turn; the first warms caches up
            for name, call in calls.items():
                measured = call()
                if turn:
                    found[name].append(measured)
    rows = [
        {
            "command": name,
            "seconds": round(median(seconds), 3),
            "fastest": round(min(seconds), 3),
            "slowest": round(max(seconds), 3),
        }
        for name, seconds in found.items()
    ]
    print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    print(f"\ninstalled beside pip: {megabytes(given.python):.0f} MB")
    print(write(given.name, rows))


if __name__ == "__main__":
    main()
