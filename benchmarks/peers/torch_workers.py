"""PyTorch's DistributedDataParallel (gloo), a process for each worker: `torch_workers.py WORK STEPS INDEX COUNT PORT`.

Each takes its part of every batch from memory; the first prints images a second over all.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
from common import BATCH, batches, load_data
from torch import nn

work, (steps, index, count, port) = sys.argv[1], map(int, sys.argv[2:6])
torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=index, world_size=count)
images, labels = load_data()
x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()
if work == "lenet":
    model = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(7 * 7 * 64, 512), nn.ReLU(), nn.Linear(512, 10),
    )  # fmt: skip
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters(), 0.001, foreach=True)
else:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1, foreach=True)
loss_of = nn.CrossEntropyLoss()
source, mine = batches(len(y)), slice(index * BATCH // count, (index + 1) * BATCH // count)
warmup = max(10, steps // 10)
for step in range(warmup + steps):
    if step == warmup:
        begin = time.perf_counter()
    chosen = torch.from_numpy(next(source)[mine])
    optimizer.zero_grad(set_to_none=True)
    loss_of(parallel(x[chosen].float() / 255), y[chosen]).backward()
    optimizer.step()
if not index:
    print("SPEED", steps * BATCH / (time.perf_counter() - begin), flush=True)
dist.barrier()
dist.destroy_process_group()
