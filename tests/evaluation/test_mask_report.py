"""A report on masks, opened in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import nothing_wrong
from mask_cases import NAMES, made_network, middling, write_folders
from playwright.sync_api import Page

import eenet
from eenet.data import load_masks
from eenet.evaluation import measure
from eenet.policies import RECORDS_FILE
from eenet.tasks import bootstrap


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folders(tmp_path_factory.mktemp("masks") / "my", {"test": 16}))


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    with nothing_wrong(page):
        yield page


def test_the_page_says_what_evaluation_says(page: Page, data: str, tmp_path: Path) -> None:
    network = made_network()
    policy = eenet.ExitPolicy("sure_share", middling(network, "sure_share"))
    network.config.policy = policy.to_dict()
    network.config.budgets = {"0.900": network.config.policy}
    eenet.report(network, tmp_path / "report.html", data=data)
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    records = eenet.collect(network, load_masks(data, "test", size=(3, 32, 32)))
    found = measure(records, policy)
    tiles = page.locator(".tiles").first.locator("b").all_inner_texts()
    assert tiles[:3] == [f"{100 * found.quality:.2f} %", f"{found.relative_cost:.3f}",
                         f"{100 * found.full_quality:.2f} %"]  # fmt: skip
    told = page.locator("section p", has_text="A static cut").first.inner_text()
    exit_index, cost = re.search(r"all images at exit (\d), cost ([\d.]+)", told).groups()  # type: ignore[union-attr]
    only = tuple(k == int(exit_index) for k in range(2))
    alone = measure(records, eenet.ExitPolicy("confidence", (-1.0, -1.0), only))
    assert alone.exit_counts[int(exit_index)] == len(records)
    assert cost == f"{alone.relative_cost:.3f}"
    points = 100 * (alone.quality - found.quality)
    assert ("as good here" in told) == (points > -0.1)
    shown = f"{abs(points):.2f}" if abs(points) < 0.1 else f"{abs(points):.1f}"
    assert f"{shown} points of mIoU" in told or abs(points) < 0.005
    low, high = bootstrap(records, policy)["miou"]
    assert f"95 %: {100 * low:.2f} to {100 * high:.2f}" in page.locator(".tiles").first.inner_text()
    assert page.get_by_role("heading", name="mIoU against cost").count() == 1
    rows = page.locator("section", has_text="Classes").first.locator("table").first.locator("tbody tr")
    shown = {name: value for name, _, value, _ in (r.locator("td").all_inner_texts() for r in rows.all())}
    assert shown == {name: f"{100 * found.class_iou[name]:.1f} %" for name in NAMES}  # type: ignore[attr-defined]
    assert page.get_by_role("heading", name=re.compile("Is a probability")).count() == 0
    assert page.locator("figure.wide img").count() > 4
    assert page.locator("figure img").evaluate_all("all => all.every(image => image.naturalWidth > 0)")


def test_stored_records_are_used_only_if_they_fit(data: str, tmp_path: Path) -> None:
    checkpoint = made_network().save_pretrained(tmp_path / "c", graph=False)
    images = load_masks(data, "test", size=(3, 32, 32))
    records = eenet.collect(made_network(), images)
    eenet.report(checkpoint, tmp_path / "a.html", data=data)
    for kept in (records, records.subset(list(range(len(records)))[::-1])):
        kept.save(checkpoint / RECORDS_FILE.format(split="test"))
        eenet.report(checkpoint, tmp_path / "b.html", data=data)
        assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def test_labels_and_masks_are_not_on_one_page(data: str, tmp_path: Path) -> None:
    checkpoint = made_network().save_pretrained(tmp_path / "c", graph=False)
    with pytest.raises(ValueError, match="digits"):
        eenet.report([checkpoint, "digits-eenet8"], tmp_path / "x.html", data=data)
