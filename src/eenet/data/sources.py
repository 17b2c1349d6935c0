"""Data sets by name: where each comes from and how its images may be varied."""

from dataclasses import dataclass

GIVEN_IMAGES = "given images"
"""What checkpoints call a data set that was handed over in memory, without a name."""


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied."""

    shift: float = 0.0
    """Moved at random by up to this share of height and width."""
    flip: bool = False
    """Mirrored left to right; never for digits."""
    crop: bool = False
    """A random part, resized: as usual for ImageNet."""
    erase: float = 0.0
    """A rectangle of this share of height and width, anywhere, also partly outside, gets the image's mean
    colour. "Improved Regularization of Convolutional Neural Networks with Cutout", DeVries & Taylor 2017."""
    colour: float = 0.0
    """Brightness, contrast and saturation are multiplied by 1 plus or minus at most this."""


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(shift=1 / 8),
    "shift-flip": Augmentation(shift=1 / 8, flip=True),
    "shift-flip-erase": Augmentation(shift=1 / 8, flip=True, erase=1 / 4),
    "crop-flip": Augmentation(crop=True, flip=True),
    "crop-flip-colour": Augmentation(crop=True, flip=True, colour=0.4),
}
"""By name, for data sets of your own."""


@dataclass(frozen=True)
class Source:
    """What a name stands for, and how its training images may be varied."""

    hub_id: str | None = None
    hub_config: str | None = None
    label_column: str | None = None
    """Where there are several."""
    class_names: tuple[str, ...] | None = None
    """Where the files hold none."""
    unlabelled_test: bool = False
    """The test split is for a competition; the validation split is used instead."""
    augmentation: Augmentation = AUGMENTATIONS["shift"]
    held_out: float = 0.1
    """Part of the images held out for validation, and for test, where the data set has none of its own."""


_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_SHIFT_FLIP, _CROP_FLIP = AUGMENTATIONS["shift-flip"], AUGMENTATIONS["crop-flip"]
SOURCES: dict[str, Source] = {
    "digits": Source(held_out=0.2),
    "mnist": Source("ylecun/mnist", augmentation=Augmentation(shift=1 / 14)),
    "fashion-mnist": Source(
        "zalando-datasets/fashion_mnist",
        class_names=_CLOTHES,
        augmentation=Augmentation(shift=1 / 14, flip=True),
    ),
    "cifar10": Source("uoft-cs/cifar10", augmentation=_SHIFT_FLIP),
    "cifar100": Source("uoft-cs/cifar100", label_column="fine_label", augmentation=_SHIFT_FLIP),
    "svhn": Source("ufldl-stanford/svhn", "cropped_digits"),
    "tiny-imagenet": Source("zh-plus/tiny-imagenet", augmentation=_SHIFT_FLIP),
    "tiny-imagenet-50": Source(augmentation=_SHIFT_FLIP),
    "camvid": Source(augmentation=_CROP_FLIP),
    "nuclei": Source(augmentation=_CROP_FLIP),
    "bccd": Source(augmentation=_CROP_FLIP),
    "aquarium": Source(augmentation=_CROP_FLIP),
    "imagenet": Source("ILSVRC/imagenet-1k", unlabelled_test=True, augmentation=_CROP_FLIP),
}


def source_of(name: str) -> Source:
    """The settings of a named data set; the defaults for any other."""
    return SOURCES.get(name, Source())
