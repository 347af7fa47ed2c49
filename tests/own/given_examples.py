"""Data of a user's own: pictures of 8x8 with a bright quarter, which is their class."""

import numpy as np
import tensorflow.compat.v1 as tf

SIZES = {"train": 200, "validation": 60, "test": 60}
NAMES = ("nw", "ne", "sw", "se")


def quarters(split, count=0):
    rng = np.random.default_rng(len(split))
    for _ in range(count or SIZES[split]):
        label = int(rng.integers(4))
        image = rng.integers(0, 60, (8, 8), np.uint8)
        image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 100
        yield image, label


def examples(split, bright=0):
    for image, label in quarters(split):
        yield image + np.uint8(bright), label


def named(split):
    return ((image, NAMES[label]) for image, label in quarters(split))


def several(split):
    return ((image, {NAMES[label], "even" if label % 2 == 0 else "odd"}) for image, label in quarters(split))


def numbers(split):
    return ((image, np.array([label // 2, label % 2], np.float32)) for image, label in quarters(split))


def tensors(split):
    images, labels = zip(*quarters(split), strict=True)
    names = tf.constant([NAMES[label] for label in labels])
    return tf.train.slice_input_producer([np.stack(images)[..., np.newaxis], names], num_epochs=1, shuffle=False)


def by_epoch(split, epoch, seed):
    for image, label in quarters(split):
        yield image + np.uint8(epoch + seed), label


def floats(split):
    return ((image / 255, label) for image, label in quarters(split))


def of_sizes(split):
    return ((image[: 8 - number % 2], label) for number, (image, label) in enumerate(quarters(split)))


def failing(split):
    for number, example in enumerate(quarters(split)):
        if number == 3:
            raise KeyError("no such file")
        yield example


def failing_later(split, epoch):
    for number, example in enumerate(quarters(split)):
        if epoch == 1 and number == 150:
            raise KeyError("no such file")
        yield example


def fewer(split, epoch):
    return quarters(split, SIZES[split] - epoch)


def mixed(split):
    return ((image, label if number < 50 else NAMES[label]) for number, (image, label) in enumerate(quarters(split)))


def no_validation(split):
    return [] if split == "validation" else quarters(split)


def reusing(split):
    buffer = np.empty((8, 8), np.uint8)
    for image, label in quarters(split):
        buffer[:] = image
        yield buffer, label


def nothing_between(split):
    for number, example in enumerate(quarters(split)):
        yield None if number == 40 else example


def importing(split):
    from quarters_beside import names

    for image, label in quarters(split):
        yield image, names[label]


def shuffling(split):
    images, labels = zip(*quarters(split), strict=True)
    return tf.train.slice_input_producer([np.stack(images)[..., np.newaxis], list(labels)], num_epochs=1)


def growing(split, epoch):
    yield from quarters(split)
    while epoch:
        yield np.zeros((8, 8), np.uint8), 0


def unlabelled(split):
    return ((image, []) for image, _ in quarters(split))


def huge(split):
    return ((image, 10_000_000 * label) for image, label in quarters(split))


def nan(split):
    return ((image, float("nan") if number == 7 else 1.0) for number, (image, _) in enumerate(quarters(split)))


def other_later(split, epoch):
    return ((image, label + 3 * epoch) for image, label in quarters(split))


def alone(split):
    return [image for image, _ in quarters(split)]


def none(split):
    return None


def wrong():
    return quarters("train")
