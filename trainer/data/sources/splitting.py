"""Which split an example belongs to, and what is said of the splits of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from trainer.console import Console
from trainer.data.spec import SPLITS, DataError
from trainer.errors import UsageError

TRAIN = SPLITS[0]
SPLIT_NAMES = {"train": TRAIN, "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
SHOWN = 10  # names of classes, in a line
SHOWN_CLASSES = 50  # in the table
UNEVEN = 10  # times as many examples of the most frequent class as of the rarest are said
FEW = 64  # examples: a split with less is said


def parse_shares(text: str) -> tuple[float, float, float]:
    """Reads `80/10/10`, the shares of training, validation and test.

    Raises:
      UsageError: it is none.
    """
    parts = text.split("/")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts) or not sum(map(int, parts)):
        raise UsageError(f"--split={text}: wanted three whole numbers, as 80/10/10 for training, validation and test")
    whole = sum(map(int, parts))
    first, second, third = (int(part) / whole for part in parts)
    return first, second, third


def choose_splits(
    digests: Sequence[str], given: Sequence[str], shares: tuple[float, float, float], there: Collection[str]
) -> list[str]:
    """Chooses the split of each example: the given one, or by its content, so that it stays when others are added.

    Splits that the source has none of are taken from its training examples. The same content is on one side, so that
    the shares are approximate.

    Args:
      digests: of the examples, hexadecimal.
      given: a split of each, empty where the source tells none.
      shares: of SPLITS.
      there: splits that the source has.
    """
    wanted = {split: share for split, share in zip(SPLITS, shares, strict=True) if split == TRAIN or split not in there}
    whole = sum(wanted.values()) or 1.0

    def choose(digest: str) -> str:
        place, end = int(digest[:13], 16) / 16**13 * whole, 0.0
        for split, share in wanted.items():
            end += share
            if place < end:
                return split
        return next(reversed(wanted))

    return [choose(digest) if split in ("", TRAIN) else split for digest, split in zip(digests, given, strict=True)]


def say_counts(
    class_names: Sequence[str],
    counts: Mapping[str, Counter[int]],
    source: object,
    console: Console,
    totals: Mapping[str, int] | None = None,
) -> None:
    """Prints how many examples of each class the splits have, and what is odd about them.

    Args:
      class_names: by label; empty where labels are no classes.
      counts: of the labels of each split's examples.
      source: for the message.
      console: is printed on.
      totals: examples of each split, where these have not one label each.

    Raises:
      DataError: a split has none.
    """
    table = Table("class", *SPLITS)
    for label, name in enumerate(class_names[:SHOWN_CLASSES]):
        table.add_row(Text(name), *(f"{counts[split][label]:,}" for split in SPLITS))
    if len(class_names) > SHOWN_CLASSES:
        table.add_row(f"and {len(class_names) - SHOWN_CLASSES:,} more", "", "", "")
    totals = totals or {split: counts[split].total() for split in SPLITS}
    table.add_row("all", *(f"{totals[split]:,}" for split in SPLITS))
    console.table(table)
    for split in SPLITS:
        if not totals[split]:
            raise DataError(f"{source} gives no picture for {split}; --split=80/10/10 gives each split a share")
        missing = [name for label, name in enumerate(class_names) if not counts[split][label]]
        if missing:
            console.say(f"{split} has no picture of {', '.join(missing[:SHOWN])}")
        if totals[split] < FEW:
            console.say(f"{split} has {totals[split]} pictures only, less than a batch of {FEW}")
    if len(class_names) == 1:
        console.say(f"there is one class only, {class_names[0]}: nothing can be learned")
    if not counts[TRAIN]:
        return
    most, least = counts[TRAIN].most_common()[0], counts[TRAIN].most_common()[-1]
    if most[1] >= UNEVEN * least[1]:
        console.say(
            f"the classes are uneven: {most[1]:,} training pictures of {class_names[most[0]]}, {least[1]:,} of "
            f"{class_names[least[0]]}"
        )
