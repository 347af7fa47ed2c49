"""A run from its settings to a checked job: devices, data, directory, cluster, and where to go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from trainer.config import Config
from trainer.console import Console
from trainer.data.layout import find_layout
from trainer.placing.cluster import Cluster
from trainer.placing.devices import Devices, choose_devices
from trainer.rundir import RunDir
from trainer.running.gathering import gather
from trainer.running.job import Job, session_config
from trainer.running.joining import Member, agree_on_start, join
from trainer.running.preparation import Data, compare_data, is_checked, prepare_data, prepare_rundir, skip_damaged
from trainer.saving.checkpoints import Progress
from trainer.tf1 import NUM_PHYSICAL_GPUS


def prepare(
    config: Config,
    console: Console,
    stack: ExitStack,
    cluster: Cluster | None = None,
    check: Callable[[], None] = lambda: None,
) -> Job:
    """Checks everything that can be checked before the graph is built, and says what will be done.

    Args:
      config: of the run.
      console: is told what will be done, and keeps it in the log of this process.
      stack: gets what has to be closed at the end of the run.
      cluster: of which this process is a worker, which is joined here.
      check: raises where a signal asks to stop.
    """
    devices = _choose_devices(config)
    data = prepare_data(config, console)
    rundir = RunDir(config.logdir)
    leads = cluster is None or cluster.is_chief
    lock, progress = prepare_rundir(config, rundir, console, stack) if leads else (None, None)
    member = None
    if cluster:
        joined = join(cluster, config, session_config(config, devices), console.say, check)
        progress, member = _agree(joined, config, data, progress, check)
    start = progress or Progress(path="", step=0, position=0)
    rundir.path.mkdir(parents=True, exist_ok=True)  # On a host that does not share the chief's.
    console.open_log(rundir.task_log(cluster.job, cluster.task_index) if cluster else rundir.log)
    clean_shards = rundir.clean_shards_of(cluster.task_index if cluster else 0)
    manifest = skip_damaged(data, Path(config.data_dir), clean_shards, console.say)
    steps_per_epoch = manifest.num_examples("train") / config.batch_size
    last_step = config.train_steps or max(1, round(config.epochs * steps_per_epoch))
    job = Job(
        config=config,
        console=console,
        rundir=rundir,
        lock=lock,
        manifest=manifest,
        layout=find_layout(Path(config.data_dir), manifest) if is_checked(manifest) else None,
        skipped_records=data.salvage.num_lost,
        devices=devices,
        start=start,
        steps_per_epoch=steps_per_epoch,
        last_step=last_step,
        member=member,
    )
    _announce(job)
    return job


def _agree(
    member: Member, config: Config, data: Data, progress: Progress | None, check: Callable[[], None]
) -> tuple[Progress, Member]:
    """Gives all workers the chief's start."""
    lost = [(damage.shard.file, damage.num_lost) for damage in data.salvage.damages]
    what = repr((data.manifest, lost))
    if not member.cluster.parameter_servers:
        return agree_on_start(member, config, what, progress), member
    begin = (progress or Progress("", 0, 0)) if member.cluster.is_chief else None
    return gather(member, config, what, begin, check)


def _choose_devices(config: Config) -> Devices:
    return choose_devices(
        config.num_gpus,
        num_gpus=NUM_PHYSICAL_GPUS,
        device=config.device,
        virtual_gpus=config.virtual_gpus,
        parameter_device=config.parameter_device,
    )


def _announce(job: Job) -> None:
    config, say = job.config, job.console.say
    if job.devices.note:
        say(job.devices.note)
    if config.precision == "float16" and job.devices.towers[0].startswith("/cpu"):
        say("--precision=float16 is many times slower than float32 on a CPU; there, use --precision=bfloat16")
    towers = f"{config.num_gpus} tower{'s' if config.num_gpus > 1 else ''}"
    if job.member:
        towers += f" on each of {job.member.workers.count} workers"
    num_images = job.manifest.num_examples("train")
    say(
        f"{config.model} on {config.dataset}: {num_images:,} images, {job.last_step:,} steps of "
        f"{config.batch_size} over {towers}; to watch: tensorboard --logdir={job.rundir.path}"
    )
    if job.is_chief:
        compare_data(job.manifest, Path(config.data_dir), job.rundir, say)
    if job.start.step:
        say(f"resuming from step {job.start.step} ({job.start.path or 'of the chief'})")
