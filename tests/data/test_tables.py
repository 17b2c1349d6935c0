"""Tables of file names and labels, as people and competitions lay them out beside their images."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from PIL import Image

from eenet import data
from eenet.data.datasets import _load

COUNT = 40


def write_images(root: Path, names: list[str]) -> dict[str, int]:
    """Grey images of 4×4; each has a brightness of its own, by which it is known again."""
    shades = {}
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i).save(root / name)
        shades[name] = i
    return shades


def label_of(i: int) -> str:
    return ("dog", "ant", "cat")[i % 3]


def answers(images: data.Images) -> dict[int, str]:
    """Brightness of each image and its class."""
    shades = images.pixels(slice(None))[:, 0, 0, 0].tolist()
    return {shade: images.class_names[label] for shade, label in zip(shades, images.labels_B, strict=True)}


def loaded(root: Path) -> dict[str, data.Images]:
    _load.cache_clear()
    return {split: data.load(str(root), split) for split in data.SPLITS}


def everything(images: Mapping[str, data.Images]) -> dict[int, str]:
    return {shade: name for part in images.values() for shade, name in answers(part).items()}


def write_table(path: Path, columns: Mapping[str, Sequence], **options: str) -> None:
    frame = pandas.DataFrame(dict(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False, sep=options.get("sep", "\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize(
    "table", ["labels.csv", "labels.tsv", "labels.parquet", "metadata.jsonl", "Data.CSV"]
)
@pytest.mark.parametrize(
    ("columns", "place", "named"),
    [
        (("file", "label"), "images/{}.png", "{}.png"),
        (("filename", "class"), "images/{}.png", "images/{}.png"),
        (("image_id", "category"), "images/{}.png", "{}"),
        (("Image Path", "Target"), "a/b/{}.PNG", ".\\b\\{}.PNG"),
        (("path", "species"), "{}.png", "/elsewhere/data/{}.png"),
        (("id", "breed"), "train/{}.png", "{}"),
        (("file_name", "anything"), "{}.png", "{}.png"),
    ],
)
def test_tables_as_people_write_them(
    table: str, columns: tuple[str, str], place: str, named: str, tmp_path: Path
) -> None:
    numbers = [f"{i:04}" for i in range(COUNT)]
    write_images(tmp_path, [place.format(n) for n in numbers])
    rows = {columns[0]: [named.format(n) for n in numbers], columns[1]: [label_of(i) for i in range(COUNT)]}
    write_table(tmp_path / table, rows)
    images = loaded(tmp_path)
    assert everything(images) == {i: label_of(i) for i in range(COUNT)}
    assert images["train"].class_names == ["ant", "cat", "dog"]
    told = data.describe_splits(images)
    assert told == (
        "train 32 · validation 4 (taken from train) · test 4 (taken from train); "
        f"labels from {table} ({', '.join(columns)})"
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_what_spreadsheets_write(separator: str, tmp_path: Path) -> None:
    """Other separators, a byte order mark, spaces, quotes, Windows lines; a class may be called NA."""
    write_images(tmp_path, [f"images/a {i}.png" for i in range(COUNT)])
    lines = ["file", "label"], *([f'"a {i}.png"', " NA" if i % 2 else '"x"'] for i in range(COUNT))
    text = "\ufeff" + "\r\n".join(separator.join(line) for line in lines) + "\r\n\r\n"
    (tmp_path / "labels.csv").write_bytes(text.encode())
    assert everything(loaded(tmp_path)) == {i: "NA" if i % 2 else "x" for i in range(COUNT)}


def test_a_competition(tmp_path: Path) -> None:
    """`id,label` with train/ID.jpg; the test images have the same names, and no labels but dummies."""
    write_images(tmp_path, [f"{part}/{i}.png" for part in ("train", "test") for i in range(COUNT)])
    ids = list(range(COUNT))
    write_table(tmp_path / "train.csv", {"id": ids, "label": [i % 12 for i in ids]})
    write_table(tmp_path / "test.csv", {"id": ids})
    write_table(tmp_path / "sample_submission.csv", {"id": ids, "label": [0] * COUNT})
    images = loaded(tmp_path)
    assert everything(images) == {i: str(i % 12) for i in ids}
    assert images["train"].class_names == [str(i) for i in range(12)]
    assert data.describe_splits(images).endswith(
        "; test.csv left out: it has the columns id; labels from train.csv (id, label); "
        "test/ left out: its images have no labels"
    )


@pytest.mark.parametrize("name", ["labels.csv", "trainLabels.csv"])
def test_a_table_beside_unlabelled_test_images(name: str, tmp_path: Path) -> None:
    write_images(tmp_path, [f"{part}/{i}.png" for part in ("train", "test") for i in range(COUNT)])
    write_table(tmp_path / name, {"id": range(COUNT), "breed": [label_of(i) for i in range(COUNT)]})
    images = loaded(tmp_path)
    assert everything(images) == {i: label_of(i) for i in range(COUNT)}
    assert "test/ left out: its images have no labels" in data.describe_splits(images)


@pytest.mark.parametrize("layout", ["a table each", "in their folders", "a column"])
def test_splits_of_tables(layout: str, tmp_path: Path) -> None:
    """Each split's classes go by name; the test images are all cats."""
    home = {"train": range(30), "val": range(30, 36), "test": range(36, 40)}
    labels = [label_of(i) if i < 36 else "cat" for i in range(COUNT)]
    words = [word for word, part in home.items() for _ in part]
    write_images(tmp_path, [f"{words[i]}/{i}.png" for i in range(COUNT)])
    if layout == "a column":
        write_table(tmp_path / "all.csv", {"file": range(COUNT), "label": labels, "Split": words})
    else:
        for word, part in home.items():
            path = f"{word}.csv" if layout == "a table each" else f"{word}/metadata.csv"
            write_table(
                tmp_path / path, {"file": [f"{i}.png" for i in part], "label": [labels[i] for i in part]}
            )
    images = loaded(tmp_path)
    assert {split: set(answers(part)) for split, part in images.items()} == {
        "train": set(home["train"]),
        "validation": set(home["val"]),
        "test": set(home["test"]),
    }
    assert everything(images) == dict(enumerate(labels))
    told = data.describe_splits(images)
    assert told.startswith("train 30 · validation 6 · test 4; ")
    assert told.endswith("test has no images of ant, dog")


@pytest.mark.parametrize("word", ["val.csv", "val/labels.csv", "labels.csv"])
def test_a_validation_table_alone_is_the_test_split(word: str, tmp_path: Path) -> None:
    write_images(tmp_path, [f"{'train' if i < 30 else 'val'}/{i}.png" for i in range(COUNT)])
    rows = {"file": [f"{i}.png" for i in range(COUNT)], "label": [label_of(i) for i in range(COUNT)]}
    if word == "labels.csv":
        write_table(tmp_path / word, {**rows, "set": ["train"] * 30 + ["valid"] * 10})
    else:
        write_table(tmp_path / "train.csv", {key: values[:30] for key, values in rows.items()})
        write_table(tmp_path / word, {key: values[30:] for key, values in rows.items()})
    where = "validation in labels.csv" if word == "labels.csv" else word
    told = data.describe_splits(loaded(tmp_path))
    assert told.startswith(f"train 27 · validation 3 (taken from train) · test 10 ({where})")


def test_rows_without_a_label_and_images_without_a_row(tmp_path: Path) -> None:
    write_images(tmp_path, [f"images/{i}.png" for i in range(COUNT)])
    names = [f"{i}.png" for i in range(36)]
    labels = [label_of(i) if i < 33 else "" for i in range(36)]
    write_table(tmp_path / "labels.csv", {"file": [*names, names[0]], "label": [*labels, labels[0]]})
    images = loaded(tmp_path)
    assert everything(images) == {i: label_of(i) for i in range(33)}
    assert sum(map(len, images.values())) == 33  # the row that is there twice counts once
    told = data.describe_splits(images)
    assert "3 rows of labels.csv without a label left out; 7 images left out: no table names them" in told


def test_files_that_are_missing_are_damaged_ones(tmp_path: Path) -> None:
    write_images(tmp_path, [f"images/{i}.png" for i in range(COUNT)])
    names = [*range(COUNT), "gone", "lost"]
    write_table(tmp_path / "labels.csv", {"id": names, "label": [label_of(i) for i in range(COUNT + 2)]})
    with pytest.raises(ValueError, match=r"2 of 42 images .* no image file .*gone; no image file .*lost"):
        data.load(str(tmp_path), "train")
    images = {split: data.load(str(tmp_path), split, skip_damaged=True) for split in data.SPLITS}
    assert everything(images) == {i: label_of(i) for i in range(COUNT)}


FILES, LABELS = [f"{i}.png" for i in range(COUNT)], [label_of(i) for i in range(COUNT)]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a.csv": {"width": LABELS, "height": LABELS, "z": LABELS}},
         r"a\.csv has the columns width, height, z; expected a table .* file names .* move it elsewhere"),
        ({"a.csv": {"file": FILES, "x": LABELS, "y2": LABELS}}, "has the columns file, x, y2; expected"),
        ({"a.csv": {"0.png": FILES, "dog": LABELS, "z": LABELS}}, "first line must name the columns"),
        ({"a.csv": {"file": [f"x{i}.png" for i in range(COUNT)], "label": LABELS}},
         r"a\.csv names 40 files in 'file', of which 0 are there; 'x0\.png' is not"),
        ({"a.csv": {"file": FILES, "label": [""] * COUNT}}, "a.csv has no labels in 'label'"),
        ({"a.csv": {"file": FILES, "label": range(COUNT)}}, "has another label for each file in 'label'"),
        ({"a.csv": {"file": FILES, "label": ["x"] * COUNT}}, "holds a single class, 'x'"),
        ({"a.csv": {"file": [*FILES, FILES[0]], "label": [*LABELS, "cat"]}},
         r"gives 0\.png the labels dog and cat; an image can have only one"),
        ({"a.csv": {"file": FILES, "label": LABELS}, "b.csv": {"file": FILES, "label": LABELS}},
         r"two tables for train, a\.csv and b\.csv"),
        ({"a.csv": {"file": FILES, "label": LABELS, "split": ["train", "?"] * 20}},
         r"has '\?' in its column 'split'; expected train, validation or test"),
        ({"train.csv": {"file": FILES[:36], "label": LABELS[:36]},
          "test.csv": {"file": FILES[36:], "label": ["emu"] * 4}},
         r"from test\.csv, has classes that the training images don't have: emu"),
        ({"train.csv": {"file": FILES, "x": LABELS, "y2": LABELS},
          "test.csv": {"file": FILES, "label": LABELS}},
         r"train\.csv has the columns file, x, y2"),
        ({"a.csv": {}}, r"a\.csv can't be read"),
        ({"a.jsonl": "no"}, r"a\.jsonl can't be read"),
        ({"a.parquet": "no"}, r"a\.parquet can't be read"),
        ({"a.csv": b"file,label\n\xff\xfe.png,x\n"}, r"a\.csv can't be read"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tables: dict, message: str, tmp_path: Path) -> None:
    write_images(tmp_path, [f"images/{name}" for name in FILES])
    for name, content in tables.items():
        if isinstance(content, dict):
            write_table(tmp_path / name, content)
        else:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    _load.cache_clear()
    with pytest.raises(ValueError, match=message):
        data.load(str(tmp_path), "test")


def test_a_name_that_may_be_several_files(tmp_path: Path) -> None:
    write_images(tmp_path, [*(f"a/{name}" for name in FILES), "b/0.png"])
    write_table(tmp_path / "labels.csv", {"file": FILES, "label": LABELS})
    with pytest.raises(ValueError, match=r"labels.csv names '0.png', which may be a/0.png or b/0.png"):
        data.load(str(tmp_path), "train")


def test_a_missing_file_is_not_another_of_its_name(tmp_path: Path) -> None:
    write_images(tmp_path, [*(f"a/{name}" for name in FILES), *(f"b/{name}" for name in FILES[1:])])
    named = [f"{folder}/{name}" for folder in "ab" for name in FILES]
    write_table(tmp_path / "labels.csv", {"file": named, "label": ["x"] * COUNT + ["y"] * COUNT})
    with pytest.raises(ValueError, match=r"1 of 80 images .* no image file .*b/0.png"):
        data.load(str(tmp_path), "train")


def test_class_folders_with_splits_need_no_table(tmp_path: Path) -> None:
    """As Imagenette comes: a table of something else lies beside train/ and val/."""
    write_images(tmp_path, [f"{p}/{c}/{i}.png" for p in ("train", "val") for c in "ab" for i in range(10)])
    write_table(tmp_path / "noisy.csv", {"path": FILES, "noise 1": LABELS, "noise 2": LABELS})
    told = data.describe_splits(loaded(tmp_path))
    assert told.endswith("test 20 (val/); noisy.csv left out: the folders give the labels")


def test_folders_that_are_parts_and_no_classes(tmp_path: Path) -> None:
    """As HAM10000 comes: images in two folders, and a table that names them."""
    write_images(tmp_path, [f"part {1 + i % 2}/{name}" for i, name in enumerate(FILES)])
    write_table(tmp_path / "meta.csv", {"image_id": range(COUNT), "label": LABELS, "age": [3] * COUNT})
    assert everything(loaded(tmp_path)) == {i: label_of(i) for i in range(COUNT)}


def test_a_folder_with_a_table_is_not_one_without_labels(tmp_path: Path) -> None:
    write_images(tmp_path, FILES)
    assert data.unlabelled(tmp_path, ["a", "b"], (1, 4, 4)) is not None
    write_table(tmp_path / "labels.csv", {"file": FILES, "label": LABELS})
    assert data.unlabelled(tmp_path, ["a", "b"], (1, 4, 4)) is None


def test_columns_that_are_asked_for(tmp_path: Path) -> None:
    """Where two may be labels, and none is called as usual."""
    write_images(tmp_path, [f"images/{name}" for name in FILES])
    rows = {"bild": FILES, "species": LABELS, "breed": ["x" if i % 2 else "y" for i in range(COUNT)]}
    write_table(tmp_path / "meta.csv", rows)
    write_table(tmp_path / "other.csv", {"file": FILES, "class": ["no"] * COUNT})
    options: dict[str, Any] = {"file_column": "bild", "label_column": "species"}
    images = {split: data.load(str(tmp_path), split, **options) for split in data.SPLITS}
    assert everything(images) == {i: label_of(i) for i in range(COUNT)}
    told = data.describe_splits(images)
    assert "labels from meta.csv (bild, species)" in told
    assert "other.csv left out: it has no column 'bild', only file, class" in told
    options["label_column"] = "breed"
    images = {split: data.load(str(tmp_path), split, **options) for split in data.SPLITS}
    assert everything(images) == {i: "x" if i % 2 else "y" for i in range(COUNT)}


def test_usual_columns_count_where_a_table_has_them(tmp_path: Path) -> None:
    write_images(tmp_path, FILES)
    other = ["x" if i % 2 else "y" for i in range(COUNT)]
    write_table(tmp_path / "odd.csv", {"bild": FILES, "class": LABELS, "species": other})
    write_table(tmp_path / "plain.csv", {"file": FILES, "label": LABELS})
    usual: dict[str, Any] = {"usual_columns": ("species", "bild")}
    for name, expected in (("odd.csv", lambda i: other[i]), ("plain.csv", label_of)):
        images = {split: data.load(str(tmp_path / name), split, **usual) for split in data.SPLITS}
        assert everything(images) == {i: expected(i) for i in range(COUNT)}
    asked = data.load(str(tmp_path / "odd.csv"), "train", file_column="bild", label_column="class", **usual)
    assert asked.class_names == sorted(set(LABELS))


def test_a_table_by_itself(tmp_path: Path) -> None:
    """Whatever lies beside it."""
    write_images(tmp_path, [f"images/{name}" for name in FILES])
    for name, labels in (("mine.csv", LABELS), ("other.csv", ["no"] * COUNT)):
        write_table(tmp_path / name, {"file": FILES, "label": labels})
    images = {split: data.load(str(tmp_path / "mine.csv"), split) for split in data.SPLITS}
    assert everything(images) == {i: label_of(i) for i in range(COUNT)}


def test_names_and_words_for_the_same_classes_are_no_two_labels(tmp_path: Path) -> None:
    write_images(tmp_path, FILES)
    numbers = [str(ord(label[0])) for label in LABELS]
    write_table(tmp_path / "labels.csv", {"file": FILES, "class_id": numbers, "class_name": LABELS})
    assert everything(loaded(tmp_path)) == {i: label_of(i) for i in range(COUNT)}


def test_accents_in_tables(tmp_path: Path) -> None:
    """As letters with accents in the table, and as letters and accents on disk; or the other way round."""
    forms: list[Any] = ["NFD", "NFC"]
    for i, (on_disk, in_table) in enumerate([forms, forms[::-1]]):
        home, names = tmp_path / str(i), [f"dépôt/é {k}.png" for k in range(COUNT)]
        write_images(home, [unicodedata.normalize(on_disk, name) for name in names])
        labels = ["Château d'été" if k % 2 else "two words" for k in range(COUNT)]
        files = [unicodedata.normalize(in_table, name) for name in names]
        write_table(home / "labels.csv", {"file": files, "label": labels})
        images = loaded(home)
        assert everything(images) == dict(enumerate(labels))
        assert images["train"].class_names == ["Château d'été", "two words"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"file": FILES, "label": LABELS, "category": ["x", "y"] * (COUNT // 2)}, {},
         r"two columns that may be labels, 'label' and 'category'; say which: --label-column"),
        ({"file": FILES, "species": LABELS}, {"label_column": "speces"},
         r"labels\.csv has no column 'speces', only file, species; did you mean 'species'\?"),
        ({"file": FILES, "label": LABELS}, {"file_column": "photo"}, "has no column 'photo', only file"),
        ("file,label,label\n0.png,a,b\n", {}, r"has two columns called 'label'"),
        ("file,label\n0.png,a,b\n", {}, r"line 2 has 3 values, the first line names 2 columns"),
        ('file,label\n0.png,"a\n', {}, r"labels\.csv can't be read"),
    ],
)  # fmt: skip
def test_columns_that_are_refused(rows: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_images(tmp_path, FILES)
    if isinstance(rows, str):
        (tmp_path / "labels.csv").write_text(rows)
    else:
        write_table(tmp_path / "labels.csv", rows)
    for where in (tmp_path, tmp_path / "labels.csv"):
        with pytest.raises(ValueError, match=message):
            data.load(str(where), "train", **options)


def test_a_column_needs_a_table(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{name}/{i}.png" for name in "ab" for i in range(9)])
    with pytest.raises(ValueError, match="has no table, so no column 'species'"):
        data.load(str(tmp_path), "train", label_column="species")
