"""`data.json` of a run directory: what must be known of the data set to use the model without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from trainer.data.manifest import Manifest
from trainer.errors import UsageError


class Facts(NamedTuple):
    """What a run directory tells of its data set."""

    train_examples: int
    image_shape: tuple[int, int, int]  # height, width, depth
    class_names: tuple[str, ...]
    data_dir: str  # absolute, of its shards

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def facts_of(manifest: Manifest, data_dir: Path) -> Facts:
    return Facts(manifest.num_examples("train"), manifest.image_shape, manifest.class_names, str(data_dir.absolute()))


def to_json(facts: Facts) -> str:
    return json.dumps(facts._asdict()) + "\n"


def load_facts(path: Path) -> Facts:
    """Reads a `data.json`.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    try:
        values = json.loads(path.read_text())
        height, width, depth = (int(size) for size in values["image_shape"])
        names = tuple(str(name) for name in values["class_names"])
        if min(height, width, depth) < 1 or not names:
            raise ValueError(f"images of {values['image_shape']} in {len(names)} classes")
        return Facts(int(values["train_examples"]), (height, width, depth), names, str(values["data_dir"]))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; --logdir is the directory of a run that has begun") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"{path} is damaged ({error!r}): the next start of its run writes it again") from error
