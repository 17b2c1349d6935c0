"""Ray Data for real: the same answers either way, after a killed worker, after a killed driver."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from light import HEAVY, run_light
from pyarrow import parquet
from ray.data.expressions import col
from ray_cases import write_digits
from watching import actors, raylet_of

import eenet
from eenet.cli import main
from eenet.scale import answers, predict
from eenet.scale.session import ray_data_library, session

CHECKPOINT = "digits-eenet8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_digits(folder, 150)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images many times over, in groups of 500 rows."""
    contents = [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.iterdir())] * 40
    path = tmp_path_factory.mktemp("tables") / "images.parquet"
    rows = pa.table({"id": list(range(len(contents))), "image": contents})
    parquet.write_table(rows, path, row_group_size=500)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[dict[str, Any]]:
    """What `eenet predict` says."""
    return [row.to_dict() for row in eenet.predict(CHECKPOINT, folder)]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with session(cpus=2) as ray:
        yield ray


def read(out: Path) -> list[dict[str, Any]]:
    return pa.concat_tables(map(parquet.read_table, sorted(out.glob("part-*")))).to_pylist()


def check(rows: list[dict[str, Any]], expected: list[dict[str, Any]], *, named: bool = True) -> None:
    """In order, each once."""
    assert len(rows) % len(expected) == 0
    for i, row in enumerate(rows):
        wanted = expected[i % len(expected)]
        assert [row["label"], row["exit"]] == [wanted.get("label"), wanted.get("exit")]
        assert (row["error"] is None) == ("error" not in wanted)
        if row["error"] is None:
            assert row["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
            assert row["relative_cost"] == pytest.approx(wanted["relative_cost"])
        if named:
            assert row["file"] == wanted["file"]
            assert row["error"] == wanted.get("error")


def test_a_folder(ray: Any, folder: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:  # noqa: ARG001
    found = predict(folder, CHECKPOINT, out=tmp_path, workers=2, rows=100, by="network")
    assert (found.images, found.failed, found.resumed, found.by, found.workers) == (151, 1, 0, "network", 2)
    check(read(tmp_path), expected)
    exits = [row["exit"] for row in expected if "exit" in row]
    assert found.exit_counts == [exits.count(k) for k in range(len(found.exit_counts))]
    costs = [row["relative_cost"] for row in expected if "exit" in row]
    assert found.relative_cost == pytest.approx(np.mean(costs))
    again = predict(folder, CHECKPOINT, out=tmp_path, rows=100, resume=True)
    assert (again.images, again.resumed, again.by, again.images_per_second) == (151, 151, None, None)
    assert again.exit_counts == found.exit_counts


def test_by_stage(ray: Any, table: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:  # noqa: ARG001
    """Also what is written as CSV, and a column that is copied. Images that stay run in larger batches."""
    found = {}
    for by in ("network", "stage"):
        words = ["--by", by, "--key", "id", "--top-k", "2", "--json"]
        code = main(["batch", str(table), str(tmp_path / by), CHECKPOINT, *words])
        assert code == 1, "40 rows hold no image"
        rows = read(tmp_path / by)
        check(rows, expected, named=False)
        assert [row["key"] for row in rows] == [row["row"] for row in rows] == list(range(40 * 151))
        found[by] = rows
    for one, other in zip(found["network"], found["stage"], strict=True):
        assert {**one, "probability": 0, "probability_1": 0, "probability_2": 0} == {
            **other, "probability": 0, "probability_1": 0, "probability_2": 0
        }  # fmt: skip


def test_the_faster_way_is_taken(
    ray: Any,  # noqa: ARG001
    folder: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = predict(folder, CHECKPOINT, out=tmp_path, format="csv", workers=1)
    assert f"by {found.by}:" in capsys.readouterr().err
    labels = [line.split(",")[1] for line in (tmp_path / "part-000000.csv").read_text().splitlines()[1:]]
    assert [label.strip('"') for label in labels] == [row.get("label") or "" for row in expected]


def test_a_dataset(ray: Any, folder: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:  # noqa: ARG001
    """Its other columns stay beside the answers; it is lazy, and can be gone on with."""
    files = sorted(folder.iterdir())
    rows = [{"name": str(file), "image": file.read_bytes()} for file in files]
    given = ray_data_library().from_items(rows, override_num_blocks=3)
    found = answers(given, CHECKPOINT, workers=1).filter(expr=col("exit") >= 0)
    told = {row["name"]: row for row in found.take_all()}
    good = [row for row in expected if "error" not in row]
    assert {name: (row["label"], row["exit"]) for name, row in told.items()} == {
        row["file"]: (row["label"], row["exit"]) for row in good
    }
    assert "image" not in told[str(files[0])]
    result = predict(given, CHECKPOINT, out=tmp_path, by="stage", rows=40)
    assert (result.images, result.failed) == (151, 1)
    written = sorted(read(tmp_path), key=lambda row: row["name"])
    check([row | {"file": row["name"]} for row in written], expected, named=False)
    with pytest.raises(ValueError, match="resume and key are for files"):
        predict(given, CHECKPOINT, out=tmp_path, resume=True)
    with pytest.raises(FileExistsError, match="is not empty"):
        predict(given, CHECKPOINT, out=tmp_path)
    with pytest.raises(ValueError, match=r"^the Dataset has no column 'picture'; it has name, image$"):
        predict(given, CHECKPOINT, out=tmp_path / "other", column="picture", by="network")
    with pytest.raises(ValueError, match=r"names of files or a ray.data.Dataset, not int"):
        predict(3, CHECKPOINT, out=tmp_path / "other")


def test_no_torch_is_needed(ray: Any, folder: Path, tmp_path: Path) -> None:
    """Of what the light installation lacks only what Ray Data brings; workers are processes of their own."""
    code = (
        "from eenet.cli import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'timm'} & sys.modules.keys()))"
    )
    lacking = tuple(name for name in HEAVY if name not in ("pyarrow", "pandas"))
    words = ["batch", str(folder), str(tmp_path / "out"), CHECKPOINT, "--by", "network", "--workers", "1"]
    words += ["--address", ray.get_runtime_context().gcs_address]
    assert run_light(code, *words, lacking=lacking).splitlines()[-1] == "1 []"


def test_a_killed_worker_loses_nothing(
    ray: Any,
    table: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Killed when it has begun; Ray makes a new one and hands the table out again."""
    raylet, name = raylet_of(ray), "MapWorker(MapBatches(WholeNetwork)"
    before, killed = actors(raylet, name), list[int]()

    def kill() -> None:
        while not killed:
            if (tmp_path / "out/part-000000.parquet").exists() and (fresh := actors(raylet, name) - before):
                killed.append(fresh.pop())
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    found = predict(table, CHECKPOINT, out=tmp_path / "out", workers=2, rows=100, by="network", batch_size=4)
    killer.join()
    assert found.images == 40 * 151
    rows = read(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(40 * 151))
    check(rows, expected, named=False)


def test_a_killed_driver_goes_on(
    ray: Any,  # noqa: ARG001
    table: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """The whole command is killed; the same with --resume makes what is missing, and nothing again."""
    out = tmp_path / "out"
    words = ["batch", str(table), str(out), CHECKPOINT, "--by", "network", "--rows", "300"]
    command = [sys.executable, "-m", "eenet", *words, "--batch-size", "1"]  # with a Ray of its own
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not list(out.glob("part-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(kept) < 21
    found = predict(table, CHECKPOINT, out=out, by="network", rows=300, resume=True)
    assert found.resumed == 300 * len(kept) > 0
    assert found.images == 40 * 151
    rows = read(out)
    assert [row["row"] for row in rows] == list(range(40 * 151))
    check(rows, expected, named=False)
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["IN", "OUT", "nothing"], "no checkpoint directory nothing"),
        (["nowhere", "OUT", CHECKPOINT], "nowhere"),
        (["IN", "OUT", CHECKPOINT, "--key", "id"], "image files have no column 'id'"),
        (["IN", "OUT", CHECKPOINT, "--workers", "0"], "workers is 0; give at least 1"),
        (["IN", "OUT", CHECKPOINT, "--rows", "0"], "rows is 0; give at least 1"),
        (
            ["IN", "OUT", CHECKPOINT, "--by", "stage", "--backend", "openvino"],
            "by stage: features of openvino",
        ),
        (["IN", "OUT", CHECKPOINT, "--policy", "p"], "no policy"),
        (["IN", "OUT", CHECKPOINT, "--backend", "none"], "unknown backend 'none'"),
        (["IN", "OUT", CHECKPOINT, "--by", "layer"], "layer"),
        (["IN", "OUT", CHECKPOINT, "--address", "127.0.0.1:1"], "has joined the Ray at"),
    ],
)
def test_mistakes_are_one_line(
    ray: Any,  # noqa: ARG001
    words: list[str],
    said: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"IN": str(folder), "OUT": str(tmp_path / "out")}
    assert main(["batch", *(places.get(word, word) for word in words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_without_ray_the_extra_is_named() -> None:
    code = "from eenet.cli import main; sys.exit(0 if main(['batch', 'a', 'b', 'c']) == 2 else 1)"
    told = run_light("import os; os.dup2(1, 2)\n" + code, lacking=(*HEAVY, "ray"))
    assert "work on many machines needs ray; pip install 'eenet[scale]'" in told
