"""PyTorch by the recipe of configs/mnist_lenet_quick.flags. `torch_recipe.py float32|bfloat16`; prints accuracy."""

import os
import sys

import numpy as np
import torch
from common import load_data
from recipe import BATCH, DROPOUT, EPOCHS, RATE, factor
from torch import nn

torch.manual_seed(1)
half = torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[1] == "bfloat16")
images, labels = load_data()
x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
y = torch.from_numpy(labels).long()
model = nn.Sequential(
    nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(7 * 7 * 64, 512), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), RATE, foreach=True)
steps = EPOCHS * (len(y) // BATCH)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
loss_of = nn.CrossEntropyLoss()
for _ in range(EPOCHS):
    order = torch.randperm(len(y))
    for start in range(0, len(y) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        optimizer.zero_grad(set_to_none=True)
        with half:
            logits = model(x[chosen].float() / 255)
        loss_of(logits.float(), y[chosen]).backward()
        optimizer.step()
        schedule.step()
with np.load(os.environ["PEERS_TEST"]) as data:
    test, wanted = torch.from_numpy(data["images"]).permute(0, 3, 1, 2), torch.from_numpy(data["labels"]).long()
model.eval()
with torch.no_grad(), half:
    right = sum(
        int((model(test[start : start + 1000].float() / 255).argmax(1) == wanted[start : start + 1000]).sum())
        for start in range(0, len(wanted), 1000)
    )
print("ACCURACY", right / len(wanted), flush=True)
