"""`eenet.json`: what `eenet export` tells other programs, and the hashes of all that it wrote."""

import hashlib
import json
from pathlib import Path
from typing import Any

from eenet.common import say, sha256, write_atomically
from eenet.networks.config import Config
from eenet.networks.directories import CONFIG_FILE, GRAPH_FILE
from eenet.policies import ExitPolicy

MANIFEST_FILE = "eenet.json"
FORMAT_VERSION = 2
READABLE = (1, 2)  # the first, of eenet 0.1, has no hashes
OWN = (CONFIG_FILE, GRAPH_FILE)  # by which eenet runs the network, see `StoredNetwork`
NEVER = 3e38  # a threshold that no score is above: JSON has no infinity


def read_manifest(directory: Path) -> dict[str, Any]:
    """What an exported directory says of itself; its files are checked.

    Raises:
        FileNotFoundError: it holds no manifest, or a file is missing.
        ValueError: the manifest is damaged, edited or of another version, or a file isn't as it was written.
    """
    path = directory / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {directory} was not written by `eenet export`")
    try:
        manifest = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version not in READABLE:
        raise ValueError(
            f"{path}: 'format_version' is {version!r}; this eenet reads {' and '.join(map(str, READABLE))}"
        )
    if version == 1:
        return manifest
    if manifest.get("digest") != _digest(manifest):
        raise ValueError(
            f"{path} was edited since it was written; thresholds are set with `eenet calibrate {directory}`"
        )
    check_hashes(directory, manifest["hashes"])
    return manifest


def write_manifest(manifest: dict[str, Any], directory: Path) -> None:
    """Write it, with the hashes of the files that it names, and of eenet's own, as they are now."""
    names = [*manifest["files"], *(name for name in OWN if (directory / name).is_file())]
    manifest = {**manifest, "hashes": {name: sha256(directory / name) for name in names}}
    manifest["digest"] = _digest(manifest)
    write_atomically(directory / MANIFEST_FILE, (json.dumps(manifest, indent=2) + "\n").encode())


def follow(config: Config, directory: Path) -> None:
    """Bring the thresholds that other programs read up to date with the network's own policy."""
    manifest = json.loads((directory / MANIFEST_FILE).read_text())
    policy, stages = config.exit_policy(), manifest["stages"]
    exits = [stage["exit"] for stage in stages[:-1]]
    if policy.score != manifest["score"] or any(on and k not in exits for k, on in enumerate(policy.enabled)):
        say(
            f"other programs keep the thresholds that {directory} was exported with: the new policy compares "
            "another score, or uses an exit that the exported stages don't have; export again for them"
        )
    else:
        for k, stage in zip(exits, stages, strict=False):
            stage["threshold"] = policy.thresholds[k] if policy.enabled[k] else NEVER
        manifest["budgets"] = thresholds_by_budget(config.budgets, policy, exits)
    write_manifest(manifest, directory)


def thresholds_by_budget(
    budgets: dict[str, dict[str, Any]], policy: ExitPolicy, exits: list[int]
) -> dict[str, list[float]]:
    """At the exits that stages end with, for the budgets whose policies use the same score and exits."""
    found = {}
    for budget, values in budgets.items():
        other = ExitPolicy.from_dict(values, len(policy.thresholds))
        if (other.score, other.enabled) == (policy.score, policy.enabled):
            found[budget] = [other.thresholds[k] for k in exits]
    return found


def check_hashes(directory: Path, hashes: dict[str, str]) -> None:
    """Whether files are as they were written.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is not.
    """
    for name, wanted in hashes.items():
        path = directory / name
        if Path(name).name != name:
            raise ValueError(f"{directory}: the file {name!r} would lie outside of it")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if sha256(path) != wanted:
            raise ValueError(f"{path} is damaged, or was changed by something else than eenet")


def _digest(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
