"""An ordinary ResNet-18, trained on class folders by plain PyTorch, and saved as a state dict.

python train_plain.py FOLDER WEIGHTS.pth [EPOCHS]; then exits for it, its own answers unchanged:
eenet train --data FOLDER --model resnet18 --weights WEIGHTS.pth --image-size 128
"""

import sys

import torch
from torchvision import datasets, models
from torchvision.transforms import v2 as t

folder, weights, epochs = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["20"])[0])
pixels = [t.PILToTensor(), t.ToDtype(torch.float32, scale=True)]
normal = t.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
photos = datasets.ImageFolder(
    f"{folder}/train", t.Compose([t.RandomResizedCrop(128), t.RandomHorizontalFlip(), *pixels, normal])
)
batches = torch.utils.data.DataLoader(photos, 64, shuffle=True, drop_last=True)
network = models.resnet18(num_classes=len(photos.classes)).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * len(batches))
for epoch in range(epochs):
    for images, labels in batches:
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}", flush=True)
torch.save(network.state_dict(), weights)
