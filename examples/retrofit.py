"""A trained classifier gets exits; its own weights and answers stay as they are, bit for bit."""

import torch

import eenet

plain = eenet.TrainConfig("digits", "resnet8_w4_cifar", num_exits=0, batch_size=64, epochs=10)
eenet.train(plain, "runs/digits-plain")  # stands for your own training

exits = eenet.TrainConfig(
    "digits", "runs/digits-plain", freeze_backbone=True, num_exits=2, batch_size=64, budget=0.8, epochs=3
)
result = eenet.train(exits, "runs/digits-with-exits")
before, after = (eenet.EENet.from_pretrained(f"runs/digits-{name}") for name in ("plain", "with-exits"))
images = torch.rand(4, 1, 8, 8)
assert torch.equal(before(images).logits_KBN[-1], after(images).logits_KBN[-1])
print(f"accuracy {result.accuracy:.1%} at relative cost {result.relative_cost:.2f}")
