"""Damage that images meet in use: fifteen kinds in five severities, the same every time for a seed.

After the benchmark of Hendrycks & Dietterich 2019 (CIFAR-10-C), in our own code and with our own amounts.
"""

import difflib
import io
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from eenet.data.pixels import Pixels

SEVERITIES = (1, 2, 3, 4, 5)
Damage = Callable[[Tensor, float, torch.Generator], Tensor]
"""Images [B, C, H, W] from 0 to 1, an amount, and random numbers → images."""


def _gaussian_noise(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    return x + amount * torch.randn(x.shape, generator=random)


def _shot_noise(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    return torch.poisson(x * amount, generator=random) / amount


def _impulse_noise(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    drawn = torch.rand(x.shape, generator=random)
    return torch.where(drawn < amount / 2, 0.0, torch.where(drawn > 1 - amount / 2, 1.0, x))


def _gaussian_blur(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    sigma = amount * x.shape[-1] / 32
    return tv.gaussian_blur(x, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma] * 2)


def _motion_blur(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    length = max(2, round(amount * x.shape[-1] / 32))
    padded = F.pad(x, (length - 1, 0, 0, 0), mode="replicate")
    return F.avg_pool2d(padded, (1, length), stride=1)


def _pixelate(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    small = [max(1, round(side * amount)) for side in x.shape[-2:]]
    return F.interpolate(F.interpolate(x, small, mode="area"), x.shape[-2:], mode="nearest")


def _jpeg(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    """Through a file of this quality."""
    damaged = []
    for image in (255 * x).round().to(torch.uint8):
        file = io.BytesIO()
        tv.to_pil_image(image).save(file, "JPEG", quality=int(amount))
        damaged.append(tv.pil_to_tensor(Image.open(file)))
    return torch.stack(damaged).float() / 255


def _contrast(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + amount * (x - mean)


def _brighter(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    return x + amount


def _darker(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    return x * amount


def _fog(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """A haze that varies slowly over the image."""
    count, _, height, width = x.shape
    coarse = torch.rand(count, 1, 4, 4, generator=random)
    haze = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).clamp(0, 1)
    return (1 - amount) * x + amount * (0.5 + 0.5 * haze)


def _rotation(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """By so many degrees, to either side; what comes in from outside is the edge."""
    signs = 2 * torch.randint(2, (len(x),), generator=random) - 1
    angle = signs * math.radians(amount)
    zeros = torch.zeros(len(x))
    rows = [
        torch.stack([angle.cos(), -angle.sin(), zeros], 1),
        torch.stack([angle.sin(), angle.cos(), zeros], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _shift(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """Every image by this share of its width, to the left or the right."""
    pixels = max(1, round(amount * x.shape[-1]))
    left = torch.randint(2, (len(x), 1, 1, 1), generator=random).bool()
    padded = F.pad(x, (pixels, pixels, 0, 0), mode="replicate")
    return torch.where(left, padded[..., 2 * pixels :], padded[..., : x.shape[-1]])


def _occlusion(x: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """A grey square of this share of the width, anywhere."""
    count, _, height, width = x.shape
    side = max(1, round(amount * min(height, width)))
    top = torch.randint(height - side + 1, (count, 1, 1, 1), generator=random)
    left = torch.randint(width - side + 1, (count, 1, 1, 1), generator=random)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    hidden = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return torch.where(hidden, 0.5, x)


def _inverted(x: Tensor, amount: float, random: torch.Generator) -> Tensor:  # noqa: ARG001
    """Part of the way to the negative."""
    return (1 - amount) * x + amount * (1 - x)


CORRUPTIONS: dict[str, tuple[Damage, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.12, 0.18)),
    "shot_noise": (_shot_noise, (150, 80, 40, 20, 10)),
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.06, 0.1, 0.17)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.8, 1.1, 1.5)),
    "motion_blur": (_motion_blur, (2, 3, 4, 6, 8)),
    "pixelate": (_pixelate, (0.9, 0.75, 0.6, 0.45, 0.3)),
    "jpeg": (_jpeg, (60, 40, 25, 15, 8)),
    "contrast": (_contrast, (0.7, 0.5, 0.35, 0.25, 0.15)),
    "brighter": (_brighter, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "darker": (_darker, (0.8, 0.6, 0.45, 0.3, 0.2)),
    "fog": (_fog, (0.2, 0.35, 0.5, 0.65, 0.8)),
    "rotation": (_rotation, (8, 15, 25, 35, 50)),
    "shift": (_shift, (0.06, 0.12, 0.18, 0.24, 0.32)),
    "occlusion": (_occlusion, (0.2, 0.3, 0.4, 0.5, 0.6)),
    "inverted": (_inverted, (0.1, 0.2, 0.3, 0.4, 0.7)),
}  # name → function, amounts for severities 1 to 5


def corrupt(pixels_BCHW: Pixels, name: str, severity: int, *, seed: int = 0) -> Pixels:
    """Damage images.

    Args:
        pixels_BCHW: uint8, 1 or 3 channels.
        name: see `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of what is random in it.

    Returns:
        uint8 images of the same size.

    Raises:
        ValueError: unknown name or severity.
    """
    check_known(name, severity)
    damage, amounts = CORRUPTIONS[name]
    random = torch.Generator().manual_seed(seed)
    damaged = damage(torch.from_numpy(pixels_BCHW).float() / 255, amounts[severity - 1], random)
    return (255 * damaged).round().clamp(0, 255).to(torch.uint8).numpy()


def check_known(name: str, severity: int) -> None:
    """Whether there is such a corruption, else a `ValueError`."""
    if name not in CORRUPTIONS:
        near = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(CORRUPTIONS)}"
        raise ValueError(f"unknown corruption {name!r}; {hint}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}; give 1 to 5")
