"""Settings of a run: its directory, what it saves and reports, and when it gives up."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.grammars import MAX_COUNT, MAX_STEPS
from trainer.settings.fields import TASK, WITHIN, Legal, above, between, option

RESUMES = ("auto", "must", "never")


@dataclass(frozen=True)
class RunSettings:
    """The run directory, what is saved and reported, and when the run gives up."""

    logdir: str = option(
        "", "run directory, also for `tensorboard --logdir` (default: runs/DATASET_MODEL)", scope=TASK, path=True
    )
    resume: str = option(
        "auto",
        "auto: go on from the newest checkpoint of --logdir; must: fail without one; never: move an earlier run aside "
        "and start at step 0; a number: go back to the checkpoint of that step",
        scope=TASK,
        legal=Legal(lambda text: text in RESUMES or text.isdecimal(), f"{', '.join(RESUMES)}, or a step"),
    )
    code: str = option(
        "kept",
        "of a run that goes on, and whose files of the user's own are others now: kept runs the copies in the run "
        "directory, current the files as they are",
        ("kept", "current"),
        scope=TASK,
        once=True,
    )
    trust_code: bool = option(
        False,
        "run the user's code that a run directory holds, also where you have not run it before",
        scope=TASK,
        once=True,
    )
    dry_run: str = option(
        "",
        "train nothing, only check: flags: the flags; data: also that the data is there",
        ("", "flags", "data"),
        scope=TASK,
    )
    hooks: str = option(
        "",
        "your function hooks() that returns SessionRunHooks, as my_hooks.py or package.module:function",
        scope=TASK,
        code=WITHIN,
    )
    keep_best: bool = option(
        False, "keep the checkpoint of the best evaluation (--best) in best/, beside the newest", scope=TASK
    )
    checkpoint_every: str = option(
        "60s", "period of checkpoints: 100 (steps), 2epochs, 60s or 0 (only at the end)", scope=TASK, period=True
    )
    keep_checkpoints: int = option(5, "newest checkpoints that are kept", scope=TASK, legal=between(1, MAX_COUNT))
    keep_every: str = option(
        "0",
        "period of checkpoints that stay for ever, in kept/ of the run directory: 6h, 10epochs or 1000 (steps)",
        scope=TASK,
        period=True,
    )
    summary_every: str = option("100", "period of scalar summaries", scope=TASK, period=True)
    histogram_every: str = option(
        "5epochs", "period of weight and gradient histograms and of the image grid", scope=TASK, period=True
    )
    eval_every: str = option("5epochs", "period of the evaluation on the validation set", scope=TASK, period=True)
    trace_every: str = option("0", "period of RunMetadata traces", scope=TASK, period=True)
    log_every: str = option("100", "period of progress lines where there is no terminal", scope=TASK, period=True)
    stall_seconds: float = option(
        60.0,
        "a step that takes longer is reported, with what it waits for; 0: never",
        scope=TASK,
        legal=between(0, MAX_STEPS),
    )
    stall_fatal: bool = option(False, "end the run at such a step, after a checkpoint", scope=TASK)
    grace_seconds: float = option(
        25.0,
        "time to save and end after SIGTERM or Ctrl-C, before the process ends anyway",
        scope=TASK,
        legal=above(0, MAX_COUNT),
    )
    group_readable: bool = option(
        False,
        "let the group of the run directory's owner read what the run writes (default: the owner alone)",
        scope=TASK,
    )
