"""Images in tiles: the same answer as whole where the halo reaches far enough, each tile with its exit."""

from pathlib import Path

import numpy as np
import pytest
from mask_cases import made_network, made_pair, middling
from PIL import Image

import eenet
from eenet.cli import main
from eenet.data import open_image
from eenet.runtime.tiling import put_together, tiles_of

SIZES = [(64, 64), (70, 131), (32, 200), (129, 97)]


def whole(network: eenet.EENet, policy: eenet.ExitPolicy, picture: np.ndarray) -> np.ndarray:
    """The answer without tiles, at the image's own size."""
    logits_KBNhw, _ = network.answers(picture.transpose(2, 0, 1)[None])
    powers = np.exp(logits_KBNhw[0 if policy.thresholds[0] < 0 else -1, 0])
    return powers / powers.sum(0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [32, 64, 96])
def test_tiles_cover_an_image_once(size: tuple[int, int], tile: int) -> None:
    tiles = [one for row in tiles_of(size, tile, 16) for one in row]
    seen = np.zeros(size, int)
    for one in tiles:
        seen[one.core] += 1
        assert all(core.stop - core.start <= tile for core in one.core)
        for core, place, side in zip(one.core, one.place, size, strict=True):
            assert place.start in (0, core.start - 16)
            assert place.stop in (side, core.stop + 16)
    assert (seen == 1).all()
    grid = np.random.default_rng(0).random((2, -(-size[0] // 4), -(-size[1] // 4))).astype(np.float32)
    places = [one.place for one in tiles]
    cut = [grid[:, r.start // 4 : -(-r.stop // 4), c.start // 4 : -(-c.stop // 4)] for r, c in places]
    assert np.array_equal(put_together(tiles, cut, size), grid)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_the_answer_is_that_of_the_whole_image_within_the_halo_s_reach(backend: str) -> None:
    """This network looks less than 16 pixels around."""
    network, picture = made_network(), made_pair(0, 96, 160)[0]
    for threshold in (-1.0, 2.0):
        policy = eenet.ExitPolicy("confidence", (threshold,) * 2)
        for halo, same in ((0, False), (16, True)):
            predictor = eenet.Predictor(network, policy=policy, backend=backend, tile=32, halo=halo)
            found = predictor.predict(picture)
            assert found.mask.shape == (96, 160)
            difference = np.abs(found.probabilities_Nhw - whole(network, policy, picture)).max()
            assert difference < 1e-5 if same else difference > 1e-3


def test_each_tile_leaves_by_itself_and_costs_its_pixels() -> None:
    network = made_network()
    policy = eenet.ExitPolicy("sure_share", middling(network, "sure_share"))
    predictor = eenet.Predictor(network, policy=policy, tile=32, halo=16)
    picture = np.concatenate([made_pair(k, 64, 64)[0] for k in range(4)], 1)
    found = predictor.predict(picture)
    exits = np.array(found.tile_exits)
    assert exits.shape == (2, 8)
    assert len(np.unique(exits)) >= 2
    assert found.exit == exits.max()
    spent, untiled = 0.0, eenet.Predictor(network, policy=policy)
    for row, line in enumerate(tiles_of((64, 256), 32, 16)):
        for column, one in enumerate(line):
            part = np.ascontiguousarray(picture[one.place])
            alone = untiled.run(part.transpose(2, 0, 1)[None])
            assert alone.exits_B.tolist() == [exits[row, column]]
            spent += network.costs_K[exits[row, column]] * part.shape[0] * part.shape[1]
    assert found.relative_cost == pytest.approx(spent / (64 * 256))
    assert found.to_dict()["tile_exits"] == exits.tolist()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(made_network().save_pretrained(tmp_path / "c", graph=False))
    Image.fromarray(made_pair(0, 70, 131)[0]).save(tmp_path / "a.png")
    words = ["predict", checkpoint, str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert main([*words, "--tile", "64"]) == 0
    assert open_image(tmp_path / "out" / "a.png").size == (131, 70)
    for extra, said in (
        (("--tile", "40"), "tile is 40; give a multiple of 32 pixels"),
        (("--tile", "64", "--halo", "5"), "halo is 5; give 0 or a multiple of 16 pixels"),
    ):
        assert main([*words[:3], *extra]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="--tile doesn't work for classification yet"):
        eenet.Predictor("digits-eenet8", tile=32)
