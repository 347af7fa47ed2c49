"""What the input of encoded pictures costs: the queue input beside `tf.data` and beside a bare loop, in turn.

    python -m trainer.convert --source=DIR --data_dir=data/pictures
    python benchmarks/pictures.py --data_dir=data/pictures

Each cuts a random window out of a picture, resizes it to 224 x 224, mirrors it every other time, and makes batches of
32 of uint8. PyTorch takes part where torch and torchvision are installed. Prints images per second of each (median and
range), and the median of the ratios to the queue's.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))
BATCH, SIZE = 32, 224
AREA, ASPECT, ATTEMPTS = (0.08, 1.0), (0.75, 1.333), 10
EPOCH = 50  # times the pictures in an epoch of PyTorch
TRAINING = f"distorted_crop({SIZE}, area=0.08..1, aspect=0.75..1.333, min_object_covered=0, attempts=10)|flip_lr"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement, behind 3 s of warming up")
    parser.add_argument("--one", choices=WAYS, help="measure this way alone, and print its images per second")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(WAYS[args.one](args.data_dir, args.seconds)))
        return
    ways = [name for name in WAYS if name != "PyTorch" or importlib.util.find_spec("torchvision")]
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name in ways if number % 2 == 0 else reversed(ways):  # None is always the first.
            command = [sys.executable, __file__, f"--one={name}", f"--data_dir={args.data_dir}"]
            command += [f"--seconds={args.seconds}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            speeds[name].append(float(done.stdout.splitlines()[-1]))
    print(f"{'way':<10} {'images/s':>22} {'queue / it':>22}   (median [range])")
    for name, found in speeds.items():
        ratios = [mine / other for mine, other in zip(speeds["queue"], found, strict=True)]
        print(f"{name:<10} {show(found, ',.0f'):>22} {show(ratios, '.3f'):>22}")


def show(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}-{max(values):{form}}]"


def rate(take: Callable[[], object], seconds: float, warm_up: float = 3.0) -> float:
    """Takes batches; returns images a second, behind the first seconds."""
    begin = time.monotonic()
    while time.monotonic() - begin < warm_up:
        take()
    count, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        take()
        count += BATCH
    return count / (time.monotonic() - begin)


def measure_queue(data_dir: str, seconds: float) -> float:
    from trainer.data.manifest import load_manifest
    from trainer.inputs import queues
    from trainer.inputs.batch import RECORD
    from trainer.preprocessing.preprocessing import make_preprocessing
    from trainer.running.session import open_session
    from trainer.tf1 import tf

    spec = load_manifest(Path(data_dir))
    side = make_preprocessing(spec.stored_shape, TRAINING, f"resize({SIZE})", smallest=spec.smallest).training
    threads = len(os.sched_getaffinity(0))
    how = {"batch_size": BATCH, "position": 0, "num_readers": 1, "capacity": 16, "decode_threads": threads}
    with tf.Graph().as_default():
        source = queues.build(queues.make_plan(spec, 1), spec, **how, side=side)
        images = side.in_batches(source.batch["image"], source.batch[RECORD])
        with open_session(source, tf.ConfigProto(inter_op_parallelism_threads=-1), None) as opened:
            return rate(opened.session.make_callable([images.op, source.batch["label"]]), seconds)


def measure_tf_data(data_dir: str, seconds: float) -> float:
    """In graph mode, whose iterator is the faster one, with AUTOTUNE and the fused operation."""
    from trainer.data.manifest import load_manifest
    from trainer.tf1 import tf

    spec = load_manifest(Path(data_dir))
    v2 = tf.compat.v2
    names = {"image": tf.FixedLenFeature([], tf.string), "label": tf.FixedLenFeature([], tf.int64)}

    def decode(record: object) -> object:
        parsed = tf.io.parse_single_example(record, names)
        shape = tf.io.extract_jpeg_shape(parsed["image"])
        begin, size, _ = v2.image.sample_distorted_bounding_box(
            shape, tf.zeros([1, 0, 4]), 0, 0.0, ASPECT, AREA, ATTEMPTS, use_image_if_no_bounding_boxes=True
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = v2.image.resize(tf.io.decode_and_crop_jpeg(parsed["image"], window, channels=3), [SIZE, SIZE])
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return v2.image.random_flip_left_right(image), parsed["label"]

    with tf.Graph().as_default(), tf.Session() as session:
        files = [str(spec.path_of(shard)) for shard in spec.splits["train"]]
        data = v2.data.TFRecordDataset(files).shuffle(1000).repeat().map(decode, v2.data.AUTOTUNE)
        data = data.batch(BATCH, drop_remainder=True).prefetch(v2.data.AUTOTUNE)
        images, labels = tf.compat.v1.data.make_one_shot_iterator(data).get_next()
        return rate(session.make_callable([images.op, labels]), seconds)


def measure_loop(data_dir: str, seconds: float) -> float:
    """The same operations on records in memory, on as many threads as there are cores, with nothing between them."""
    from trainer.data.manifest import load_manifest
    from trainer.data.records import read_records
    from trainer.inputs.parsing import parse_examples
    from trainer.preprocessing.preprocessing import make_preprocessing
    from trainer.tf1 import tf

    spec = load_manifest(Path(data_dir))
    side = make_preprocessing(spec.stored_shape, TRAINING, f"resize({SIZE})", smallest=spec.smallest).training
    records = [record for shard in spec.splits["train"] for record in read_records(spec.path_of(shard))]
    threads = len(os.sched_getaffinity(0))
    counts = [0] * threads
    with tf.Graph().as_default(), tf.Session(config=tf.ConfigProto(inter_op_parallelism_threads=-1)) as session:
        serialized, keys = tf.placeholder(tf.string, [BATCH]), tf.placeholder(tf.int64, [BATCH])
        features = parse_examples(serialized, spec, side, keys)
        images = side.in_batches(features["image"], keys)
        run = session.make_callable([images.op, features["label"]], feed_list=[serialized, keys])
        end = time.monotonic() + 3.0 + seconds

        def work(number: int) -> None:
            place = number * BATCH
            while time.monotonic() < end:
                chosen = [(place + index) % len(records) for index in range(BATCH)]
                run([records[index] for index in chosen], [place + index for index in range(BATCH)])
                place += threads * BATCH
                if time.monotonic() > end - seconds:
                    counts[number] += BATCH

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return sum(counts) / seconds


def measure_pytorch(data_dir: str, seconds: float) -> float:
    """DataLoader with a process for each core, torchvision's transforms on pillow's pictures, bytes in memory."""
    import itertools

    import torch
    from torchvision import transforms

    pictures = load_files(data_dir) * EPOCH  # So long that the ends of its epochs do not count.
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=AREA, ratio=ASPECT),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, number: int) -> object:
            return transform(Image.open(io.BytesIO(pictures[number])).convert("RGB")), 0

    loader = torch.utils.data.DataLoader(
        Pictures(), BATCH, shuffle=True, drop_last=True, num_workers=len(os.sched_getaffinity(0))
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return rate(lambda: next(batches), seconds)


def load_files(data_dir: str) -> list[bytes]:
    """Reads the bytes of the training pictures."""
    from trainer.data.manifest import load_manifest
    from trainer.data.records import read_records
    from trainer.tf1 import tf

    spec = load_manifest(Path(data_dir))
    records = [record for shard in spec.splits["train"] for record in read_records(spec.path_of(shard), spec)]
    features = [tf.train.Example.FromString(record).features.feature for record in records]
    return [bytes(feature[spec.fields.image].bytes_list.value[0]) for feature in features]


WAYS: dict[str, Callable[[str, float], float]] = {
    "queue": measure_queue,
    "tf.data": measure_tf_data,
    "loop": measure_loop,
    "PyTorch": measure_pytorch,
}

if __name__ == "__main__":
    main()
