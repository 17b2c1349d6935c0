"""A timm model of your own, on images of your own, gets exits and a budget."""

import timm
from PIL import Image
from sklearn.datasets import load_digits

import eenet

digits = load_digits()  # stands for your images and labels
pictures = [Image.fromarray(image.astype("uint8") * 15).resize((32, 32)) for image in digits.images]
pairs = list(zip(pictures, digits.target.tolist(), strict=True))
images = {
    "train": eenet.from_dataset(pairs[:1200]),
    "validation": eenet.from_dataset(pairs[1200:1500]),  # sets gates and thresholds
    "test": eenet.from_dataset(pairs[1500:]),
}


def my_model():
    """Load your trained weights here, if you have some."""
    return timm.create_model("resnet10t", num_classes=10, in_chans=1)


network = eenet.convert(my_model(), (1, 32, 32), num_exits=2)
print(f"exits behind {network.config.exits}, at costs {[round(c, 2) for c in network.costs_K]}")
config = eenet.TrainConfig("my digits", "my resnet10t", budget=0.7, epochs=6, batch_size=64)
result = eenet.train(config, "runs/own", network=network, images=images)
print(f"accuracy {result.accuracy:.1%} at relative cost {result.relative_cost:.2f}")

loaded = eenet.EENet.from_pretrained("runs/own", backbone=my_model())
with eenet.Predictor(loaded) as predictor:
    print(predictor.predict(pictures[-1]))
