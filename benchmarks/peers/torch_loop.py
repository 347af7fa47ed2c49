"""A PyTorch loop from memory. `torch_loop.py WORK eager|compiled|channels_last [DEVICE PRECISION]`.

The images are on the device. With float16 the loss is scaled as PyTorch does it.
"""

import itertools
import sys

import torch
from common import batches, load_data, repeat, serve
from torch import nn

work, mode = sys.argv[1:3]
device, precision = sys.argv[3:5] if len(sys.argv) > 3 else ("cpu", "float32")
kind = device.partition(":")[0]
layout = torch.channels_last if mode == "channels_last" else torch.contiguous_format
half = torch.autocast(kind, getattr(torch, precision), enabled=precision != "float32")
scaler = torch.amp.GradScaler(kind, enabled=precision == "float16")
images, labels = load_data()
x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=layout)
y = torch.from_numpy(labels).long().to(device)
if work == "lenet":
    model = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(7 * 7 * 64, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.to(device).parameters(), 0.001, foreach=True)
elif work == "vgg11":
    widths = [(x.shape[1], 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    layers = [
        [nn.Conv2d(*pair, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if number in (1, 2, 4, 6, 8) else [])]
        for number, pair in enumerate(widths, 1)
    ]
    dense = [nn.Flatten(), nn.LazyLinear(4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.LazyLinear(1000)]
    model = nn.Sequential(*itertools.chain(*layers), *dense)
    model(x[:1].float().cpu())  # Makes what is lazy.
    optimizer = torch.optim.SGD(model.to(device).parameters(), 0.01, momentum=0.9, foreach=True)
else:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    optimizer = torch.optim.SGD(model.to(device).parameters(), 0.1, foreach=True)
model.to(memory_format=layout)
loss_of = nn.CrossEntropyLoss()


def loss_on(images, labels):
    with half:
        logits = model(images.to(torch.float32, memory_format=layout) / 255)
    return loss_of(logits.float(), labels)


if mode == "compiled":
    loss_on = torch.compile(loss_on)
source = batches(len(y))


def step():
    chosen = torch.from_numpy(next(source)).to(device)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss_on(x[chosen], y[chosen])).backward()
    scaler.step(optimizer)
    scaler.update()


serve(repeat(step, finish=torch.cuda.synchronize if kind == "cuda" else lambda: None))
