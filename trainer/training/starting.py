"""A run from its settings to a checked job: devices, data, directory, cluster, and where to go on."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from trainer.cluster import ps_rendezvous, rendezvous
from trainer.cluster.member import Member
from trainer.cluster.spec import Cluster
from trainer.console import Console
from trainer.data.given.examples import open_examples
from trainer.data.layout import find_layout
from trainer.data.spec import DatasetSpec
from trainer.inputs import order
from trainer.inputs.loading import load_sample
from trainer.learning.task import Task
from trainer.models.building import SAMPLE_SIZE
from trainer.ops import own
from trainer.placing.devices import Devices, choose_devices
from trainer.reporting.status_file import StatusFile
from trainer.rundir import RunDir
from trainer.saving.code import digest_of_files, open_current, say_changed_code
from trainer.saving.models import task_of
from trainer.saving.progress import Progress
from trainer.settings.config import Config
from trainer.settings.fields import is_reference
from trainer.settings.model import model_name
from trainer.settings.plugins import UserCode
from trainer.tf1 import NUM_PHYSICAL_GPUS
from trainer.training.job import Job, session_config
from trainer.training.preparation import check_rundir, compare_data, prepare_rundir, say_changed_settings
from trainer.training.preparing_data import (
    Data,
    is_checked,
    keep_source,
    prepare_data,
    prepare_source,
    skip_damaged,
)


def prepare(
    config: Config,
    console: Console,
    stack: ExitStack,
    cluster: Cluster | None = None,
    check: Callable[[], None] = lambda: None,
    given: Mapping[str, Callable[..., Any]] | None = None,
) -> Job:
    """Checks everything that can be checked before the graph is built, and says what will be done.

    Args:
      config: of the run.
      console: is told that, and keeps it in the log of this process.
      stack: gets what has to be closed at the end of the run.
      cluster: of which this process is a worker, whose tasks are waited for here.
      check: raises where a signal asks to stop.
      given: functions that Python gives, see `plugins.given_reference`.
    """
    devices, rundir, is_chief = _choose_devices(config), RunDir(config.logdir), cluster is None or cluster.is_chief
    check_rundir(config, rundir, is_chief=is_chief)
    config = prepare_source(config, rundir, stack, is_chief=is_chief)
    code = open_current(config, rundir, console.say, given)
    data, (ops, without) = prepare_data(config, code, console), own.load_all(config.ops)
    task = _load_task(config, data.spec, code, ops)  # Before anything is moved aside: it may be refused.
    lock, begin = None, Progress.at_start(config.batch_size)
    if is_chief:
        lock, begin = prepare_rundir(config, rundir, console, stack)
        config, data = keep_source(config, data, rundir)
    begin, member = _join(cluster, config, devices, data, code, ops, begin, console, check)
    spec, start = _open_log(rundir, cluster, console, data), begin.with_batch_size(config.batch_size)
    job = Job(
        config=config,
        console=console,
        rundir=rundir,
        lock=lock,
        spec=spec,
        task=_with_sample(task, config, spec, code) if not start.step else task,
        code=code,
        layout=find_layout(spec) if is_checked(spec) and not spec.is_encoded else None,
        skipped_records=data.salvage.num_lost,
        devices=devices,
        start=start._replace(operations=own.bits_of(ops)),
        last_step=(last_step := _last_step(config, spec, start)),
        status=StatusFile(os.environ, last_step),
        member=member,
        ops=ops,
    )
    _announce(job, start.operations, without)
    return job


def _load_task(config: Config, spec: DatasetSpec, code: UserCode, ops: Mapping[str, Any]) -> Task:
    """Makes the task, and imports the user's code that is called later."""
    task = task_of(config, spec, code, ops)
    for name, reference in (("optimizer", config.optimizer), ("hooks", config.hooks)):
        if is_reference(reference):
            code.load(reference, default=name)
    return task


def _with_sample(task: Task, config: Config, spec: DatasetSpec, code: UserCode) -> Task:
    """Gives a new run's model some pictures, if it computes initial values from them."""
    if not task.takes_sample:
        return task
    examples = None
    if is_reference(config.input):
        examples = open_examples(config.input, config.input_args, config.seed, code)
    sample = load_sample(spec, task.preprocessing, examples, SAMPLE_SIZE)
    return task._replace(build=functools.partial(task.build, sample=sample))


def _open_log(rundir: RunDir, cluster: Cluster | None, console: Console, data: Data) -> DatasetSpec:
    """Opens the log of this process, and says in it which records are damaged; returns the data without them."""
    rundir.path.mkdir(parents=True, exist_ok=True)  # On a host that does not share the chief's.
    console.open_log(rundir.task_log(cluster.job, cluster.task_index) if cluster else rundir.log)
    return skip_damaged(data, rundir.clean_shards_of(cluster.task_index if cluster else 0), console.say)


def _last_step(config: Config, spec: DatasetSpec, start: Progress) -> int:
    """Counts the steps to the end of --epochs, some of which may have been made with another --batch_size."""
    if config.train_steps:
        return config.train_steps
    left = config.epochs * spec.num_examples("train") - start.batch_size_position
    return max(1, start.batch_size_step + round(left / config.batch_size))


def _join(
    cluster: Cluster | None,
    config: Config,
    devices: Devices,
    data: Data,
    code: UserCode,
    ops: Mapping[str, Any],
    start: Progress,
    console: Console,
    check: Callable[[], None],
) -> tuple[Progress, Member | None]:
    """Meets the other workers, if there are any, and gives all of them the chief's start."""
    if cluster is None:
        return start, None
    member = rendezvous.connect(cluster, config, session_config(config, devices), console.say, check)
    lost = [(damage.shard.file, damage.num_lost) for damage in data.salvage.damages]
    what = {
        "the data": repr((data.spec.to_values(), lost)),
        "the user's code": digest_of_files(code.files()),
        "the trainer's own operations (--ops=off has none)": ", ".join(ops),
    }
    mine = start if member.cluster.is_chief else None
    if member.cluster.parameter_servers:
        return ps_rendezvous.agree_on_start(member, config, what, mine, check)
    return rendezvous.agree_on_start(member, config, what, mine), member


def _choose_devices(config: Config) -> Devices:
    return choose_devices(
        config.num_gpus,
        num_gpus=NUM_PHYSICAL_GPUS,
        device=config.device,
        virtual_gpus=config.virtual_gpus,
        parameter_device=config.parameter_device,
    )


def _announce(job: Job, operations: int, without: str) -> None:
    """Says what will be done.

    Args:
      job: of the run.
      operations: of the trainer's own, that the checkpoint was written with.
      without: why there are none now.
    """
    config, say = job.config, job.console.say
    if without:
        say(without)
    if job.devices.note:
        say(job.devices.note)
    if config.precision == "float16" and job.devices.towers[0].startswith("/cpu"):
        say("--precision=float16 is many times slower than float32 on a CPU; there, use --precision=bfloat16")
    towers = f"{config.num_gpus} tower{'s' if config.num_gpus > 1 else ''}"
    if job.member:
        towers += f" on each of {job.member.workers.count} workers"
    num_images = job.spec.num_examples("train")
    say(
        f"{model_name(config.model)} on {job.spec.name}: {num_images:,} images, {job.last_step:,} steps of "
        f"{config.batch_size} over {towers}; to watch: tensorboard --logdir={shlex.quote(str(job.rundir.path))}"
    )
    if job.is_chief and not job.is_finished:
        if job.start.step:
            say_changed_settings(config, job.rundir, say)
            say_changed_code(job.code, config, job.rundir, say)
        compare_data(job.spec, job.rundir, say)
    if job.start.step:
        say(f"resuming from step {job.start.step} ({job.start.path or 'of the chief'})")
        if operations != job.start.operations:
            before, now = (", ".join(own.names_of(bits)) or "none" for bits in (operations, job.start.operations))
            say(
                f"the trainer's own operations (--ops) were {before}, and are {now}: the same results, but for the "
                "last bits of what is clipped by norms, and of means of pictures"
            )
        if job.start.order_version != order.VERSION:
            say(
                f"its checkpoint counts records in order {job.start.order_version}, and this version of the trainer "
                f"reads them in order {order.VERSION}: the epoch in hand may repeat or miss some"
            )
