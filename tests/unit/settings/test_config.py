import dataclasses

import pytest

from trainer import grammars
from trainer.errors import UsageError
from trainer.grammars import Decay, Period
from trainer.settings import config as config_lib
from trainer.settings.config import Config, validate
from trainer.settings.model import MODELS


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("100", Period(100, "steps")),
        ("100steps", Period(100, "steps")),
        ("2epochs", Period(2, "epochs")),
        ("0.5epochs", Period(0.5, "epochs")),
        ("60s", Period(60, "seconds")),
        ("5m", Period(300, "seconds")),
        ("6h", Period(21600, "seconds")),
        ("0", Period(0, "steps")),
    ],
)
def test_a_period_is_steps_epochs_or_seconds(text, period):
    assert grammars.parse_period("eval_every", text) == period


@pytest.mark.parametrize("text", ["", "ten", "-1", "1.5", "1d", "1e3", "epochs", "10 s", "nan"])
def test_another_period_is_refused_with_the_forms_that_are_legal(text):
    with pytest.raises(UsageError, match=r"eval_every=.* is no period: write 100 \(steps\), 2epochs, 60s, 6h or 0"):
        grammars.parse_period("eval_every", text)


def test_epochs_become_whole_steps_and_at_least_one():
    assert Period(2, "epochs").to_steps(19.65625) == 39
    assert Period(0.001, "epochs").to_steps(19.65625) == 1
    assert Period(0, "epochs").to_steps(19.65625) == 0


@pytest.mark.parametrize(
    ("text", "decay"),
    [
        ("constant", Decay("constant")),
        ("cosine", Decay("cosine")),
        ("exponential:0.99:1epochs", Decay("exponential", 0.99, Period(1, "epochs"))),
        ("exponential:0.5:100:staircase", Decay("exponential", 0.5, Period(100, "steps"), True)),
        (
            "piecewise:10=0.1,20=0.01",
            Decay("piecewise", pieces=((Period(10, "steps"), 0.1), (Period(20, "steps"), 0.01))),
        ),
    ],
)
def test_decays_are_parsed(text, decay):
    assert grammars.parse_decay(text) == decay


@pytest.mark.parametrize(
    "text",
    [
        "linear",
        "exponential",
        "exponential:0.9",
        "exponential:x:10",
        "exponential:0.9:0",
        "exponential:0.9:5s",
        "exponential:0.9:10:stairs",
        "cosine:3",
        "piecewise:",
        "piecewise:20=0.1,10=0.01",
        "piecewise:1=0.1,2epochs=0.2",
        "piecewise:10=-1",
    ],
)
def test_other_decays_are_refused(text):
    with pytest.raises(UsageError):
        validate(Config(decay=text))


def test_clip_is_parsed_and_checked():
    assert grammars.parse_clip("none") == ("none", 0.0)
    assert grammars.parse_clip("global_norm:5") == ("global_norm", 5.0)
    with pytest.raises(UsageError, match="did you mean global_norm"):
        grammars.parse_clip("globalnorm:5")
    with pytest.raises(UsageError, match="clip=value:: '' is no positive number up to 1e\\+30"):
        grammars.parse_clip("value:")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 100, "num_gpus": 3}, "batch_size=100 does not split over 3 towers; use 99 or 102"),
        ({"batch_size": 2, "num_gpus": 3}, "batch_size=2 does not split over 3 towers; use 3"),
        (
            {"model": "lenett"},
            f"model=lenett is unknown: choose one of {', '.join(sorted(MODELS))}; did you mean lenet?",
        ),
        ({"train_steps": 5, "epochs": 1.0}, "--train_steps and --epochs conflict: give one of them"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is out of range: above 0, to 1e+30"),
        ({"batch_size": 0}, "batch_size=0 is out of range: 1 to 1,000,000"),
        ({"warmup": "5s"}, "warmup=5s: the warm-up must be in steps or epochs"),
    ],
)
def test_illegal_values_are_named_with_what_is_legal(settings, message):
    with pytest.raises(UsageError) as caught:
        validate(Config(**settings))
    assert str(caught.value) == message


def test_the_defaults_are_the_digits_recipe():
    config = validate(Config())
    assert (config.dataset, config.model, config.logdir, config.data_dir) == (
        "digits",
        "lenet",
        "runs/digits_lenet",
        "data/digits",
    )


def test_a_config_survives_its_file(tmp_path):
    config = validate(Config(model="mlp", model_args=("hidden_sizes=(625, 625)",), train_steps=7))
    path = tmp_path / "config.json"
    path.write_text(config_lib.to_json(config))
    assert config_lib.load_config(path) == config


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_args": ["a=1"], "no_such_flag": 1}'])
def test_a_damaged_config_is_a_usage_error(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        config_lib.load_config(path)


def test_what_makes_another_experiment_is_listed():
    old = Config(dataset="mnist", model="mlp")
    new = dataclasses.replace(old, dataset="digits", model="lenet", learning_rate=0.5, num_gpus=4)
    assert config_lib.identity_differences(old, new) == ["dataset: mnist -> digits", "model: mlp -> lenet"]
    assert config_lib.identity_differences(Config(ema_decay=0.9), Config(ema_decay=0.99)) == []
    assert config_lib.identity_differences(Config(ema_decay=0.9), Config(ema_decay=0.0)) == ["ema_decay: true -> false"]


def test_a_directory_that_tensorflow_takes_for_a_pattern_is_refused():
    with pytest.raises(UsageError, match="for a pattern"):
        validate(Config(logdir="runs/a[1]"))
