"""Whole runs: exits for a trained backbone, data of one's own, what is found out before hours are spent."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import timm
import torch
from conftest import in_memory
from PIL import Image
from safetensors.torch import load_file, save_file

from eenet.cli import main
from eenet.data import from_dataset
from eenet.evaluation.benching import bench
from eenet.networks.building import convert, create_model
from eenet.networks.network import EENet
from eenet.policies.records import Records
from eenet.tasks.classification.metrics import measure
from eenet.training import run as pipeline
from eenet.training.loop import on_validation
from eenet.training.objectives import unused
from eenet.training.recipes import RECIPES, TrainConfig, configured, how_to_repeat, retrofit

TINY = TrainConfig("digits", "resnet8_w4_cifar", num_exits=1, epochs=1, budget=0.9, batch_size=64)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier without exits, as a user has one."""
    out = tmp_path_factory.mktemp("plain") / "run"
    command = [
        "train",
        "digits",
        "--model",
        "resnet8_w4_cifar",
        "--epochs",
        "3",
        "--plain",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    return out


def test_exits_for_a_trained_backbone(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The final exit's weights, statistics and accuracy stay to the bit; early exits are new."""
    capsys.readouterr()
    out = tmp_path / "out"
    command = ["train", "digits", "--model", str(plain), "--freeze-backbone", "--epochs", "2"]
    assert main([*command, "--budget", "0.95", "--out", str(out), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    before, after = load_file(plain / "model.safetensors"), load_file(out / "model.safetensors")
    stages = {key.split(".", 2)[2]: value for key, value in after.items() if key.startswith("stages")}
    assert stages.keys() == {key.split(".", 2)[2] for key in before}
    assert all(torch.equal(value, stages[key.split(".", 2)[2]]) for key, value in before.items())
    images = torch.rand(64, 1, 8, 8)
    networks = [EENet.from_pretrained(path) for path in (plain, out)]
    assert torch.equal(*(network(images).logits_KBN[-1] for network in networks))
    assert networks[0].config.mean == networks[1].config.mean
    assert main(["eval", str(plain), "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["full_accuracy"] == measured["full_accuracy"]
    assert len(measured["costs"]) == 3
    assert "--freeze-backbone" in (out / "README.md").read_text()


def test_a_trained_backbone_can_be_trained_on(plain: Path, tmp_path: Path) -> None:
    config = replace(TINY, model=str(plain))
    network = pipeline.build(config, in_memory("digits", "train"))
    assert torch.equal(
        network.state_dict()["stages.0.conv1.weight"],
        load_file(plain / "model.safetensors")["stages.0.conv1.weight"],
    )
    pipeline.train(config, tmp_path)
    assert not torch.equal(
        load_file(tmp_path / "model.safetensors")["stages.0.conv1.weight"],
        load_file(plain / "model.safetensors")["stages.0.conv1.weight"],
    )


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"placement": ["layer1.0", "layer2.0"]}, [True, True]),
        ({"placement": ["conv1", "layer2.0"]}, [False, True]),
        ({"placement": ["layer1.0", "layer2.0"], "head": "pool"}, [False, False]),
        ({"placement": ["layer1.0", "layer2.0"], "objective": "v2"}, [False, False]),
        ({"placement": ["layer1.0", "layer2.0"], "new_classifier": True}, [False, False]),
    ],
)
def test_the_exits_of_a_checkpoint_are_trained_on_where_they_fit(change: dict, kept: list[bool]) -> None:
    before = EENet.from_pretrained("digits-eenet8")
    heads = dict(zip(before.config.exits, before.heads, strict=True))
    given = {"model": "digits-eenet8", "num_exits": 2, "head": "deep", "objective": "joint", **change}
    config = replace(TINY, **given)
    network = pipeline.build(config, in_memory("digits", "train"))
    for name, head, same in zip(network.config.exits, network.heads, kept, strict=True):
        known = heads[name].state_dict() if name in heads else {}
        equal = [key in known and torch.equal(value, known[key]) for key, value in head.state_dict().items()]
        assert all(equal) is same


def test_exits_for_pretrained_weights(tmp_path: Path) -> None:
    """timm's own way to name a file of pretrained weights; normalised as these were."""
    trained: Any = timm.create_model("test_resnet", num_classes=10)
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    overlay = {"file": str(tmp_path / "trained.safetensors"), "num_classes": 10}
    config = replace(TINY, model="test_resnet", pretrained=True, freeze_backbone=True)
    config = replace(config, model_args={"pretrained_cfg_overlay": overlay})
    rows = [(Image.new("RGB", (32, 32), (9 * i, 0, 0)), i % 10) for i in range(20)]
    network = pipeline.build(config, from_dataset(rows))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network.eval()(images).logits_KBN[-1], trained.eval()(images))
    assert network.config.mean == list(trained.pretrained_cfg["mean"])
    with pytest.raises(ValueError, match="knows 10 classes; the data set has 2"):
        pipeline.build(config, from_dataset([(row[0], row[1] % 2) for row in rows]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet8_w4_cifar"}, "starts from random weights"),
        ({"model": "PLAIN", "image_size": 16}, r"takes images of size \(1, 8, 8\)"),
        ({"model": "EMPTY"}, "config.json is missing"),
    ],
)
def test_what_cannot_be_frozen(change: dict, message: str, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paths = {"PLAIN": str(plain), "EMPTY": str(tmp_path / "empty")}
    change["model"] = paths.get(change["model"], change["model"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pipeline.train(replace(TINY, freeze_backbone=True, **change), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.pt"))


class OwnNetwork(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(*(torch.nn.Conv2d(i, 4, 3) for i in (1, 4, 4)))
        self.classifier = torch.nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.blocks(x).mean((2, 3)))


def test_own_network_and_own_data(tmp_path: Path) -> None:
    """A user's own class, trained already, on a user's own `Dataset`, from end to end in Python."""
    rows = [(Image.new("L", (9, 12), 25 * (i % 10)), i % 10) for i in range(300)]
    images, backbone = from_dataset(rows), OwnNetwork()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    network = convert(backbone, images.image_size, num_exits=1, head="pool")
    splits = {"train": range(200), "validation": range(200, 250), "test": range(250, 300)}
    pipeline.train(
        replace(TINY, data="mine", model="OwnNetwork", freeze_backbone=True),
        tmp_path,
        network=network,
        images={split: images.subset(members) for split, members in splits.items()},
    )
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    loaded = EENet.from_pretrained(tmp_path, backbone=OwnNetwork())
    pixels = torch.rand(2, 1, 12, 9)
    backbone.eval().to(memory_format=torch.contiguous_format)  # as loaded; kernels round differently
    assert torch.equal(loaded(pixels).logits_KBN[-1], backbone(pixels))
    assert loaded.config.policy is not None
    card = (tmp_path / "README.md").read_text()
    assert "OwnNetwork with 1 early exit on mine" in card
    assert " for 1 epoch in " in card
    assert "Not from this card alone: `network` and `images` were objects in the memory" in card
    assert "network=network, images=images)" in card
    kept = loaded.config.provenance["train_config"]
    assert (kept["num_exits"], kept["placement"], kept["head"]) == (1, loaded.config.exits, "pool")


def test_an_own_network_is_not_called_by_the_recipe_s(tmp_path: Path) -> None:
    """Nor need images be of its size: they are brought to it."""
    network = convert(OwnNetwork(), (1, 9, 12), num_exits=1, head="pool")
    pipeline.train("digits", tmp_path / "own", network=network, epochs=1, budget=0.9)
    assert network.config.provenance["train_config"]["model"] == "own network"
    card = (tmp_path / "own/README.md").read_text()
    assert "# own network with 1 early exit on digits" in card
    assert "resnet20" not in card
    named = create_model("resnet8_w4_cifar", num_classes=10, input_size=(1, 8, 8), num_exits=1)
    done = pipeline.train(
        "digits", tmp_path / "named", network=named, model="resnet20_cifar", epochs=1, budget=0.9
    )
    assert named.config.provenance["train_config"]["model"] == "resnet8_w4_cifar"
    assert "not used: model resnet20_cifar, as the network was given" in done.notes
    assert "before" not in named.config.provenance
    pipeline.train("digits", tmp_path / "again", network=named, epochs=2, budget=0.9)
    assert (named.config.effort[0], named.config.provenance["before"]["epochs"]) == (3, 1)


def test_given_images_are_not_called_by_the_recipe_s_data(tmp_path: Path) -> None:
    """And no verb takes the recipe's data for theirs."""
    images = from_dataset([(Image.new("L", (8, 8), 25 * (i % 10)), i % 10) for i in range(128)])
    network = create_model("resnet8_w2_cifar", num_classes=10, input_size=(1, 8, 8), num_exits=1)
    splits: dict[str, Any] = dict.fromkeys(("train", "validation", "test"), images)
    pipeline.train("digits", tmp_path, network=network, images=splits, epochs=1, budget=0.95)
    assert network.config.provenance["train_config"]["data"] == "given images"
    assert "on given images" in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match=r"doesn't say what it was trained on; name a data set"):
        bench(tmp_path)


def test_settings_that_a_given_network_makes_meaningless(tmp_path: Path) -> None:
    """The TrainConfig that is kept agrees with the network, and what was asked for in vain is named."""
    rows = [(Image.new("L", (9, 12), 25 * (i % 10)), i % 10) for i in range(128)]
    images = from_dataset(rows)
    exits = {"placement": ["blocks.0", "blocks.1"], "head": "pool"}
    network = convert(OwnNetwork(), images.image_size, **exits, gate="features")  # type: ignore[arg-type]
    done = pipeline.train(
        TrainConfig("mine", "OwnNetwork", epochs=1, batch_size=64, budget=2, head="residual", image_size=32),
        tmp_path,
        network=network,
        images=dict.fromkeys(("train", "validation", "test"), images),
    )
    assert done.notes[:2] == [
        "not used: head residual, as the network was given",
        "not used: image_size 32, as the images were given",
    ]
    assert "give `convert` gate='answer'" in done.notes[2]
    kept = network.config.provenance["train_config"]
    assert (kept["num_exits"], kept["placement"], kept["head"]) == (2, network.config.exits, "pool")
    with pytest.raises(ValueError, match="images has no 'validation'; give train, validation, test"):
        pipeline.train(TINY, tmp_path / "other", network=network, images={"train": images})


@pytest.mark.parametrize(
    ("config", "asked", "notes"),
    [
        ({}, ["budget"], []),
        ({"cost_weight": 2.0}, [], ["cost_weight 2.0, which objective joint doesn't have"]),
        ({"early_weight": 0.5, "distillation": 0.5}, [], []),
        (
            {"objective": "v2", "distillation": 0.9, "cost_weight": 2.0},
            [],
            ["distillation 0.9, which objective v2 doesn't have", "budget 0.9, as objective v2 trains"],
        ),
        (
            {"objective": "shallow_deep"},
            ["early_weight"],
            ["early_weight 1.0, which objective shallow_deep doesn't have"],
        ),
        (
            {"num_exits": 0, "head": "pool"},
            ["head", "budget", "seed"],
            ["head pool, budget 0.9, as there are no"],
        ),
        ({"num_exits": 0}, [], []),
    ],
)
def test_settings_without_effect_are_named(config: dict, asked: list[str], notes: list[str]) -> None:
    found = unused(replace(TINY, **config), asked)
    assert len(found) == len(notes)
    for told, expected in zip(found, notes, strict=True):
        assert told.startswith(f"not used: {expected}")


def test_a_card_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Confidences that were trained are compared with 0.5, whatever the budget of the recipe is."""
    words = ["train", "digits", "--model", "resnet8_w4_cifar", "--epochs", "1", "--num-exits", "2"]
    words += ["--objective", "v2"]
    assert main([*words, "--budget", "0.1", "--out", str(tmp_path / "v2"), "--json"]) == 0
    said = capsys.readouterr()
    (note,) = json.loads(said.out)["notes"]
    assert note.startswith("not used: budget 0.1, as objective v2 trains confidences to be compared with 0.5")
    card, page = ((tmp_path / "v2" / name).read_text() for name in ("README.md", "report.html"))
    for text in (card, page):
        assert "objective v2; thresholds at 0.5, for which objective v2 trains confidences." in text
        assert "Not used: budget 0.1, as" in text
        assert "set for budget" not in text
    policy = EENet.from_pretrained(tmp_path / "v2").config.exit_policy()
    assert policy.thresholds == (0.5,) * 2
    records = Records.load(tmp_path / "v2/records-validation.safetensors")
    assert said.err.splitlines()[-1].endswith(f" · {on_validation(measure(records, policy))}")


def test_splits_and_the_fitted_policy_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = pipeline.train(TINY, tmp_path)
    first, epoch, fitted = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train 1149\b.* · validation 288\b.* · test 360\b.*", first)
    assert epoch.startswith("epoch 1/1  training loss ")
    network = EENet.from_pretrained(tmp_path)
    records = Records.load(tmp_path / "records-validation.safetensors")
    assert fitted == f"fitted  {on_validation(measure(records, network.config.exit_policy()))}"
    card = (tmp_path / "README.md").read_text()
    assert f"Images: {first}." in card
    assert "thresholds set for budget 0.9 on 288 validation images" in card
    assert json.dumps(f"Images: {first}.")[1:-1] in (tmp_path / "report.html").read_text()
    low, high = found.intervals["relative_cost"]
    assert low < found.relative_cost < high
    assert f"relative cost {low:.3f} to {high:.3f}" in card
    assert f"relative cost {low:.3f} to {high:.3f}" in str(found)


def section(card: str, language: str) -> str:
    return card.split(f"## How to reproduce\n\n```{language}\n")[1].removesuffix("```\n")


def test_the_printed_script_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = pipeline.train(TINY, tmp_path / "run", placement=[0.5], seed=3, distillation=0.5)
    monkeypatch.chdir(tmp_path)
    exec(section(Path(done.checkpoint, "README.md").read_text(), "python"), {})
    (again,) = tmp_path.glob("runs/*/model.safetensors")
    assert again.read_bytes() == (tmp_path / "run/model.safetensors").read_bytes()
    command = EENet.from_pretrained(tmp_path / "run").config.provenance["command"]
    assert command.startswith("import eenet; eenet.train(eenet.TrainConfig(data='digits', ")


def test_the_printed_command_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the user's own objective, found beside, which `--import` names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_loss.py").write_text(
        "import eenet\nfrom torch.nn.functional import cross_entropy\n\n\n"
        '@eenet.register("objective")\n'
        "def last_only(outputs, targets_B, costs_K):\n"
        "    return sum(cross_entropy(logits, targets_B) for logits in outputs.logits_KBN)\n"
    )
    words = ["train", "digits", "--model", "resnet8_w4_cifar", "--epochs", "1", "--num-exits", "1"]
    words += ["--budget", "0.9", "--objective", "last_only", "--import", "my_loss"]
    assert main([*words, "--out", "run"]) == 0
    command = section(Path("run/README.md").read_text(), "")
    assert "--import my_loss" in command
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("runs/*/model.safetensors")
    assert again.read_bytes() == Path("run/model.safetensors").read_bytes()


def test_what_a_script_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    config = TrainConfig(str(tmp_path / "photos"), str(tmp_path), freeze_backbone=True)
    _, text = how_to_repeat(config, None, needs=["the objective mine"])
    checkpoint, photos = f"the checkpoint `{tmp_path}`", f"the images in `{tmp_path}/photos`"
    assert text.startswith(f"It needs the objective mine and {checkpoint} and {photos}.\n")


def test_damaged_files_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(80):
        place = tmp_path / "photos" / ("train" if i % 4 else "test") / ("cat", "dog")[i // 4 % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 30 + 60 * (i // 4 % 2)).save(place / f"{i:02}.png")
    for broken in ("train/cat/01.png", "train/dog/05.png"):
        whole = (tmp_path / "photos" / broken).read_bytes()
        (tmp_path / "photos" / broken).write_bytes(whole[: len(whole) // 2])
    run = ["train", "digits", "--data", str(tmp_path / "photos"), "--model", "resnet8_w4_cifar"]
    run += ["--num-exits", "1", "--budget", "0.9", "--epochs", "1", "--batch-size", "8"]
    assert main([*run, "--out", str(tmp_path / "out")]) == 2
    assert "--skip-damaged" in capsys.readouterr().err
    assert main([*run, "--skip-damaged", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert any("damaged" in note for note in json.loads(capsys.readouterr().out)["notes"])
    card = (tmp_path / "out/README.md").read_text()
    assert "damaged" in card
    assert "--skip-damaged" in card
    assert main(["eval", str(tmp_path / "out"), "--data", str(tmp_path / "photos"), "--split", "train"]) == 0
    assert "damaged" in capsys.readouterr().err
    other = Path(shutil.copytree(tmp_path / "photos", tmp_path / "other"))  # which training never saw
    (other / "test/cat/00.png").write_text("no image")
    words = [str(tmp_path / "out"), "--data", str(other)]
    once = ["--backends", "torch", "--batch-sizes", "1", "--repeats", "1"]
    for verb, more in (
        ("eval", []),
        ("eval", ["--corruptions", "fog", "--severities", "1"]),
        ("calibrate", ["--budget", "0.95", "--name", "again", "--split", "test"]),
        ("report", ["--out", str(tmp_path / "page.html")]),
        ("bench", once),
    ):
        assert main([verb, *words, *more]) == 2
        assert "3 of 80 images" in capsys.readouterr().err
        assert main([verb, *words, *more, "--skip-damaged"]) == 0
        assert capsys.readouterr().err.count("1 damaged file of") == 1


def test_the_columns_of_a_table_are_kept_for_other_verbs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One column says which are bright, the other which are odd."""
    photos, rows = tmp_path / "photos", ["picture,shade,number"]
    photos.mkdir()
    for i in range(80):
        Image.new("L", (8, 8), 200 if i % 4 < 2 else 20).save(photos / f"{i}.png")
        rows.append(f"{i}.png,{'bright' if i % 4 < 2 else 'dark'},{'odd' if i % 2 else 'even'}")
    (photos / "labels.csv").write_text("\n".join(rows))
    run = ["train", "digits", "--data", str(photos), "--model", "resnet8_w4_cifar", "--num-exits", "1"]
    run += ["--budget", "0.9", "--epochs", "1", "--batch-size", "8", "--label-column", "shade"]
    assert main([*run, "--file-column", "picture", "--out", str(tmp_path / "out"), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert "--label-column shade" in (tmp_path / "out/README.md").read_text()
    assert main(["eval", str(tmp_path / "out"), "--data", str(photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == trained["accuracy"]
    assert EENet.from_pretrained(tmp_path / "out").config.class_names == ["bright", "dark"]


def test_whole_run_on_own_data(tmp_path: Path) -> None:
    rows = [(Image.new("L", (8, 8), 80 * (i % 3)), i % 3) for i in range(128)]
    images = from_dataset(rows, class_names=["dark", "grey", "light"])
    splits = {"train": images, "validation": images.subset(range(64)), "test": images.subset(range(64, 128))}
    measured = pipeline.train(replace(TINY, data="mine"), tmp_path, images=splits)
    assert measured.num_examples == 64
    assert EENet.from_pretrained(tmp_path).config.class_names == ["dark", "grey", "light"]
    assert "light" in (tmp_path / "report.html").read_text()


def test_a_folder_of_photos_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(160):
        place = tmp_path / "photos" / ("train" if i % 4 else "test") / ("cat", "dog")[i // 4 % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20 + i % 7, 24), 30 + 60 * (i // 4 % 2)).save(place / f"{i}.png")
    run = ["train", "digits", "--data", str(tmp_path / "photos"), "--model", "resnet8_w4_cifar"]
    run += ["--num-exits", "1", "--budget", "0.9", "--epochs", "1", "--batch-size", "16"]
    assert main([*run, "--out", str(tmp_path / "out")]) == 2
    assert "differ in size" in capsys.readouterr().err
    run += ["--image-size", "16", "--augmentation", "crop-flip", "--accumulate", "2"]
    assert main([*run, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_examples"] == 40
    assert main(["predict", str(tmp_path / "out"), str(tmp_path / "photos/test/cat"), "--json"]) == 0
    assert {row["label"] for row in json.loads(capsys.readouterr().out)} <= {"cat", "dog"}
    assert main(["eval", str(tmp_path / "out"), "--data", str(tmp_path / "photos")]) == 0


def test_mistakes_in_data_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("folders/train/cat", "folders/train/dog", "folders/test/cat"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / place / "0.png")
    (tmp_path / "labels").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = [{"image": Image.new("L", (8, 8)), "label": i % 2 if i else -1} for i in range(40)]
    datasets.Dataset.from_list(rows, features).to_parquet(tmp_path / "labels" / "train.parquet")
    (tmp_path / "empty").mkdir()
    capsys.readouterr()  # datasets shows how it writes
    for name, message in (
        ("folders", "can't be split by class"),
        ("labels", "label -1 is outside the 2 classes"),
        ("empty", "holds no data set"),
        ("cifra10", "did you mean cifar10"),
    ):
        where = name if name == "cifra10" else str(tmp_path / name)
        assert main(["train", "digits", "--data", where, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr()
        assert not said.out
        assert said.err.startswith("eenet: ")
        assert said.err.count("\n") == 1
        assert message in said.err


def test_a_full_disk_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(OSError, match=r"has 1 MB left; this run needs up to \d+ MB"):
        pipeline.train(TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_list_of_places_says_how_many_exits() -> None:
    two = ("layer3.0", "layer3.1")
    assert configured("camvid", placement=two).num_exits == 2
    assert configured("digits", placement=[0.2]).num_exits == 1
    other = configured("camvid", num_exits=2)
    assert (other.num_exits, other.placement) == (2, "linear")
    assert configured("camvid", placement=two, plain=True).num_exits == 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_possible(name: str) -> None:
    """Every recipe's network can be built and its budget be kept; retrofitted too, where it is small."""
    config = RECIPES[name].config
    size = {"digits": 8, "mnist": 28, "fashion-mnist": 28}.get(config.data, config.image_size or 64)
    if "resnet" in config.model and "cifar" in config.model and size == 64:
        size = 32
    mode = "L" if size in (8, 28) else "RGB"
    images = from_dataset([(Image.new(mode, (size, size)), i) for i in range(10)])
    network = pipeline.build(config, images)
    assert network.num_exits == config.num_exits
    assert network.costs_K[0] < float(config.budget) < network.costs_K[-1]
    if config.task == "classification":
        assert retrofit(config).freeze_backbone
    else:
        with pytest.raises(ValueError, match="no classifier to keep"):
            retrofit(config)
