"""Labels as a function of the user's gives them: numbers or names of classes, one or several, or numbers to learn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trainer.data.spec import CLASS, NUMBERS, SEVERAL, DataError, DatasetSpec, Label
from trainer.errors import UsageError

WANTED = "wanted the number or the name of its class, several of these, or floats"


class Given(NamedTuple):
    """A label."""

    kind: str  # of LABEL_KINDS
    values: tuple[Any, ...]  # int or str of classes, float of numbers

    @property
    def are_names(self) -> bool:
        return bool(self.values) and isinstance(self.values[0], str)


def read_label(label: Any) -> Given:
    """Reads a label: a number or a text, or a list, tuple, set or array of these.

    Raises:
      ValueError: it is something else.
    """
    is_one = isinstance(label, str | bytes) or (np.ndim(label) == 0 and not isinstance(label, set | frozenset))
    several = [label] if is_one else sorted(label) if isinstance(label, set | frozenset) else list(label)
    values = tuple(each.decode() if isinstance(each, bytes) else np.asarray(each).item() for each in several)
    if values and all(isinstance(each, float) for each in values):
        if not (np.abs(np.array(values)) <= np.finfo(np.float32).max).all():
            raise ValueError(f"it is {label!r}, no number that float32 holds")
        return Given(NUMBERS, values)
    if not (all(isinstance(each, int) for each in values) or all(isinstance(each, str) for each in values)):
        raise ValueError(f"it is {label!r}")
    if any(isinstance(each, int) and each < 0 for each in values):
        raise ValueError(f"it is {label!r}, and classes count from 0")
    return Given(CLASS if is_one else SEVERAL, values)


class Labels:
    """What the labels of all examples are."""

    def __init__(self) -> None:
        self._first: Given | None = None
        self._names, self._largest = set[str](), -1

    @property
    def kind(self) -> str:
        return self._first.kind if self._first else CLASS

    def take(self, label: Any, what: str) -> Given:
        """Looks at one more; returns what it is.

        Args:
          label: as the function gives it.
          what: names the example.

        Raises:
          UsageError: it is no label, or one of another kind than those before.
        """
        try:
            found = read_label(label)
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"the label of {what}: {error}; {WANTED}") from error
        first = self._first or found
        are_others = found.kind != first.kind or (found.kind == NUMBERS and len(found.values) != len(first.values))
        if are_others or (found.values and first.values and found.are_names != first.are_names):
            raise UsageError(f"the label of {what} is {label!r}, and one before it {first.values!r}; {WANTED}, in all")
        if not first.values or self._first is None:
            self._first = found
        if found.are_names:
            self._names.update(found.values)
        elif found.kind != NUMBERS:
            self._largest = max(self._largest, *found.values, -1)
        return found

    def check(self, count: int, reference: str) -> None:
        """Looks at all of them.

        Args:
          count: of the examples.
          reference: of the function.

        Raises:
          UsageError: no example has a label, or a class has a number that there are not as many examples.
        """
        if not self._names and self._largest < 0 and self.kind != NUMBERS:
            raise UsageError(f"--input={reference} gives no label, of {count:,} examples; {WANTED}")
        if self._largest >= count:
            raise UsageError(
                f"--input={reference}: a label is {self._largest:,}, of {count:,} examples; number the classes from 0 "
                "on, or give their names"
            )

    def names(self) -> tuple[str, ...]:
        """Names the classes, or the numbers."""
        if self._names:
            return tuple(sorted(self._names))
        width = len(self._first.values) if self._first and self.kind == NUMBERS else self._largest + 1
        return tuple(map(str, range(width)))


def label_of(label: Any, spec: DatasetSpec) -> Label:
    """Makes of a label what the records of a data set hold.

    Raises:
      DataError: it is none of the data set's.
    """
    offset, numbers = spec.fields.label_offset, {name: number for number, name in enumerate(spec.class_names)}
    try:
        kind, values = read_label(label)
        if kind == spec.label_kind == NUMBERS and len(values) == spec.num_classes:
            return values
        found = tuple(numbers[each] if isinstance(each, str) else each - offset for each in values)
        if kind != spec.label_kind or kind == NUMBERS or not all(0 <= each < spec.num_classes for each in found):
            raise ValueError
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"a label is {label!r}, which it was not when the run began: those were of kind {spec.label_kind}, of "
            f"{', '.join(spec.class_names)}"
        ) from error
    return found[0] + offset if kind == CLASS else tuple(each + offset for each in found)
