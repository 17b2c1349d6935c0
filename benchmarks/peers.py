"""Networks of segmentation-models-pytorch beside ours: the same backbone, data, batches and schedule.

    python benchmarks/peers.py camvid --decoder Unet [--start runs/start] [--epochs 60] [--seed 0]

A peer is trained by the recipe of ours: its optimiser, learning rate, warm-up, augmentation, precision and
image size, with cross-entropy at its own resolution. With `--start` its encoder has the backbone of that
checkpoint, weights too; else it is a ResNet-18 without any. `benchmarks/results/peers-RECIPE-HARDWARE-….csv`
gets its MACs for an image of that size, and its mIoU: of all test images together, at the masks' own size.

    python benchmarks/peers.py camvid --run runs/smaller

adds a network of ours without exits that is trained already, such as a smaller one.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import results
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from dense import tested
from torch import Tensor, nn

import eenet
from eenet.backbones import classifier_name, count_macs
from eenet.data import AUGMENTATIONS, NO_CLASS, load_masks, mask_batches, normalize
from eenet.networks import read_config, trained_backbone
from eenet.tasks import measure
from eenet.tasks.segmentation.maps import class_map
from eenet.tasks.segmentation.records import confusion, miou
from eenet.training.trainer import uses_bf16

KEY = ("decoder", "encoder", "start", "seed")
USUAL = "crop-flip"  # where a recipe says nothing
LAYOUT = torch.channels_last
COARSEST = 32  # that the sides of its images are padded to


def encoder_of(start: Path | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a peer's encoder is made by, and the weights that it starts from."""
    if start is None:
        return {"encoder_name": "resnet18"}, {}
    backbone, network = trained_backbone(start)
    config = network.config
    last = f"{classifier_name(backbone)}."
    made_by = {"encoder_name": f"tu-{config.backbone}", "channels": config.backbone_args["channels"]}
    weights = {
        f"model.{name}": value for name, value in backbone.state_dict().items() if not name.startswith(last)
    }
    return made_by, weights


def padded(pixels: Tensor) -> Tensor:
    """With sides that are multiples of what an encoder divides by."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % COARSEST, 0, -height % COARSEST), mode="replicate")


def train(peer: nn.Module, config: Any, images: Any, mean: list[float], std: list[float]) -> None:
    optimizer = torch.optim.AdamW(peer.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    steps = len(images) // config.batch_size
    warm, whole = config.warmup_epochs * steps, config.epochs * steps
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: min((n + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(n - warm, 0) / (whole - warm)))),
    )
    augmentation = AUGMENTATIONS[config.augmentation or USUAL]
    for epoch in range(config.epochs):
        peer.train()
        losses = []
        for pixels_BCHW, masks_BHW in mask_batches(
            images, config.batch_size, augmentation, seed=config.seed, epoch=epoch
        ):
            images_BCHW = padded(normalize(pixels_BCHW, mean, std)).contiguous(memory_format=LAYOUT)
            with torch.autocast("cpu", torch.bfloat16, enabled=uses_bf16(config.precision)):
                logits_BNHW = peer(images_BCHW).float()
            logits_BNHW = logits_BNHW[:, :, : masks_BHW.shape[1], : masks_BHW.shape[2]]
            loss = F.cross_entropy(logits_BNHW, masks_BHW.long(), ignore_index=NO_CLASS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{config.epochs}  training loss {np.mean(losses):.3f}", flush=True)


def quality(peer: nn.Module, images: Any, classes: int, mean: list[float], std: list[float]) -> float:
    totals = np.zeros((classes, classes), np.int64)
    peer.eval()
    for _, pixels_BCHW, masks in images.buckets(8):
        with torch.inference_mode():
            logits = peer(padded(normalize(torch.from_numpy(pixels_BCHW), mean, std)))
        height, width = pixels_BCHW.shape[-2:]
        for logits_NHW, mask_HW in zip(logits[:, :, :height, :width].numpy(), masks, strict=True):
            totals += confusion(mask_HW, class_map(logits_NHW, mask_HW.shape), classes)
    return miou(totals)


def ours(run: Path) -> dict[str, Any]:
    """A row of a trained network without exits."""
    config = read_config(run)
    trained = config.provenance["train_config"]
    return {
        "decoder": "eenet",
        "encoder": " ".join(map(str, [config.backbone, *config.backbone_args.get("channels", ())])),
        "start": "none" if trained["model"] == config.backbone else "trained",
        "seed": trained["seed"],
        "epochs": trained["epochs"],
        "gmacs": round(config.backbone_macs / 1e9, 3),
        "metric": round(100 * measure(tested(run), config.exit_policy()).quality, 2),
    }


def trained_by(given: argparse.Namespace) -> dict[str, Any]:
    """A row of a peer, which is trained for it."""
    torch.manual_seed(given.seed)
    more = {"seed": given.seed, **({"epochs": given.epochs} if given.epochs else {})}
    config = replace(eenet.get_recipe(given.recipe), **more)
    side = config.image_size
    assert isinstance(side, int)
    images, test = (
        load_masks(config.data, split, size=(3, side, side), standardise=config.standardise)
        for split in ("train", "test")
    )
    classes = len(test.class_names)
    made_by, weights = encoder_of(given.start)
    peer: nn.Module = getattr(smp, given.decoder)(encoder_weights=None, classes=classes, **made_by)
    if weights:
        peer.get_submodule("encoder").load_state_dict(weights)
    shape = (1, *padded(torch.zeros(1, 3, side, side)).shape[1:])
    macs = count_macs(peer.eval(), shape) / 1e9
    print(f"{given.decoder}: {macs:.2f} GMACs for {side} × {side} pixels", flush=True)
    mean, std = images.mean_std()
    train(peer.to(memory_format=LAYOUT), config, images, mean, std)
    return {
        "decoder": given.decoder,
        "encoder": made_by["encoder_name"],
        "start": "trained" if weights else "none",
        "seed": given.seed,
        "epochs": config.epochs,
        "gmacs": round(macs, 3),
        "metric": round(100 * quality(peer, test, classes, mean, std), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recipe", help="of ours")
    parser.add_argument("--decoder", default="Unet", choices=("Unet", "FPN", "DeepLabV3Plus"))
    parser.add_argument("--start", type=Path, help="a plain network of timm's, with `channels` of its own")
    parser.add_argument("--run", type=Path, help="a network of ours that is trained already")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    row = ours(given.run) if given.run else trained_by(given)
    name = f"peers-{given.recipe}"
    kept = [old for old in results.read(name) if any(old[key] != str(row[key]) for key in KEY)]
    print(row, results.write(name, [*kept, row]))


if __name__ == "__main__":
    main()
