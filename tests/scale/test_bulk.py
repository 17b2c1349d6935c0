"""What runs on every machine, without Ray: listing, decoding, segments with baggage, parts."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from ray_cases import write_digits

from eenet import ExitPolicy, Prediction, Predictor
from eenet.data import to_pixels
from eenet.networks import EENet, open_network
from eenet.scale.bulk.choosing import measure
from eenet.scale.bulk.collecting import Folder, Parts, Tally, Unfinished
from eenet.scale.bulk.decoding import NUMBER, Decoding, with_pixels
from eenet.scale.bulk.inputs import list_inputs
from eenet.scale.bulk.operators import OneSegment, WholeNetwork
from eenet.scale.bulk.pipeline import shared_out
from eenet.scale.bulk.tables import PIXELS, UNREADABLE, array
from eenet.scale.session import session
from eenet.scale.shipping import How, fingerprint, packed, unpacked

CHECKPOINT = "digits-eenet8"
SIZE = (1, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty digits as files, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    write_digits(folder, 60)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as two parquet files, the first with groups of ten rows."""
    contents = [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.iterdir())]
    home = tmp_path_factory.mktemp("tables")
    for name, part in (("a", contents[:35]), ("b", contents[35:])):
        rows = pa.table({"id": [f"{name}{i}" for i in range(len(part))], "image": part})
        parquet.write_table(rows, home / f"{name}.parquet", row_group_size=10)
    return home


def all_of(start: int, end: int) -> Any:
    return np.ones(end - start, bool)


def test_images_are_numbered_in_order(folder: Path) -> None:
    found = list_inputs(folder, unit_images=25)
    assert [unit.count for unit in found.units] == [25, 25, 11]
    files = [file for unit in found.units for file in unit.files]
    assert files == sorted(map(str, folder.iterdir()))
    assert found.count == 61
    assert [(unit.first, a, b) for unit, a, b in found.between(24, 51)] == [
        (0, 24, 25),
        (25, 0, 25),
        (50, 0, 1),
    ]
    assert found.fingerprint() == list_inputs(folder, unit_images=25).fingerprint()
    assert found.fingerprint() != list_inputs(str(folder / "0*.png"), unit_images=25).fingerprint()


def test_rows_of_parquet_files_are_numbered_group_by_group(table: Path) -> None:
    found = list_inputs(table, unit_images=15)
    assert [(Path(u.table).stem, list(u.groups), u.first, u.row, u.count) for u in found.units] == [
        ("a", [0, 1], 0, 0, 20),
        ("a", [2, 3], 20, 20, 15),
        ("b", [0, 1], 35, 0, 20),
        ("b", [2], 55, 20, 6),
    ]
    assert list_inputs([table / "a.parquet", table / "b.parquet"], unit_images=15) == found
    assert list_inputs(str(table / "*.parquet"), unit_images=15) == found


def test_answers_in_the_folder_are_no_images(table: Path, tmp_path: Path) -> None:
    whole = tmp_path / "tables"
    shutil.copytree(table, whole)
    before = list_inputs(whole, without=str(whole / "answers"))
    (whole / "answers").mkdir()
    shutil.copy(whole / "a.parquet", whole / "answers/part-000000.parquet")
    assert list_inputs(whole, without=str(whole / "answers")) == before
    assert list_inputs(f"file://{whole}", without=f"file://{whole}/answers").count == before.count
    with pytest.raises(FileNotFoundError, match="beside the answers"):
        list_inputs(whole / "answers", without=str(whole / "answers"))


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("127.0.0.1:1", OSError, "no Ray at 127.0.0.1:1: .*refused"),
        ("here", ValueError, "isn't HOST:PORT or auto"),
        ("127.0.0.1:70000", OSError, "no Ray at"),
    ],
)
def test_where_no_ray_is(address: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said), session(address):
        pass


def test_addresses_are_listed_by_arrow(folder: Path, table: Path) -> None:
    found = list_inputs(f"file://{folder}", unit_images=100)
    assert [file for unit in found.units for file in unit.files] == sorted(
        f"file://{path}" for path in folder.iterdir()
    )
    (unit,) = list_inputs(f"file://{table}/a*", unit_images=100).units
    assert unit.table == f"file://{table}/a.parquet"
    numbers = [
        n for each in Decoding(SIZE, "", 64, all_of).of(found.units[0]) for n in each[NUMBER].to_pylist()
    ]
    assert numbers == list(range(61))


@pytest.mark.parametrize(
    ("name", "column", "error", "said"),
    [
        ("nothing", None, FileNotFoundError, "nothing"),
        ("nothing*.parquet", None, FileNotFoundError, "no file matches"),
        ("images", "picture", ValueError, "no parquet file, so no column 'picture'"),
        ("both", None, ValueError, "parquet files and images"),
        ("plain.parquet", None, ValueError, "needs a column of image files"),
        ("a.parquet", "id", ValueError, "no column 'id' of image files; it has id, image"),
        ("broken.parquet", None, ValueError, "can't be read as a parquet file"),
        ("file:///nowhere/at/all", None, FileNotFoundError, "no image or parquet file at file:///nowhere"),
        ("nonsense://x/y", None, ValueError, "nonsense"),
    ],
)
def test_what_cannot_be_listed_is_said(
    name: str,
    column: str | None,
    error: type[Exception],
    said: str,
    folder: Path,
    table: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "images").symlink_to(folder)
    (tmp_path / "both").mkdir()
    for source in (folder / "00.png", table / "a.parquet"):
        (tmp_path / "both" / source.name).symlink_to(source)
    (tmp_path / "a.parquet").symlink_to(table / "a.parquet")
    parquet.write_table(pa.table({"n": [1, 2]}), tmp_path / "plain.parquet")
    (tmp_path / "broken.parquet").write_text("no table")
    with pytest.raises(error, match=said):
        list_inputs(name if "://" in name else str(tmp_path / name), column=column)


@pytest.mark.parametrize("source", ["files", "rows"])
def test_decoding_gives_pixels_or_an_error_for_what_is_wanted(source: str, folder: Path, table: Path) -> None:
    found = list_inputs(folder if source == "files" else table, unit_images=20)
    unfinished = Unfinished(16, frozenset({1}))
    tables = [each for unit in found.units for each in Decoding(SIZE, found.column, 7, unfinished).of(unit)]
    assert max(each.num_rows for each in tables) <= 7
    whole = pa.concat_tables(tables)
    wanted = [n for n in range(61) if n // 16 != 1]
    assert whole[NUMBER].to_pylist() == wanted
    files = sorted(folder.iterdir())
    for number, pixels, error in zip(
        wanted, array(whole[PIXELS]), whole[UNREADABLE].to_pylist(), strict=True
    ):
        broken = files[number].name == "05-broken.png"
        assert (error is not None) == broken
        if not broken:
            np.testing.assert_array_equal(pixels, to_pixels(files[number], SIZE))


def test_a_network_is_the_same_behind_the_way(trained: EENet) -> None:
    files = packed(open_network(CHECKPOINT))
    with unpacked(files) as network:
        assert fingerprint(packed(network)) == fingerprint(files)
    assert fingerprint(packed(trained)) != fingerprint(files)


def policy_of(kind: str) -> ExitPolicy:
    with unpacked(packed(open_network(CHECKPOINT))) as network:
        own, count = network.config.exit_policy(), network.num_exits
    if kind == "own":
        return own
    if kind == "patience":
        return ExitPolicy("patience", (1.5,) * count)
    if kind == "one off":
        return ExitPolicy(own.score, own.thresholds, (False, *own.enabled[1:]))
    return ExitPolicy("confidence", (1.0 if kind == "never" else -1.0,) * count)


def keys_and_pixels(folder: Path) -> Any:
    files = sorted(folder.iterdir())
    keys = pa.table({NUMBER: list(range(len(files))), "name": [file.name for file in files]})
    return with_pixels(keys, files, SIZE)


@pytest.mark.parametrize("kind", ["own", "patience", "one off", "never", "at once"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_segments_with_baggage_answer_as_the_whole_network(
    kind: str, folder: Path, data: st.DataObject
) -> None:
    """However Ray cuts and joins tables between segments; the oracle is the predictor."""
    how, files = How(policy_of(kind), top_k=2), packed(open_network(CHECKPOINT))
    given_table = keys_and_pixels(folder)
    predictor, images = Predictor(CHECKPOINT, policy=how.policy, threads=1), sorted(folder.iterdir())
    count = sum(how.policy.enabled) + 1

    def cut(tables: Sequence[Any]) -> list[Any]:
        joined, found = pa.concat_tables(tables, promote_options="default"), []
        while joined.num_rows:
            size = data.draw(st.integers(1, joined.num_rows))
            found.append(joined.slice(0, size))
            joined = joined.slice(size)
        return found

    tables = [given_table]
    for index in range(count):
        segment = OneSegment(files, how, index)
        tables = [segment(table) for table in cut(tables)]
    answers = pa.concat_tables(tables).sort_by(NUMBER)
    whole = WholeNetwork(files, how)(given_table).sort_by(NUMBER)
    assert answers[NUMBER].to_pylist() == whole[NUMBER].to_pylist() == list(range(len(images)))
    assert answers["name"].to_pylist() == [image.name for image in images]
    for row, other, found in zip(
        answers.to_pylist(), whole.to_pylist(), predictor.try_many(images), strict=True
    ):
        if not isinstance(found, Prediction):
            assert row["error"] == other["error"] == str(found)
            assert row["label"] is row["exit"] is other["probability"] is None
            continue
        expected = (found.label, found.class_index, found.exit)
        assert (row["label"], row["class_index"], row["exit"]) == expected
        assert (other["label"], other["class_index"], other["exit"]) == expected
        assert row["probability"] == pytest.approx(found.probability, abs=1e-5)
        assert row["relative_cost"] == pytest.approx(found.relative_cost)
        said = found.probabilities
        likeliest = sorted(said, key=lambda name: -said[name])[:2]
        assert [row["label_1"], row["label_2"]] == likeliest
        assert row["error"] is None


def made_up(numbers: Sequence[int], exit_index: int = 0) -> Any:
    count = len(numbers)
    return pa.table(
        {
            NUMBER: numbers,
            "label": [str(n) for n in numbers],
            "exit": pa.array([exit_index] * count, pa.int16()),
            "relative_cost": pa.array([0.5] * count, pa.float32()),
            "error": pa.nulls(count, pa.string()),
            "eenet_together": pa.array([0] * count, pa.int32()),
        }
    )


def parts_in(out: Path, folder: Path, *, rows: int = 16, network: str = "n", kind: str = "parquet") -> Parts:
    return Parts(Folder(str(out), kind), list_inputs(folder), plan={"network": network}, rows=rows, key=None)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_parts_are_whole_in_order_and_without_a_row_twice(folder: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    parts = parts_in(out, folder, kind=kind)
    parts.open(resume=False)
    numbers = np.random.default_rng(0).permutation(61).tolist()
    written = [table for i in range(0, 50, 5) for table in parts.add(made_up(numbers[i : i + 5]))]
    written += parts.add(made_up(numbers[40:55]))  # ten of them again, as after a retry
    names = sorted(path.name for path in out.glob("part-*"))
    assert len(names) == len(written) < 4
    again = parts_in(out, folder, kind=kind)
    again.open(resume=True)
    assert sorted(f"part-{part:06}.{kind}" for part in again.done) == names
    wanted = [n for n in range(61) if n // 16 not in again.done]
    again.add(made_up(wanted[::-1]))
    tally = Tally([0, 0])
    tables = [Folder(str(out), kind).read_part(part) for part in range(4)]
    for part in range(4):
        tally.add(Folder(str(out), kind).read_part(part, Tally.COLUMNS))
    assert tally.exits_K == [61, 0]
    assert [table.num_rows for table in tables] == [16, 16, 16, 13]
    whole = pa.concat_tables(tables)
    assert [str(label) for label in whole["label"].to_pylist()] == [str(n) for n in range(61)]
    assert whole["file"].to_pylist() == [str(file) for file in sorted(folder.iterdir())]


def test_answers_of_other_jobs_do_not_mix(folder: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts_in(out, folder).open(resume=True)  # nothing to go on with: it begins
    parts_in(out, folder).open(resume=True)
    with pytest.raises(FileExistsError, match="is not empty; go on"):
        parts_in(out, folder).open(resume=False)
    with pytest.raises(ValueError, match="answers for another network"):
        parts_in(out, folder, network="m").open(resume=True)
    with pytest.raises(ValueError, match="answers for rows 16, not 8"):
        parts_in(out, folder, rows=8).open(resume=True)
    with pytest.raises(ValueError, match="images 61, not 35"):
        parts_in(out, table / "a.parquet").open(resume=True)
    with pytest.raises(ValueError, match="answers for other images"):
        parts_in(out, table).open(resume=True)
    with pytest.raises(ValueError, match="holds no answers"):
        parts_in(folder, folder).open(resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't write"):
        parts_in(tmp_path / "file", folder).open(resume=True)


def test_both_ways_are_timed(folder: Path) -> None:
    pixels_BCHW = array(keys_and_pixels(folder)[PIXELS])
    times = measure(packed(open_network(CHECKPOINT)), How(policy_of("own")), pixels_BCHW)
    assert 0 < times.network < 1
    assert len(times.segments) == sum(policy_of("own").enabled) + 1
    assert times.faster == ("stage" if 1.2 * sum(times.segments) < times.network else "network")
    alone = measure(packed(open_network(CHECKPOINT)), How(policy_of("at once")), pixels_BCHW)
    assert alone.segments[1:] == [0.0] * (len(alone.segments) - 1)


@given(workers=st.integers(1, 40), load=st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_workers_are_shared_out(workers: int, load: list[float]) -> None:
    sizes = shared_out(workers, load)
    assert sum(sizes) == max(workers, len(load)) or sum(sizes) >= workers
    assert min(sizes) >= 1
    if workers >= 10 * len(load):
        for size, each in zip(sizes, load, strict=True):
            assert abs(size - workers * each / sum(load)) < len(load) + 1
