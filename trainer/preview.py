"""Shows pictures as they are stored and as a model sees them: `python -m trainer.preview --data_dir=data/mine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.console import Console, exit_program, run_program
from trainer.data.spec import SPLITS
from trainer.errors import OK, UsageError, unknown_name
from trainer.settings import flags
from trainer.settings.fields import between, check_fields, option
from trainer.signals import Signals

USAGE = "python -m trainer.preview --data_dir=DIR [--preprocess=...] [--output=preview.png]"


@dataclass(frozen=True)
class PreviewSettings:
    data_dir: str = option("", "directory of the shards", path=True)
    preprocess: str = option("", "as for the training, which sees the pictures so")
    eval_preprocess: str = option("", "as for the training (default: --preprocess without what is random)")
    split: str = option("train", "train | validation | test")
    pictures: int = option(8, "how many, a row each", legal=between(1, 100))
    epochs: int = option(5, "how often each is shown as the training sees it", legal=between(0, 50))
    seed: int = option(1, "of the training, from which follows what is random", legal=between(0, 2**31 - 1))
    output: str = option("preview.png", "where the sheet goes: .png, .svg or .pdf", path=True)


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(_preview, argv)


def _preview(argv: Sequence[str], console: Console, signals: Signals) -> int:
    settings: PreviewSettings = flags.parse_flags(PreviewSettings, argv, USAGE)
    check_fields(settings)
    output = _check(settings)
    signals.shield()  # Before TensorFlow's first thread.

    from trainer.data.looking import open_data  # TensorFlow and matplotlib are imported after parsing.
    from trainer.evaluating import previewing
    from trainer.plotting import plot_sheet
    from trainer.preprocessing.preprocessing import preprocessing_of

    spec = open_data("", Path(settings.data_dir))
    preprocessing = preprocessing_of(spec, settings.preprocess, settings.eval_preprocess, seed=settings.seed)
    pictures = previewing.choose_pictures(
        spec, settings.split, max(settings.pictures, previewing.num_counted(spec, preprocessing))
    )
    total = spec.num_examples("train")
    counted = previewing.see(preprocessing, pictures, epochs=1, num_records=total)
    shown = pictures[: settings.pictures]
    views = previewing.see(preprocessing, shown, epochs=settings.epochs, num_records=total)

    say = console.say
    say(f"{spec.name}, {settings.split}: {spec.num_examples(settings.split):,} pictures; of {len(pictures):,} of them:")
    say(previewing.describe_pixels("stored", [picture.image for picture in pictures]))
    say(previewing.describe_pixels("evaluation", counted.evaluated))
    say(previewing.describe_pixels("training", counted.trained[0]))
    say(previewing.count_labels(pictures, spec))
    columns = [previewing.draw_boxes(shown), views.evaluated, *views.trained]
    titles = ["stored", "evaluation", *(f"training, epoch {epoch}" for epoch in range(settings.epochs))]
    rows = [previewing.name_label(picture.label, spec) for picture in shown]
    plot_sheet(columns, titles, rows, output)
    say(f"wrote {output}")
    return OK


def _check(settings: PreviewSettings) -> Path:
    output = Path(settings.output)
    if not settings.data_dir:
        raise UsageError(f"--data_dir is missing; usage: {USAGE}")
    if settings.split not in SPLITS:
        raise unknown_name("split", settings.split, SPLITS)
    if output.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--output={output}: wanted a name that ends with .png, .svg or .pdf")
    if not output.parent.is_dir():
        raise UsageError(f"--output={output}: there is no directory {output.parent}")
    return output


if __name__ == "__main__":
    exit_program(main())
