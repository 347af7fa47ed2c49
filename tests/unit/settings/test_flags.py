import subprocess
import sys
import time

import pytest

from tests.conftest import REPO, environment
from trainer.errors import UsageError
from trainer.settings import flags
from trainer.settings.config import Config, validate


def parse(*args):
    return flags.config_from_flags(["trainer", *args])


def test_a_flag_of_each_type():
    config = parse(
        "--batch_size=32",
        "--learning_rate",
        "0.5",
        "--noallow_soft_placement",
        "--model=mlp",
        "--model_args=hidden_sizes=(3, 4)",
        "--model_args=dropout=0",
        "--clip=norm:1",
    )
    assert (config.batch_size, config.learning_rate, config.allow_soft_placement) == (32, 0.5, False)
    assert (config.model_args, config.clip) == (("hidden_sizes=(3, 4)", "dropout=0"), "norm:1")


def test_later_flags_win_over_the_flagfile(tmp_path):
    path = tmp_path / "my.flags"
    path.write_text("# a comment\n--batch_size=32\n--seed=7\n")
    config = parse(f"--flagfile={path}", "--batch_size=48")
    assert (config.batch_size, config.seed) == (48, 7)


def test_a_length_on_the_command_line_wins_over_the_other_kind_in_the_flagfile(tmp_path):
    path = tmp_path / "my.flags"
    path.write_text("--epochs=14\n")
    config = parse(f"--flagfile={path}", "--train_steps=7")
    assert (config.train_steps, config.epochs) == (7, 0.0)
    path.write_text("--train_steps=7\n")
    config = parse(f"--flagfile={path}", "--epochs", "2")
    assert (config.train_steps, config.epochs) == (0, 2.0)
    with pytest.raises(UsageError, match="conflict"):
        parse("--train_steps=7", "--epochs=2")


def test_the_configs_of_the_trainer_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("--flagfile=configs/mnist_mlp.flags").dataset == "mnist"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--batchsize=3"], "--batchsize is no flag; did you mean --batch_size? (--help lists the flags)"),
        (["--batch_size=three"], "flag --batch_size=three"),
        (["--allow_soft_placement", "False"], "unexpected argument 'False': write every flag as --name=value"),
        (["--flagfile=configs/nothing.flags"], "no such file; configs that come with the trainer: "),
        (["--model=cnn"], "model=cnn is unknown: choose one of alexnet_v2, inception_v1"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(args, message):
    with pytest.raises(UsageError) as caught:
        parse(*args)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(train_steps=5, model_args=("hidden_sizes=3", "dropout=0"), virtual_gpus=True),
        Config(epochs=2.5),
    ],
)
def test_flags_txt_gives_the_config_again(tmp_path, config):
    config = validate(config)
    path = tmp_path / "flags.txt"
    path.write_text(flags.to_flagfile(config))
    assert parse(f"--flagfile={path}") == config


def test_help_answers_in_under_a_second_without_tensorflow():
    def run(*command):
        start = time.monotonic()
        done = subprocess.run([sys.executable, *command], env=environment(), cwd=REPO, capture_output=True, text=True)
        return time.monotonic() - start, done

    seconds, done = min((run("-m", "trainer", "--help") for _ in range(3)), key=lambda pair: pair[0])
    assert done.returncode == 0
    assert "--num_gpus=1" in done.stdout and "--flagfile=FILE" in done.stdout
    assert seconds < 1
    _, probe = run("-c", "import sys, trainer.train; print('tensorflow' in sys.modules)")
    assert probe.stdout.strip() == "False"
