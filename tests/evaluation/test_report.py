"""The report, opened in a real browser: it says what evaluation says, wherever its slider stands."""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CUTS, in_memory, nothing_wrong
from PIL import Image
from playwright.sync_api import Browser, Page
from scipy.stats import binomtest

import eenet
from eenet.backbones.names import create_backbone
from eenet.data.image_sets import ImageSet
from eenet.evaluation.benching import Bench
from eenet.evaluation.evaluating import collect
from eenet.evaluation.page import Entry, build_report
from eenet.evaluation.reporting import report_entry
from eenet.networks.building import create_model, without_exits
from eenet.networks.graphs.stored import open_network
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.policies.records import RECORDS_FILE, Records, decide
from eenet.policies.risk import policy_for_drop
from eenet.runtime.predictor import Predictor
from eenet.runtime.timing import BenchRow
from eenet.tasks.classification.metrics import measure
from eenet.tasks.classification.showing import wilson
from eenet.tasks.pages import EXACT_UP_TO, THUMBNAIL

CHECKPOINT = "digits-eenet8"
TIMES = [("torch", 1.31, 2.0), ("onnxruntime", 1.87, 0.3), ("openvino", 0.71, 0.9)]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with exits beside a plain, untrained one."""
    directory = tmp_path_factory.mktemp("report")
    digits = in_memory("digits", "test")
    arguments = {"num_classes": 10, "in_chans": 1}
    plain = without_exits(create_backbone("resnet8_w4_cifar", arguments), digits.image_size)
    plain.config.backbone, plain.config.backbone_args = "resnet8_w4_cifar", arguments
    plain.config.mean, plain.config.std = digits.mean_std()
    plain.save_pretrained(directory / "plain")
    found = eenet.report(
        [CHECKPOINT, directory / "plain"],
        directory / "report.html",
        data="digits",
        corruptions=["fog", "jpeg"],
        severities=[5],
    )
    assert Path(found.report) == directory / "report.html"
    assert found.bytes == (directory / "report.html").stat().st_size < 2e6
    return directory / "report.html"


@dataclass(frozen=True)
class Small:
    """A report on few images, of a network whose own policy was set again and is none of its budgets."""

    path: Path
    records: Records
    policy: ExitPolicy
    budgets: dict[str, ExitPolicy]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    network, few = EENet.from_pretrained(CHECKPOINT), in_memory("digits", "test").subset(list(range(40)))
    records, others = collect(network, few), collect(network, in_memory("digits", "validation"))
    network.config.policy = policy_for_drop(others, 0.02).to_dict()
    kept = ["0.475", "0.700", "0.600", "0.600", "0.900"]  # larger budgets cost less here, or the same
    network.config.budgets = {
        f"{0.5 + 0.1 * i:.3f}": network.config.budgets[key] for i, key in enumerate(kept)
    }
    rows = [bench_row(backend=name, speedup=speedup, early_exit_ms=ms) for name, speedup, ms in TIMES]
    rows.append(bench_row(batch_size=64, speedup=9.0, early_exit_ms=0.01))
    timings = Bench(rows=rows, hardware="a machine", versions={}, repeats=1)
    entry = report_entry("small", network.config, records, network.config.exit_policy(), timings=timings)
    path = tmp_path_factory.mktemp("small") / "report.html"
    path.write_text(build_report([entry], few, title="small"))
    return Small(path, records, entry.policy, dict(entry.budgets))


def bench_row(**given: Any) -> BenchRow:
    times: dict[str, Any] = {field.name: 1.0 for field in fields(BenchRow)}
    return BenchRow(**times | {"backend": "torch", "batch_size": 1, "exit_shares": [1.0]} | given)


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, by scipy."""
    low, high = binomtest(right, count).proportion_ci(method="wilson")
    return low, high


def traces(page: Page) -> dict[str, dict[str, Any]]:
    """What is drawn in the plot of accuracy against cost, by name."""
    plot = page.locator(".plot[aria-label^='Accuracy against mean']")
    drawn = plot.evaluate("plot => plot.data.map(({name, x, y}) => ({name, x: [...x], y: [...y]}))")
    return {trace["name"]: trace for trace in drawn}


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    with nothing_wrong(page):
        yield page


def opened(page: Page, path: Path) -> Page:
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    return page


def test_slider_moves_the_working_point(page: Page, compared: Path) -> None:
    opened(page, compared)
    network, digits = EENet.from_pretrained(CHECKPOINT), in_memory("digits", "test")
    records = collect(network, digits)
    budgets = sorted(network.config.budgets, key=float)
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "budget":
            break
    shown = []
    for key, budget in ((None, None), ("Home", float(budgets[0])), ("End", float(budgets[-1]))):
        if key:
            page.keyboard.press(key)
        expected = measure(records, network.config.exit_policy(budget))
        tiles = page.locator(".tiles").first.locator("b").all_inner_texts()
        assert tiles[:2] == [f"{100 * expected.accuracy:.2f} %", f"{expected.relative_cost:.3f}"]
        bar = page.locator(".shares").first.get_attribute("aria-label") or ""
        assert [float(x) for x in re.findall(r": ([\d.]+) %", bar)] == pytest.approx(
            [100 * count / len(records) for count in expected.exit_counts], abs=0.051
        )
        row = page.locator(".confusion").first.locator("tbody tr").nth(8).locator("td").all_inner_texts()
        right = float(row[8]) / 100
        shown.append((tiles[1], bar, right))
    assert len({cost for cost, _, _ in shown}) == 3
    page.get_by_role("button", name="own policy").press("Enter")
    assert page.locator(".tiles").first.locator("b").nth(1).inner_text() == shown[0][0]


def test_the_line_goes_by_cost_and_the_band_lies_around_it(page: Page, small: Small) -> None:
    found = [measure(small.records, policy) for policy in small.budgets.values()]
    costs = [each.relative_cost for each in found]
    assert costs != sorted(costs), "on these images a larger budget costs less: the line would fold back"
    drawn = traces(opened(page, small.path))
    line, band = drawn["budgets"], drawn["band"]
    expected = sorted({(each.relative_cost, each.accuracy) for each in found})
    assert (line["x"], line["y"]) == tuple(map(pytest.approx, zip(*expected, strict=True)))
    half, count = len(expected), len(small.records)
    assert band["x"][:half] == line["x"] == band["x"][half:][::-1]
    for accuracy, upper, lower in zip(line["y"], band["y"][:half], band["y"][half:][::-1], strict=True):
        assert (lower, upper) == pytest.approx(interval(round(accuracy * count), count))


def test_the_own_policy_is_a_point_of_its_own(page: Page, small: Small) -> None:
    assert small.policy not in small.budgets.values()
    own = measure(small.records, small.policy)
    opened(page, small.path)
    before = traces(page)
    star, ring = before["own policy"], before["shown now"]
    assert [*star["x"], *star["y"]] == pytest.approx([own.relative_cost, own.accuracy])
    assert (ring["x"], ring["y"]) == (star["x"], star["y"])
    final_B = small.records.logits_KBN[-1].argmax(1) == small.records.labels_B
    for name, point in (
        ("never leaving early", [small.records.costs()[-1], own.full_accuracy]),
        ("exits taken off", [1, final_B.mean()]),
    ):
        assert [*before[name]["x"], *before[name]["y"]] == pytest.approx(point)
    said = page.locator("section").first.inner_text()
    above = ["confidence is above", *(f"{threshold:.3g}" for threshold in small.policy.thresholds)]
    assert all(small.policy.enabled)
    assert all(words in said for words in above)
    assert "not among those for budgets" in said
    page.locator("#budget").press("End")
    after = traces(page)
    assert after["own policy"] == star
    line = after["budgets"]
    assert (after["shown now"]["x"][0], after["shown now"]["y"][0]) in zip(line["x"], line["y"], strict=True)


def test_own_policy_of_a_budget_says_which(page: Page, compared: Path) -> None:
    opened(page, compared)
    config = EENet.from_pretrained(CHECKPOINT).config
    (budget,) = [key for key, policy in config.budgets.items() if policy == config.policy]
    assert f"own policy (budget {budget})" in " ".join(traces(page))
    assert f"the one for budget {budget}" in page.locator("section").first.inner_text()


def test_text_names_the_policy_as_it_is_now(page: Page, tmp_path: Path) -> None:
    trained_for = EENet.from_pretrained(CHECKPOINT).config.provenance["train_config"]["budget"]
    said = []
    eenet.calibrate(CHECKPOINT, data="digits", budget=0.62, out=tmp_path / "again")
    for checkpoint in (CHECKPOINT, tmp_path / "again"):
        eenet.report(checkpoint, tmp_path / "report.html", data="digits")
        said.append(opened(page, tmp_path / "report.html").locator("section").first.inner_text())
    assert [f"budget {trained_for}" in text for text in said] == [True, False]
    assert ["budget 0.62" in text for text in said] == [False, True]
    assert ["not among" in text for text in said] == [False, True]


def test_headline_and_slider_say_numbers(page: Page, small: Small) -> None:
    opened(page, small.path)
    budgets, full = sorted(small.budgets, key=float), small.records.full_accuracy
    own = measure(small.records, small.policy).relative_cost
    backend, speedup, _ = TIMES[1]
    timed = f", {speedup:.1f} times as fast ({backend}, batch 1)"
    for key, policy, number, faster in (
        (None, small.policy, f"cost {own:.3f} (own)", timed),
        ("Home", small.budgets[budgets[0]], f"budget {float(budgets[0]):.3f}", ""),
        ("End", small.budgets[budgets[-1]], f"budget {float(budgets[-1]):.3f}", ""),
    ):
        if key:
            page.locator("#budget").press(key)
        assert page.locator("#dial output").inner_text() == number
        assert page.locator("#budget").get_attribute("aria-valuetext") == number
        expected = measure(small.records, policy)
        points = 100 * (expected.accuracy - full)
        amount = f"{abs(points):.1f} points {'more' if points > 0 else 'less'} accurate than"
        assert page.locator(".headline").inner_text() == (
            f"{100 * (1 - expected.relative_cost):.0f} % fewer MACs than the plain backbone{faster}, "
            f"{amount if points else 'as accurate as'} never leaving early."
        )


def test_headline_names_a_static_network_beside_it(page: Page, compared: Path) -> None:
    headline = opened(page, compared).locator(".headline")
    assert headline.count() == 1
    against = r"; against plain: \d+ % fewer MACs, [\d.]+ points more accurate\."
    assert re.search(f"{against}$", headline.inner_text())


def test_a_click_on_the_slider_is_a_choice(page: Page, compared: Path) -> None:
    """Also where it stands already."""
    opened(page, compared)
    slider = page.locator("#budget")
    assert "own" in page.locator("#dial output").inner_text()
    at = slider.evaluate("slider => (slider.value - slider.min) / (slider.max - slider.min)")
    box = slider.bounding_box()
    assert box
    page.mouse.click(box["x"] + 8 + at * (box["width"] - 16), box["y"] + box["height"] / 2)
    assert page.locator("#dial output").inner_text().startswith("budget 0.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_hidden_on_a_phone(browser: Browser, compared: Path, small: Small, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for path in (compared, small.path):
        opened(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        tables = page.locator(".scroll").evaluate_all(
            "all => all.map(box => [box.getAttribute('aria-label'), box.scrollWidth - box.clientWidth,"
            " getComputedStyle(box).backgroundImage])"
        )
        assert {label.split(",")[0] for label, _, _ in tables} >= {"exit", "confusion matrix"}
        assert all(image.count("gradient") == 2 for _, _, image in tables), "a shadow where a table goes on"
        assert all(beyond <= 0 for label, beyond, _ in tables if label.startswith("exit,"))
        boxes = page.locator(".plot").evaluate_all(
            "all => all.map(plot => ['.legend', '.xtitle', '.ytitle', '.nsewdrag', '.xaxislayer-above']"
            ".map(part => plot.querySelector(part)?.getBoundingClientRect().toJSON() ?? null))"
        )
        assert len(boxes) >= 2
        for legend, *others in boxes:
            for other in others if legend else []:
                assert legend["bottom"] <= other["top"] + 1 or legend["top"] >= other["bottom"] - 1
            assert not legend or (legend["left"] >= 0 and legend["right"] <= 390)
    page.close()


def test_plots_are_in_the_page_s_letters(page: Page, compared: Path) -> None:
    families = opened(page, compared).evaluate(
        "[...document.querySelectorAll('body, .plot text')].map(text => getComputedStyle(text).fontFamily)"
    )
    assert len(families) > 50
    assert len(set(families)) == 1


def test_an_exit_has_its_colour_whatever_else_is_there(page: Page, digits: ImageSet, tmp_path: Path) -> None:
    """The final exit too, which has another number in every network."""
    entries = []
    for cuts in (CUTS, CUTS[:1]):
        made = create_model(
            "resnet8_w4_cifar", num_classes=10, input_size=(1, 8, 8), placement=cuts, head="pool"
        ).eval()
        made.config.mean, made.config.std = digits.mean_std()
        records, policy = collect(made, digits), made.config.exit_policy()
        entries.append(report_entry(str(len(cuts)), made.config, records, policy))
    seen: dict[str, set[str]] = {}
    for shown in (entries, entries[::-1], entries[:1], entries[1:]):
        path = tmp_path / "report.html"
        path.write_text(build_report(shown, digits, title="colours"))
        cells = opened(page, path).locator("td:has(i.key)")
        keys = cells.evaluate_all(
            "all => all.map(cell => [cell.innerText, cell.querySelector('i').style.background])"
        )
        assert len(keys) == sum(len(entry.policy.thresholds) + 1 for entry in shown)
        for name, colour in keys:
            seen.setdefault(name.split(",")[0], set()).add(colour)
    assert len(seen) == 4
    assert all(len(colours) == 1 for colours in seen.values()), seen
    assert len(set().union(*seen.values())) == 4


def test_interval_of_a_share() -> None:
    """Against scipy, also where all are right or none."""
    for count in (1, 2, 3, 10, 997, 10**6):
        for right in {0, 1, count // 3, count // 2, count - 1, count}:
            assert wilson(right, count) == pytest.approx(interval(right, count), rel=1e-9, abs=1e-12)


def test_the_library_for_plots_keeps_its_licence() -> None:
    assets = files("eenet").joinpath("assets")
    assert "Licensed under the MIT license" in assets.joinpath("plotly-basic.min.js").read_text("utf-8")[:200]
    assert "Plotly" in assets.joinpath("plotly-basic.LICENSE").read_text("utf-8")


@pytest.mark.parametrize(("repeat", "side"), [(1, 8), (4, EXACT_UP_TO), (25, THUMBNAIL)])
def test_large_pictures_are_made_small(
    page: Page, digits: ImageSet, network: EENet, tmp_path: Path, repeat: int, side: int
) -> None:
    pixels_BCHW: Any = np.asarray(digits.pixels_BCHW).repeat(repeat, 2).repeat(repeat, 3)
    images = ImageSet(pixels_BCHW, digits.labels_B, digits.class_names)
    entry = Entry("one", collect(network, digits), network.config.exit_policy())
    path = tmp_path / "report.html"
    path.write_text(build_report([entry], images, title="pictures"))
    sources = opened(page, path).locator("figure img").evaluate_all("all => all.map(image => image.src)")
    assert sources
    whole = {image.tobytes() for image in pixels_BCHW[:, 0]}
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert picture.size == (side, side)
        if side <= EXACT_UP_TO:
            assert picture.convert("L").tobytes() in whole


def test_confusion_matrix(page: Page, compared: Path) -> None:
    opened(page, compared)
    digits = in_memory("digits", "test")
    with Predictor(CHECKPOINT, backend="torch") as predictor:
        answers = predictor.run(np.asarray(digits.pixels_BCHW))
    answers_B, labels_B = answers.probabilities_BN.argmax(1), np.asarray(digits.labels_B)
    rows = page.locator(".confusion").first.locator("tbody tr")
    for label in range(10):
        of = answers_B[labels_B == label]
        cells = rows.nth(label).locator("td").all_inner_texts()
        for said, cell in enumerate(cells):
            assert float(cell or 0) == pytest.approx(100 * (of == said).mean(), abs=0.51)


def test_accuracy_of_each_class(page: Page, compared: Path) -> None:
    opened(page, compared)
    digits = in_memory("digits", "test")
    labels_B = np.asarray(digits.labels_B)
    with Predictor(CHECKPOINT, backend="torch") as predictor:
        right_B = predictor.run(np.asarray(digits.pixels_BCHW)).probabilities_BN.argmax(1) == labels_B
    rows = page.locator("section", has_text="Classes").first.locator("table").first.locator("tbody tr")
    shown = [row.locator("td").all_inner_texts() for row in rows.all()]
    assert sorted(name for name, *_ in shown) == sorted(digits.class_names)
    for name, count, accuracy, _ in shown:
        these_B = labels_B == digits.class_names.index(name)
        assert int(count) == these_B.sum()
        assert float(accuracy.split()[0]) == pytest.approx(100 * right_B[these_B].mean(), abs=0.06)
    accuracies = [float(accuracy.split()[0]) for _, _, accuracy, _ in shown]
    assert accuracies == sorted(accuracies)


def test_comparison_and_damage(page: Page, compared: Path) -> None:
    opened(page, compared)
    assert page.get_by_role("heading", name="plain", exact=True).count() >= 2
    assert page.locator(".shares").count() == 1  # the plain network has no exits
    page.select_option("#kind", "fog")
    assert page.locator("summary", has_text="as a table").count() >= 2
    assert page.locator("figure img").count() > 20
    assert page.locator("figure img").evaluate_all("all => all.every(image => image.naturalWidth > 0)")


def test_plots_keep_to_their_columns(page: Page, compared: Path) -> None:
    plots = opened(page, compared).locator(".plot")
    assert plots.count() > 2
    page.wait_for_function(  # plots follow their columns a moment later
        "[...document.querySelectorAll('.plot')]"
        ".every(plot => plot.querySelector('.main-svg').clientWidth === plot.clientWidth)"
    )


def test_phone_dark_and_print(browser: Browser, compared: Path) -> None:
    page = opened(browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark"), compared)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 24, 31)"
    page.emulate_media(color_scheme="light", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#budget").is_hidden()
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_names_are_text_not_markup(page: Page, digits: ImageSet, network: EENet, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    images = ImageSet(digits.pixels_BCHW, digits.labels_B, [evil, *digits.class_names[1:]])
    network.config.class_names = images.class_names
    records = collect(network, images)
    times: Any = {field.name: 1.0 for field in fields(BenchRow)}
    row = BenchRow(**times | {"backend": evil, "batch_size": 1, "exit_shares": [1.0]})
    entry = Entry(
        evil,
        records,
        network.config.exit_policy(),
        about=evil,
        command=evil,
        timings=Bench(rows=[row], hardware=evil, versions={}, repeats=1),
    )
    path = tmp_path / "report.html"
    path.write_text(build_report([entry], images, title=evil))
    opened(page, path)
    assert page.title() == evil
    assert page.get_by_role("heading", name="On the clock").count() == 1
    assert page.locator("pre").inner_text() == evil


def test_many_classes_are_listed(page: Page, digits: ImageSet, network: EENet, tmp_path: Path) -> None:
    """No matrix of a thousand rows."""
    names = [f"kind {i}" for i in range(40)]
    images = ImageSet(digits.pixels_BCHW, digits.labels_B, names)
    records = collect(network, digits)
    logits_KBN = np.pad(records.logits_KBN, ((0, 0), (0, 0), (0, 30)), constant_values=-99)
    records = replace(records, logits_KBN=logits_KBN)
    entry = Entry("many", records, network.config.exit_policy())
    path = tmp_path / "report.html"
    path.write_text(build_report([entry], images, title="many"))
    opened(page, path)
    assert page.locator(".confusion").count() == 0
    assert page.get_by_role("columnheader", name="it is").count() == 1
    exits, answers_KB = decide(records, entry.policy).tolist(), records.answers().argmax(2)
    answers = [int(answers_KB[k, i]) for i, k in enumerate(exits)]
    counted = Counter(zip(records.labels_B.tolist(), answers, strict=True))
    most = sorted((count for (label, said), count in counted.items() if label != said), reverse=True)[:15]
    rows = page.locator("section", has_text="Confusions").locator("tbody td:last-child").all_inner_texts()
    assert [int(count) for count in rows] == most


def test_stored_records_are_used_only_if_they_fit(tmp_path: Path) -> None:
    """Records of other weights are not believed."""
    network, digits = EENet.from_pretrained(CHECKPOINT), in_memory("digits", "test")
    network.save_pretrained(tmp_path / "mine")
    records = collect(open_network(tmp_path / "mine"), digits)
    path = tmp_path / "mine" / RECORDS_FILE.format(split="test")
    right = eenet.report(tmp_path / "mine", tmp_path / "a.html", data="digits")
    for kept in (records, records.subset(np.arange(len(records))[::-1])):
        kept.save(path)
        again = eenet.report(tmp_path / "mine", tmp_path / "b.html", data="digits")
        assert again.bytes == right.bytes
        assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def test_bad_input(digits: ImageSet, network: EENet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        eenet.report([CHECKPOINT], tmp_path / "none/report.html", data="digits")
    with pytest.raises(ValueError, match="a directory"):
        eenet.report([CHECKPOINT], tmp_path, data="digits")
    with pytest.raises(ValueError, match="at least one"):
        eenet.report([], tmp_path / "report.html", data="digits")
    entry = Entry("one", collect(network, digits), network.config.exit_policy())
    with pytest.raises(ValueError, match="records of one"):
        build_report([entry], digits.subset(list(range(5))), title="x")
    with pytest.raises(ValueError, match="at least one"):
        build_report([], digits, title="x")
