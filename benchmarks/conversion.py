"""What a conversion costs, beside a bare loop that writes the same Examples: in turn, in one process.

    python benchmarks/conversion.py --source_dir=DIR --data_dir=data/mnist
    python benchmarks/conversion.py --pictures=FOLDER

prints examples a second of both (median and range) and the median of the ratios. The conversion reads the four files of
MNIST and writes shards, checksums and manifest, all on disk when it ends; the loop writes images that it has in memory.

With --pictures, a folder with a folder of JPEGs for each class, there are two loops, each one thread: one reads and
writes, one decodes each picture between (by pillow), as TF-Slim's programs do to learn its size. The conversion decodes
each picture to see whether it is whole, hashes it, and splits by its content.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from input_cost import show
from PIL import Image

from trainer.console import Console
from trainer.data import conversion
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.data.sources import named, own
from trainer.data.sources.splitting import parse_shares
from trainer.grammars import MAX_PIXELS
from trainer.tf1 import tf


def convert(source_dir: Path) -> float:
    console = Console()
    console.rich.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        manifest = conversion.convert(
            "mnist",
            named.SOURCES["mnist"],
            source_dir=source_dir,
            data_dir=Path(folder) / "mnist",
            num_shards=10,
            console=console,
        )
        seconds = time.perf_counter() - begin
    return sum(manifest.num_examples(split) for split in manifest.splits) / seconds


def convert_pictures(folder: Path) -> float:
    console = Console()
    console.rich.quiet = True
    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        wanted = own.Wanted(parse_shares("80/10/10"), own.parse_store("encoded"), 0, False, MAX_PIXELS)
        source = own.open_source(folder, wanted, console, is_list=False)
        conversion.convert(
            "pictures", source, source_dir=folder, data_dir=Path(output) / "data", num_shards=10, console=console
        )
        return sum(source.sizes.values()) / (time.perf_counter() - begin)


def write_files(folder: Path, *, decodes: bool) -> float:
    feature = tf.train.Feature
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        paths = sorted(path for path in folder.glob("*/*") if path.is_file())
        with tf.io.TFRecordWriter(f"{output}/all.tfrecords") as writer:
            for path in paths:
                data = path.read_bytes()
                if decodes:
                    Image.open(io.BytesIO(data)).load()
                features = {
                    "image": feature(bytes_list=tf.train.BytesList(value=[data])),
                    "label": feature(int64_list=tf.train.Int64List(value=[classes.index(path.parent.name)])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
        return len(paths) / (time.perf_counter() - begin)


def compare_pictures(folder: Path, rounds: int) -> None:
    works = {
        "conversion": lambda: convert_pictures(folder),
        "read and write": lambda: write_files(folder, decodes=False),
        "read, decode and write": lambda: write_files(folder, decodes=True),
    }
    for work in works.values():
        work()  # So that all find the files in memory.
    speeds = [{name: work() for name, work in works.items()} for _ in range(rounds)]
    print("pictures/s, and the conversion's divided by it:")
    for name in works:
        ratios = [row["conversion"] / row[name] for row in speeds]
        print(f"{name}: {show([row[name] for row in speeds], ',.0f')} pictures/s; {show(ratios, '.3f')}")


def write_bare(images: np.ndarray, labels: np.ndarray) -> float:
    feature = tf.train.Feature

    def int64(value: int) -> tf.train.Feature:
        return feature(int64_list=tf.train.Int64List(value=[value]))

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with tf.io.TFRecordWriter(f"{folder}/all.tfrecords") as writer:
            for image, label in zip(images, labels, strict=True):
                height, width, depth = image.shape
                features = {
                    "height": int64(height),
                    "width": int64(width),
                    "depth": int64(depth),
                    "label": int64(int(label)),
                    "image_raw": feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
        return len(images) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source_dir", help="folder of MNIST's four files")
    parser.add_argument("--pictures", type=Path, help="folder of pictures, one for each class, instead")
    parser.add_argument("--data_dir", default="data/mnist", help="the converted set, for the loop's images")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.pictures:
        compare_pictures(args.pictures, args.rounds)
        return
    if not args.source_dir:
        parser.error("--source_dir or --pictures is missing")
    images, labels = load_split(load_manifest(Path(args.data_dir)), "train")
    pairs = [(convert(Path(args.source_dir)), write_bare(images, labels)) for _ in range(args.rounds)]
    converted, bare = zip(*pairs, strict=True)
    print(f"conversion {show(list(converted), ',.0f')}, bare loop {show(list(bare), ',.0f')} examples/s")
    print(f"ratio {show([one / other for one, other in pairs], '.3f')}")


if __name__ == "__main__":
    main()
