"""Warm starts: a new run begins with weights of another one's checkpoint, by name, renamed or in part."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from trainer.errors import TrainerError, UsageError, reason
from trainer.saving.files import READ_ERRORS
from trainer.saving.tensors import TensorInfo, find_checkpoint, list_tensors
from trainer.tf1 import tf, tf_path

AVERAGE = "/ExponentialMovingAverage"
FLOATS = {"float16", "bfloat16", "float32", "float64"}


class WarmStart(NamedTuple):
    """What a warm start does with each variable of the model and each tensor of the checkpoint."""

    path: str  # of the checkpoint
    loaded: dict[str, str]  # variable, also of averages -> tensor
    cast: dict[str, str]  # the same, where the tensor is of another type of floating-point numbers
    excluded: list[str]  # variables
    missing: list[str]  # variables
    different: list[str]  # variables, each with what differs
    widths: set[tuple[int, int]]  # of what differs in its last dimension alone: in the model, in the checkpoint
    extra: list[str]  # tensors that nothing takes


def plan_warm_start(
    path: str,
    tensors: Mapping[str, TensorInfo],
    wanted: Mapping[str, TensorInfo],
    averages: Mapping[str, TensorInfo],
    *,
    exclude: Sequence[str],
    rename: Sequence[tuple[str, str]],
) -> WarmStart:
    """Matches the tensors of a checkpoint with the variables of a model.

    Args:
      path: of the checkpoint.
      tensors: of the checkpoint.
      wanted: variables of the model.
      averages: of the variables; those that the checkpoint lacks are none of its business.
      exclude: regular expressions for variables or their scopes, which keep their initial values.
      rename: (regular expression, replacement), for the names of tensors, one rule after the other.

    Raises:
      UsageError: a rule matches nothing, or gives two tensors one name.
    """
    sources = rename_all(tensors, rename)
    for pattern in exclude:
        if not any(_in_pattern(name, pattern) for name in wanted):
            raise UsageError(f"warm_start_exclude={pattern} matches no variable; there are {', '.join(sorted(wanted))}")
    plan = WarmStart(path, {}, {}, [], [], [], set(), [])
    for name, variable in {**wanted, **averages}.items():
        source = sources.get(name)
        if any(_in_pattern(name, pattern) for pattern in exclude):
            plan.excluded.extend([name] if name in wanted else [])
        elif source is None:
            plan.missing.extend([name] if name in wanted else [])
        elif _is_cast(tensors[source], variable):
            plan.cast[name] = source
        elif tensors[source] != variable:
            plan.different.append(f"{name} is {variable}, in the checkpoint {tensors[source]}")
            one, other = variable.shape, tensors[source].shape
            if one and other and one[:-1] == other[:-1]:
                plan.widths.add((one[-1], other[-1]))
        else:
            plan.loaded[name] = source
    plan.extra.extend(sorted(set(tensors) - set(plan.loaded.values()) - set(plan.cast.values())))
    return plan


def _is_cast(tensor: TensorInfo, variable: TensorInfo) -> bool:
    floats = {tensor.dtype, variable.dtype} <= FLOATS
    return floats and tensor.shape == variable.shape and tensor.dtype != variable.dtype


def rename_all(names: Mapping[str, object], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Applies rules to names, one after the other: new name -> old name.

    Raises:
      UsageError: a rule changes nothing or is none, or two names become one.
    """
    renamed = {name: name for name in names}  # old -> new
    for pattern, replacement in rules:
        try:
            after = {old: re.sub(pattern, replacement, new) for old, new in renamed.items()}
        except (re.error, IndexError) as error:
            raise UsageError(
                f"rule {pattern}=>{replacement} is no regular expression with its replacement: {error}"
            ) from error
        if after == renamed:
            raise UsageError(f"rule {pattern}=>{replacement} changes no name of: {', '.join(sorted(renamed.values()))}")
        renamed = after
    sources: dict[str, str] = {}
    for old, new in renamed.items():
        if not new:
            raise UsageError(f"the rules leave nothing of the name {old}")
        if new in sources:
            raise UsageError(f"the rules give {sources[new]} and {old} one name, {new}")
        sources[new] = old
    return sources


def check_warm_start(plan: WarmStart, *, ignore_missing: bool) -> None:
    """Refuses what would be dropped silently.

    Raises:
      UsageError: a variable is not in the checkpoint, or has another shape there.
    """
    lines = [*plan.different, *(f"{name} is not in the checkpoint" for name in plan.missing if not ignore_missing)]
    if lines:
        listed = "".join(f"\n  {line}" for line in lines)
        raise UsageError(
            f"--warm_start={plan.path} does not fit the model; --warm_start_exclude=SCOPE leaves variables at their "
            f"initial values, --ignore_missing those that are missing, --warm_start_rename=old=>new renames:{listed}"
            f"{_explain_heads(plan)}"
        )


def _explain_heads(plan: WarmStart) -> str:
    """Says what to do where the checkpoint is of another number of classes."""
    lines = []
    for here, there in sorted(plan.widths):
        if here != there:
            lines.append(
                f"the data have {here:,} classes, if these are heads, and the checkpoint {there:,}: leave them out"
            )
        if abs(here - there) == 1:
            lines.append(f"or, if one of them counts a class `background` as the first: --labels_offset={here - there}")
    return "".join(f"\n  {line}" for line in lines)


def describe(plan: WarmStart) -> list[str]:
    """Lists what was done with each variable and each tensor, a line each."""
    lines = [
        f"loaded    {name}" + (f" from {source}" if source != name else "") for name, source in plan.loaded.items()
    ]
    lines += [f"cast      {name} from {source}, which has another type" for name, source in plan.cast.items()]
    lines += [f"excluded  {name} keeps its initial value" for name in plan.excluded]
    lines += [f"missing   {name} keeps its initial value" for name in plan.missing]
    return lines + [f"extra     {name} in the checkpoint is not used" for name in plan.extra]


def build_warm_start(
    directory_or_path: str,
    *,
    exclude: Sequence[str],
    rename: Sequence[tuple[str, str]],
    ignore_missing: bool,
    say: Callable[[str], None],
) -> Callable[[tf.Session], None]:
    """Builds the operations that initialize the default graph's variables, and load those that a checkpoint holds.

    Averages that the checkpoint lacks begin at the loaded weights.

    Raises:
      UsageError: there is no such checkpoint, or it does not fit.
      TrainerError: it is damaged.
    """
    path = find_checkpoint(directory_or_path)
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    weights = {variable.op.name: variable for variable in tf.get_collection(tf.GraphKeys.MODEL_VARIABLES)}
    averages = {name: variables[name] for name in (f"{weight}{AVERAGE}" for weight in weights) if name in variables}
    plan = plan_warm_start(path, list_tensors(path), _infos(weights), _infos(averages), exclude=exclude, rename=rename)
    check_warm_start(plan, ignore_missing=ignore_missing)
    if not plan.loaded and not plan.cast:
        raise UsageError(f"--warm_start={path}: nothing of it would be loaded; it holds {', '.join(plan.extra)}")
    for line in describe(plan):
        say(line)
    say(f"warm start from {path}: {len(plan.loaded) + len(plan.cast)} tensors loaded, {len(plan.extra)} of it not used")
    saver = tf.train.Saver({source: variables[name] for name, source in plan.loaded.items()}) if plan.loaded else None
    initialize = tf.global_variables_initializer()
    follow = [
        average.assign(weights[name.removesuffix(AVERAGE)].read_value())
        for name, average in averages.items()
        if name not in plan.loaded and name not in plan.cast
    ]
    casts = {source: _build_assign(variables[name]) for name, source in plan.cast.items()}

    def load(session: tf.Session) -> None:
        session.run(initialize)
        try:
            if saver:
                saver.restore(session, tf_path(path))
            reader = tf.train.NewCheckpointReader(tf_path(path))
            for source, (assign, value) in casts.items():
                session.run(assign, {value: reader.get_tensor(source)})
        except READ_ERRORS as error:
            raise TrainerError(f"checkpoint {path} cannot be read: {reason(error)}") from error
        session.run(follow)

    return load


def _build_assign(variable: tf.Variable) -> tuple[tf.Operation, tf.Tensor]:
    """Builds what gives a variable the numbers that are fed, of whatever type."""
    value = tf.placeholder(variable.dtype.base_dtype, variable.shape)
    return variable.assign(value, read_value=False), value


def _infos(variables: Mapping[str, tf.Variable]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(tuple(variable.shape.as_list()), variable.dtype.base_dtype.name)
        for name, variable in variables.items()
    }


def _in_pattern(name: str, pattern: str) -> bool:
    return re.fullmatch(f"(?:{pattern})(?:/.*)?", name) is not None
