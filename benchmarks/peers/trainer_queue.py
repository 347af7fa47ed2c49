"""This trainer: TFRecords through its queue. `trainer_queue.py WORK DATA_DIR [flag ...]`."""

import dataclasses
import sys
import tempfile

from common import BATCH, serve

from trainer.console import Console
from trainer.settings.flags import config_from_flags
from trainer.signals import Signals
from trainer.training.measuring import open_bench

FLAGS = {
    "lenet": ["--model=lenet", "--optimizer=adam", "--learning_rate=0.001"],
    "vgg11": ["--model=vgg11", "--optimizer=momentum", "--learning_rate=0.01"],
    "mlp": ["--model=mlp", "--optimizer=sgd", "--learning_rate=0.1"],
}
work, data_dir, *more = sys.argv[1:]
flags = [
    "--dataset=mnist",
    f"--data_dir={data_dir}",
    f"--batch_size={BATCH}",
    "--decay=constant",
    "--model_args=dropout=0",
]
config = config_from_flags(["peers", *flags, "--ema_decay=0", "--train_steps=100000000", *FLAGS[work], *more])
console = Console()
console.rich.quiet = True
with (
    tempfile.TemporaryDirectory() as logdir,
    open_bench(dataclasses.replace(config, logdir=logdir), console, Signals()) as bench,
):

    def train(seconds: float) -> int:
        first = bench.state.step
        bench.steps(seconds)
        return bench.state.step - first

    serve(train)
