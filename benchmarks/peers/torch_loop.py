"""A PyTorch loop from memory. `torch_loop.py WORK eager|compiled`."""

import sys

import torch
from common import batches, load_data, repeat, serve
from torch import nn

work, mode = sys.argv[1:3]
images, labels = load_data()
x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
y = torch.from_numpy(labels).long()
if work == "lenet":
    model = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(7 * 7 * 64, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 0.001, foreach=True)
else:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=True)
loss_of = nn.CrossEntropyLoss()


def loss_on(images, labels):
    return loss_of(model(images.float() / 255), labels)


if mode == "compiled":
    loss_on = torch.compile(loss_on)
source = batches(len(y))


def step():
    chosen = torch.from_numpy(next(source))
    optimizer.zero_grad(set_to_none=True)
    loss_on(x[chosen], y[chosen]).backward()
    optimizer.step()


serve(repeat(step))
