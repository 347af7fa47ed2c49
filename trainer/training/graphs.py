"""A job's graph: input, towers, update and evaluation, and what has to be done before its first step."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from trainer.cluster import ps_rendezvous, rendezvous
from trainer.cluster.ps_variables import RendezvousVariables
from trainer.data.given.examples import open_examples
from trainer.graph.evaluation import EvalGraph, build_eval_graph
from trainer.graph.step import StepBuilder
from trainer.graph.tower import StepPlaces
from trainer.graph.training import TrainGraph, build_train_graph
from trainer.graph.update import Counters, build_counters
from trainer.inputs.batch import RECORD, Input
from trainer.inputs.build import InputSettings, build_input, build_own_input
from trainer.learning.plateau import Plateau
from trainer.placing.all_reduce import AllReduce
from trainer.placing.devices import Placement
from trainer.placing.means_check import check_means
from trainer.placing.ps_exchange import GradientQueues, OwnUpdates
from trainer.placing.replicas import Replicas, build_means_check
from trainer.placing.strategy import OneProcess, Strategy, Votes
from trainer.settings.fields import is_reference
from trainer.tf1 import tf
from trainer.training.job import Job

Verify = Callable[[tf.Session], None]


class Graphs(NamedTuple):
    """What a job's graph holds."""

    source: Input
    train: TrainGraph
    eval: EvalGraph
    barrier: tf.Tensor | None  # ends when all workers have come to it
    rendezvous: RendezvousVariables | None  # on parameter servers
    wake: list[tf.Operation]  # makes a step fail that waits for other workers
    note_stream: tf.Operation  # writes into the counters how this start of the run reads its records
    plateau: Plateau | None  # of the learning rate
    notes: list[str]  # what the user should know about the model
    build_verify: Callable[[Callable[[], None]], Verify | None]  # see `_build_verify`

    def votes(self) -> Votes:
        """Returns what the workers of a cluster tell each other."""
        assert self.train.votes is not None
        return self.train.votes


def build_graphs(job: Job) -> Graphs:
    """Builds input, towers, update and evaluation in the default graph."""
    config, member = job.config, job.member
    parameters = ps_rendezvous.placement_of(member, job.devices.parameters)
    with tf.device(parameters):
        counters = build_counters()
    variables = ps_rendezvous.make_variables(member) if member and member.cluster.parameter_servers else None
    strategy = _make_strategy(job, variables)
    source = _build_source(job, counters, strategy)
    builder = StepBuilder(
        config,
        job.task,
        counters,
        strategy,
        places=StepPlaces(job.devices.towers, parameters, member.device if member else None),
        train_steps=job.last_step,
        steps_per_epoch=job.steps_per_epoch,
        steps_ahead=job.steps_ahead,
        code=job.code,
        update_operation=job.ops.get("update"),
    )
    train = build_train_graph(
        builder,
        counters,
        source,
        side=job.task.preprocessing.training,
        tower_size=int(source.batch[RECORD].shape[0]) // len(job.devices.towers),
        parameter_device=parameters,
        steps_per_loop=config.steps_per_loop,
    )
    evaluation = build_eval_graph(
        job.task, job.spec, data_format=config.data_format, device=job.devices.towers[0], ema=builder.averages
    )
    return Graphs(
        source=source,
        train=train,
        eval=evaluation,
        barrier=strategy.build_barrier(),
        rendezvous=variables,
        wake=strategy.build_wake(),
        note_stream=counters.stream.assign(job.start.stream(), read_value=False),
        plateau=builder.plateau,
        notes=builder.notes(),
        build_verify=lambda check: _build_verify(job, strategy, variables, builder.replicas, parameters, check),
    )


def _make_strategy(job: Job, variables: RendezvousVariables | None) -> Strategy:
    config, member, position = job.config, job.member, job.start.position
    if member is None:
        return OneProcess()
    if config.strategy == "ps_sync":
        return GradientQueues(member.workers, generation=member.generation, position=position)
    if config.strategy == "ps_async":
        assert variables
        return OwnUpdates(member.workers, variables.all_votes, position=position, batch_size=config.batch_size)
    return AllReduce(member.workers, bucket_bytes=job.bucket_bytes)


def _build_source(job: Job, counters: Counters, strategy: Strategy) -> Input:
    config = job.config
    settings = InputSettings(
        spec=job.spec,
        batch_size=job.read_size,
        seed=config.seed,
        position=job.start.position,
        position_variable=counters.position if strategy.position is None else strategy.position,
        layout=job.layout,
        num_readers=config.queue_readers,
        capacity=config.queue_capacity,
        side=job.task.preprocessing.training,
        decode_threads=config.decode_threads or len(os.sched_getaffinity(0)),
        in_memory=config.cache == "memory",
        shuffle_bytes=config.shuffle_mb << 20,
        queue_bytes=config.queue_mb << 20,
        shard=job.batch_shard,
        ops=job.ops,
    )
    if is_reference(config.input):
        return build_own_input(open_examples(config.input, config.input_args, config.seed, job.code), settings)
    return build_input(config.input, settings)


def _build_verify(
    job: Job,
    strategy: Strategy,
    variables: RendezvousVariables | None,
    replicas: Replicas | None,
    parameters: Placement,
    check: Callable[[], None],
) -> Verify | None:
    """Builds what makes all variables equal and checks the means of gradients, once the variables have their values.

    Args:
      job: of the graph.
      strategy: of its steps.
      variables: on parameter servers.
      replicas: of the towers of one process.
      parameters: the device of the variables.
      check: raises where a signal asks to stop.

    Returns:
      What takes the session; None where there is one copy of everything. It raises a TrainerError where means are
      wrong.
    """
    member = job.member
    if member and variables:
        trained, seconds = tf.trainable_variables(), job.config.join_seconds
        return ps_rendezvous.build_verify(member, variables, strategy, trained, seconds=seconds, check=check)
    if member:
        assert isinstance(strategy, AllReduce)
        return rendezvous.build_verify(member, strategy)
    return _build_replicas_verify(job, replicas, parameters) if replicas else None


def _build_replicas_verify(job: Job, replicas: Replicas, parameters: Placement) -> Verify:
    with tf.name_scope("verify"):
        difference = build_means_check(
            [variable.shape for variable in tf.trainable_variables()],
            job.devices.towers,
            how=job.config.reduce,
            parameter_device=parameters,
            bucket_bytes=job.bucket_bytes,
        )
        sync = replicas.build_sync()

    def verify(session: tf.Session) -> None:
        _, difference_v = session.run([sync, difference])
        check_means(float(difference_v))

    return verify
