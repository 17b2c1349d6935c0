"""Runs without a recipe: what is chosen, what the weights are, which settings; each mistake is one line."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from accelerate import tracking
from accelerate.utils import LoggerType
from conftest import in_memory
from PIL import Image
from record_cases import make_records
from safetensors.torch import load_file
from torch import nn

import eenet
from eenet import EENet
from eenet.cli import main
from eenet.data import Images, from_dataset
from eenet.networks.building import create_model
from eenet.policies.budget import policies_for_budgets
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import Records, decide
from eenet.tasks.classification.metrics import expected_accuracy, loss_of, measure
from eenet.training.loop import balanced, class_weights
from eenet.training.objectives import joint_cross_entropy
from eenet.training.planning.budgeting import cheapest, fit_for
from eenet.training.planning.choosing import choose
from eenet.training.planning.making import build
from eenet.training.planning.settings import TrainConfig
from eenet.training.planning.starting import start_of
from eenet.training.planning.wording import parsed, read_run, typed, write_run
from eenet.training.trainer import LAYER_GROUPS, layer_groups

NAME = "resnet8_w4_cifar"
MINE = ["--data", "digits", "--model", NAME, "--epochs", "1"]


def photos(count: int = 40, classes: int = 4, side: int = 16) -> Images:
    rows = [(Image.effect_noise((side, side), 20 + 40 * (i % classes)), i % classes) for i in range(count)]
    return from_dataset(rows)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network for digits that somebody trained elsewhere, in parallel."""
    torch.manual_seed(1)
    made: Any = timm.create_model(NAME, num_classes=10, in_chans=1)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save({"state_dict": {f"module.{n}": t for n, t in made.state_dict().items()}}, path)
    return path


def own_of(weights: Path) -> dict[str, torch.Tensor]:
    return {n.removeprefix("module."): t for n, t in torch.load(weights)["state_dict"].items()}


def stages_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(checkpoint / "model.safetensors")
    return {name.split(".", 2)[2]: t for name, t in tensors.items() if name.startswith("stages.")}


def test_a_file_of_weights_gets_exits_and_stays_as_it_is(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *MINE, "--weights", str(weights), "--mean", "0.3", "--std", "0.4"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().err
    assert "knows 10 classes already, so its weights stay as they are" in said
    assert "prefix 'module.' taken off" in said
    assert "budget auto" in said
    own, stages = own_of(weights), stages_of(tmp_path / "a")
    assert own.keys() == stages.keys()
    assert all(torch.equal(own[name], stages[name]) for name in own)
    held_out, plain = in_memory("digits", "validation"), timm.create_model(NAME, num_classes=10, in_chans=1)
    plain.load_state_dict(own)
    pixels = (torch.from_numpy(held_out.pixels(slice(None))).float() / 255 - 0.3) / 0.4
    with torch.inference_mode():
        right = (plain.eval()(pixels).argmax(1).numpy() == held_out.labels_B).mean()
    (told,) = re.findall(r"your network: ([\d.]+) % on 288 validation images", said)
    assert float(told) == pytest.approx(100 * right, abs=0.4)
    assert "near chance" in said  # the weights are random
    assert "--mean, --std, --image-size" in said
    card = (tmp_path / "a/README.md").read_text()
    assert f"eenet train {' '.join(words[1:3])}" in card
    assert main(["train", "--config", str(tmp_path / "a/run.toml"), "--out", str(tmp_path / "b")]) == 0
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_network_in_memory(tmp_path: Path) -> None:
    """It is recognised, so its checkpoint loads by itself; it isn't changed."""
    mine: Any = timm.create_model(NAME, num_classes=10, in_chans=1)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    eenet.train(data="digits", model=mine, out=tmp_path, epochs=1, mean=[0.3], std=[0.4])
    images = torch.rand(2, 1, 8, 8)
    loaded = eenet.EENet.from_pretrained(tmp_path)
    assert loaded.config.backbone == NAME
    assert torch.equal(loaded(images).logits_KBN[-1], mine.eval()(images))
    assert all(torch.equal(before[name], tensor) for name, tensor in mine.state_dict().items())


def test_a_new_classifier_on_weights_for_other_classes(weights: Path) -> None:
    config = TrainConfig("mine", NAME, weights=str(weights), num_exits=1)
    with pytest.raises(ValueError, match=r"knows 10 classes, the data set has 4 .*--new-classifier"):
        build(config, photos())
    network = build(replace(config, new_classifier=True), photos())
    assert network.config.num_classes == 4
    own = own_of(weights)
    stages = {name.split(".", 2)[2]: t for name, t in network.state_dict().items() if "stages" in name}
    assert stages["fc.weight"].shape[0] == 4
    assert all(torch.equal(own[n], t) for n, t in stages.items() if not n.startswith("fc."))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_checkpoint_on_other_classes(weighted: bool, tmp_path: Path) -> None:
    network = create_model(NAME, num_exits=1, num_classes=10, input_size=(1, 16, 16))
    network.config.mean, network.config.std = [0.25], [0.5]
    network.save_pretrained(tmp_path)
    config = TrainConfig("mine", str(tmp_path), num_exits=1, new_classifier=weighted)
    if not weighted:
        with pytest.raises(
            ValueError, match=r"in 10 classes, the data set has \(1, 16, 16\) in 4; .*--new-c"
        ):
            build(config, photos())
        return
    made = build(config, photos())
    assert (made.config.num_classes, made.config.mean) == (4, [0.25])
    assert torch.equal(made.stages[0].conv1.weight, network.stages[0].conv1.weight)  # type: ignore[union-attr]


def test_what_is_chosen(weights: Path) -> None:
    """Exits only for weights that know the classes, a rate for finetuning for others, else from scratch."""
    images = photos(400, 10)
    own: dict[str, Any] = {"data": "mine", "model": NAME}
    new = choose(start_of(TrainConfig(**own)), images, own)
    assert new.why.startswith("scratch")
    known = {**own, "weights": str(weights)}
    retrofit = choose(start_of(TrainConfig(**known)), images, known)
    assert retrofit.why.startswith("retrofit")
    assert retrofit.settings["freeze_backbone"]
    for asked, count in (({"new_classifier": True}, 4), ({"freeze_backbone": False}, 10)):
        settings = {**known, **asked}
        tuned = choose(start_of(TrainConfig(**settings)), photos(400, count), settings)
        assert tuned.why.startswith("finetune")
        assert tuned.settings["optimizer"] == "adamw"
        assert tuned.settings["learning_rate"] <= 1e-3
        assert tuned.settings["label_smoothing"] == 0.1
        assert TrainConfig(**tuned.settings).freeze_backbone is False
    assert choose(start_of(TrainConfig(**own)), images, {**own, "epochs": 3}).settings["epochs"] == 3
    places = {**own, "placement": [0.3, 0.6]}
    assert choose(start_of(TrainConfig(**own)), images, places).settings["num_exits"] == 2
    few, many = (choose(start_of(TrainConfig(**own)), photos(n, 4), own).settings for n in (40, 4000))
    assert few["batch_size"] < many["batch_size"]


def test_finetuning_from_end_to_end(weights: Path, tmp_path: Path) -> None:
    images = photos(160)
    parts = {"train": images, "validation": images.subset(range(40)), "test": images.subset(range(40))}
    done = eenet.train(
        model=NAME, weights=str(weights), new_classifier=True, images=parts, out=tmp_path, epochs=2
    )
    assert done.num_examples == 40
    assert set(done.class_accuracy) == set(images.class_names)
    config = eenet.EENet.from_pretrained(tmp_path).config
    assert config.provenance["train_config"]["optimizer"] == "adamw"
    assert config.mean == pytest.approx([sum((0.485, 0.456, 0.406)) / 3], abs=0.3)


# Settings ----------------------------------------------------------------------------


def test_settings_in_words_and_in_a_file(tmp_path: Path) -> None:
    words = ["epochs=3", "learning-rate=1", "head=pool", "placement=[0.2, 0.6]", "ema=none", "balanced=true"]
    found = typed(parsed(words))
    assert found == {
        "epochs": 3, "learning_rate": 1.0, "head": "pool", "placement": [0.2, 0.6], "ema": None,
        "balanced": True,
    }  # fmt: skip
    config = TrainConfig(
        'photos of ä "b"', "own:net", model_args={"width": 3, "name": "x y", "deep": {"a": [1, 2]}}, **found
    )
    write_run(config, tmp_path)
    read, complete = read_run(tmp_path / "run.toml")
    assert complete
    assert TrainConfig(**read) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epochs"], "'epochs' is not of the form key=value"),
        (["epochz=3"], "unknown setting 'epochz'; choose from epochs"),
        (["epochs=many"], "epochs is 'many'; expected a whole number"),
        (["pretrained=3"], "pretrained is 3; expected true or false"),
        (["learning_rate=fast"], "expected a number"),
        (["mean=0.5"], "mean is 0.5; expected a list of numbers or none"),
        (["teacher=[1]"], "teacher is [1]; expected text or a list of names or none"),
    ],
)
def test_settings_that_cannot_be(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        typed(parsed(words))


BAD = {
    "train": "data and model are missing: give a recipe",
    "train --data digits": "model is missing",
    "train --data digits --model resnet8_w4_cifr": "did you mean resnet8_w4_cifar",
    "train --data digits --model absent_module:net": "can't import 'absent_module'",
    "train --data digits --model net.py:Net": "give the module, not its file: net:Net",
    "train --data digits --model NAME --weights absent.pth": "no weights file absent.pth",
    "train --data digits --model NAME --weights mine.pht": "did you mean mine.pth?",
    "train --data digits --model NAME --weights MODULE": "holds pickled objects",
    "train --data digits --model resnet20_cifar --weights mine.pth": "tensors missing",
    "train --data digits --model resnet18 --weights mine.pth": "doesn't fit this ResNet",
    "train --data digits --model digits-eenet8 --weights mine.pth": "weights of its own",
    "train --data digits --model NAME --weights mine.pth --pretrained": "give one of them",
    "train --data digits --model NAME --freeze-backbone": "starts from random weights",
    "train --data digits --model NAME --mean 0.5": "mean and std belong together",
    "train --data digits --model NAME --mean 0.5 0.5 --std 0.5 0.5": "the images have 1 channels",
    "train --data digits --model NAME --set epochs=many": "expected a whole number",
    "train --data digits --model NAME --set epochz=1": "unknown setting 'epochz'",
    "train --data digits --model NAME --budget cheap": "budget",
    "train --data digits --model NAME --max-drop 200": "points of accuracy",
    "train --data digits --model NAME --placement 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.2 0.2": "placement",
    "train --data digits --model NAME --model-args depth": "not of the form key=value",
    "train --data digits --model NAME --model-args depth=3": "can't build backbone",
    "train --config absent.toml": "no file of settings",
    "train --config BROKEN": "not valid TOML",
    "train digits --config COMPLETE": "not both",
    "train three": "to train on what it holds: --data three",
    "train --data three --model NAME --weights mine.pth": "knows 10 classes, the data set has 3",
    "predict digits-eenet8 x.png --model NAME": "it names the function",
    "train --data digits --model NAME --track nowhere": "tensorboard",
}  # fmt: skip


def test_a_checkpoint_is_finetuned_to_other_classes_and_another_size(tmp_path: Path) -> None:
    for i in range(48):
        place = tmp_path / "three" / ("train" if i % 4 else "test") / "abc"[i // 4 % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 5 * i).save(place / f"{i}.png")
    asked: dict[str, Any] = {"data": str(tmp_path / "three"), "model": "digits-eenet8", "epochs": 1}
    with pytest.raises(ValueError, match=r"takes images of size \(1, 8, 8\)"):
        eenet.train(out=tmp_path / "a", image_size=16, **asked)
    eenet.train(out=tmp_path / "b", image_size=16, new_classifier=True, **asked)
    config = EENet.from_pretrained(tmp_path / "b").config
    assert (config.input_size, config.num_classes) == ((1, 16, 16), 3)
    shipped, seconds = EENet.from_pretrained("digits-eenet8").config.effort
    own = config.provenance["train_seconds"]
    assert config.effort == (shipped + 1, seconds + own)
    assert f"with weights that took {shipped} epochs before" in (tmp_path / "b/README.md").read_text()
    eenet.train(out=tmp_path / "c", **{**asked, "model": str(tmp_path / "b"), "epochs": 2})
    again = EENet.from_pretrained(tmp_path / "c").config
    assert again.effort == (shipped + 3, seconds + own + again.provenance["train_seconds"])


@pytest.mark.parametrize("command", BAD)
def test_mistakes_are_one_line(
    command: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").write_bytes(weights.read_bytes())
    torch.save(nn.Sequential(nn.Linear(2, 2)), "MODULE")
    Path("BROKEN").write_text("epochs = = 3")
    Path("COMPLETE").write_text('complete = true\ndata = "digits"\nmodel = "resnet8_w4_cifar"\n')
    for i in range(60 if "three" in command else 0):
        place = Path("three", "train" if i % 4 else "test", "abc"[i // 4 % 3])
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(place / f"{i}.png")
    words = [NAME if word == "NAME" else word for word in command.split()]
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    *_, last = said.err.splitlines()
    assert last.startswith("eenet: ")
    assert BAD[command] in last
    assert "Traceback" not in said.err


# Budgets -----------------------------------------------------------------------------


def test_the_cheapest_policy_within_a_drop() -> None:
    """Against counting, policy by policy."""
    records = make_records(300)
    budgets = policies_for_budgets(records)
    full = measure(records, next(iter(budgets.values()))).full_accuracy
    for max_drop in (0.5, 2.0, 10.0):
        policy, told = cheapest(records, budgets, max_drop)
        passed = []
        for budget in sorted(budgets, key=float, reverse=True):
            lost = 100 * (full - measure(records, budgets[budget]).accuracy)
            if max(lost, expected_loss(records, budgets[budget])) > max_drop + 1e-9:
                break
            passed.append(budgets[budget])
        if passed:
            assert policy == passed[-1]
            assert f"a drop of at most {max_drop:g} points" in told
        else:
            assert not any(policy.enabled)
    careful, bold = (measure(records, cheapest(records, budgets, d)[0]) for d in (0.5, 10))
    assert bold.relative_cost <= careful.relative_cost


def expected_loss(records: Records, policy: ExitPolicy) -> float:
    """Of 100 images: how much likelier the full network finds its own answer than that of the policy."""
    answers_KBN, lost = torch.from_numpy(records.answers(policy.enabled)), 0.0
    full_BN = torch.from_numpy(records.answers())[-1].double().softmax(1)
    for i, k in enumerate(decide(records, policy).tolist()):
        lost += float(full_BN[i].max() - full_BN[i, answers_KBN[k, i].argmax()])
    return 100 * lost / len(records)


def test_what_a_policy_loses_is_known_to_a_certainty() -> None:
    records = make_records(300)
    policy = policies_for_budgets(records)["0.600"]
    found = measure(records, policy)
    loss = loss_of(records, policy)
    assert loss.expected == pytest.approx(expected_loss(records, policy), abs=1e-4)
    alone, joined, mine = replace(records, ensemble=None), records.joined(), 0.0
    full_BN = torch.from_numpy(joined.answers())[-1].double().softmax(1)
    for i, k in enumerate(decide(alone, policy).tolist()):
        mine += float(full_BN[i, alone.logits_KBN[k, i].argmax()]) / len(alone)
    assert expected_accuracy(alone, policy, joined) == pytest.approx(mine, abs=1e-6)
    assert loss.points == pytest.approx(100 * (found.full_accuracy - found.accuracy))
    low, high = loss.interval
    assert low < loss.points < high
    random = np.random.default_rng(0)
    exits_B, right_KB = np.asarray(decide(records, policy)), np.asarray(records.correct(policy.enabled))
    lost_B = right_KB[-1].astype(float) - right_KB[exits_B, np.arange(300)]
    seen = [100 * lost_B[random.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert loss.error == pytest.approx(np.std(seen), rel=0.06)
    never = loss_of(records, replace(policy, enabled=(False,) * len(policy.enabled)))
    assert never.points == 0
    assert never.interval[1] == pytest.approx(100 * 1.96 / 302, rel=0.01)
    assert never.within_noise


@pytest.mark.parametrize(("lost", "within"), [(0, True), (1, True), (2, False), (9, False)])
def test_one_image_is_noise_and_two_are_not(lost: int, within: bool) -> None:
    """Of 100 that the full network has right, so many are lost at the first exit."""
    labels_B = np.zeros(100, np.int64)
    answers_KB = np.stack([np.arange(100) < lost, labels_B])
    logits_KBN = 9 * np.eye(2, dtype=np.float32)[answers_KB]
    records = Records(logits_KBN, np.full((1, 100), 4, np.float32), labels_B, [50, 50], [1], 100)
    loss = loss_of(records, ExitPolicy("confidence", (0.5,)))
    assert loss.points == lost
    assert loss.within_noise is within


def test_auto_spends_less_where_nothing_is_lost() -> None:
    """Early exits that are always right and sure: the first is enough."""
    labels_B = np.arange(200) % 4
    sure_BN = np.eye(4, dtype=np.float32)[labels_B] * np.linspace(3, 9, 200, dtype=np.float32)[:, None]
    confidence_KB = np.linspace(3, 5, 400, dtype=np.float32).reshape(200, 2).T
    records = Records(np.tile(sure_BN, (3, 1, 1)), confidence_KB, labels_B, [30, 30, 40], [1, 1], 100)
    config = TrainConfig("mine", NAME, budget="auto")
    fitted, told = fit_for(records, config, gate="features")
    assert measure(fitted.records, fitted.policy).relative_cost == pytest.approx(0.31, abs=0.03)
    assert "within noise" in told
    fitted, _ = fit_for(records, replace(config, budget=0.8), gate="features")
    assert measure(fitted.records, fitted.policy).relative_cost > 0.5


# Imbalance and rates -----------------------------------------------------------------


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    images = photos(80)
    some = images.subset(torch.tensor([i for i in range(80) if i % 4 == 0 or i < 20]))
    counts_N = np.bincount(np.asarray(some.labels_B))
    assert len(set(counts_N)) > 1
    weights_N = class_weights(some)
    assert torch.allclose(weights_N * torch.tensor(counts_N), torch.full((4,), len(some) / 4))
    drawn_N = np.bincount(np.asarray(balanced(some, 0, 0).labels_B), minlength=4)
    assert max(drawn_N) - min(drawn_N) <= 4
    assert len(balanced(some, 0, 0)) == len(some)
    first, again, other = (np.asarray(balanced(some, 0, epoch).labels_B) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weighted_and_smoothed_cross_entropy(network: eenet.EENet) -> None:
    outputs, targets = network(torch.rand(8, 1, 8, 8)), torch.arange(8) % 4
    weights_N = torch.arange(10.0)
    expected = sum(
        nn.functional.cross_entropy(logits, targets, weights_N, label_smoothing=0.1)
        for logits in outputs.logits_KBN
    )
    found = joint_cross_entropy(
        outputs, targets, network.costs_K, label_smoothing=0.1, class_weights_N=weights_N
    )
    assert torch.allclose(found, torch.as_tensor(expected))


def test_rates_fall_towards_the_image(network: eenet.EENet) -> None:
    groups = layer_groups(network, 0.5, 0.01)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(list(network.parameters()))
    order = [scale[id(parameter)] for parameter in network.stages.parameters()]
    assert order == sorted(order)
    assert order[0] == 0.5**LAYER_GROUPS
    assert order[-1] == 1
    assert {scale[id(parameter)] for parameter in network.heads.parameters()} == {1}
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0)


# Tracking and seeds ------------------------------------------------------------------


def test_figures_go_to_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as in metrics.jsonl, epoch by epoch; a tracker that isn't installed is named at once."""
    told: list[tuple[dict[str, float], int]] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((values, step))

        def finish(self) -> None:
            told.append(({}, -1))

    asked: dict[str, Any] = {"data": "digits", "model": NAME, "track": "trackio", "epochs": 2}
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ValueError, match="tracking by trackio needs its package: pip install trackio"):
        eenet.train(out=tmp_path / "a", **asked)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TRACKIO])
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=lambda project: Run()))  # noqa: ARG005
    eenet.train(out=tmp_path / "b", **asked)
    lines = [json.loads(line) for line in (tmp_path / "b/metrics.jsonl").read_text().splitlines()]
    assert [step for _, step in told] == [1, 2, -1]
    for (values, _), line in zip(told, lines, strict=False):
        assert values["loss"] == line["loss"]
        assert values["validation/accuracy"] == line["validation"]["accuracy"]


def test_several_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *MINE, "--seeds", "2", "--seed", "3", "--out", str(tmp_path / "s"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [3, 4]
    accuracies = [run["accuracy"] for run in found["runs"]]
    assert found["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert found["standard_error"]["accuracy"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2)
    page = Path(found["report"]).read_text()
    assert "seed3" in page
    assert "seed4" in page
    assert main([*words[:-1]]) == 0  # what is done isn't trained again
    shown = capsys.readouterr()
    assert "mean ± standard error" in shown.out
    assert "epoch 1/1" not in shown.err
    with pytest.raises(ValueError, match="seeds is 1; give at least 2"):
        eenet.train_seeds(1, "digits")


# Every verb --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey photos of four kinds."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for i in range(160):
        place = folder / ("train" if i % 4 else "test") / "abcd"[i // 4 % 4]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 20 + 40 * (i // 4 % 4)).save(place / f"{i}.png")
    return folder


def test_every_verb_takes_every_kind_of_network(
    photos_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same weights as a network of timm, of torchvision and of a user's own: the same answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_cnn.py").write_text(
        "import torchvision\n\n\ndef build(num_classes=4):\n"
        "    return torchvision.models.resnet18(num_classes=num_classes)\n"
    )
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), "mine.pth")
    answers = []
    for name in ("resnet18", "torchvision:resnet18", "my_cnn:build"):
        out = name.split(":")[-1] + str(len(answers))
        words = ["train", "--data", str(photos_folder), "--model", name, "--weights", "mine.pth"]
        words += ["--epochs", "1", "--budget", "0.9", "--set", "precision=fp32"]
        words += ["--mean", "0.5", "--std", "0.2"]
        assert main([*words, "--out", out]) == 0
        data = ["--data", str(photos_folder)]
        capsys.readouterr()
        others = (
            ["eval", out, *data],
            ["calibrate", out, *data, "--budget", "0.8", "--name", "other"],
            ["bench", out, *data, "--backends", "torch", "--repeats", "1", "--batch-sizes", "1"],
            ["export", out, "--out", f"{out}-exported"],
            ["report", out, *data, "--out", f"{out}.html"],
            ["info", out],
        )
        predict = ["predict", out, str(photos_folder / "test"), "--json"]
        for verb in (*(others if "my_cnn" in name else ()), predict):
            assert main(verb) == 0, verb
        rows = json.loads(capsys.readouterr().out.splitlines()[-1])
        answers.append([(row["label"], row["exit"], row["probability"]) for row in rows])
    assert answers[0] == answers[1] == answers[2]
