"""`trainer.evaluate`: exact against numpy, once and beside a running training, under checkpoints that vanish."""

import json
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from trainer import plotting
from trainer.data.manifest import load_manifest
from trainer.data.records import load_split
from trainer.saving.tensors import load_tensors, save_tensors

AVERAGE = "/ExponentialMovingAverage"


@pytest.fixture
def run(train_once):
    """A trained perceptron."""
    return train_once(
        model="mlp", model_args=("hidden_sizes=20, dropout=0",), train_steps=80, batch_size=32, learning_rate=0.02
    )


def forward(tensors, images, ending=""):
    """Computes logits in numpy, in float64."""
    weights = {name: tensors[name + ending].astype(np.float64) for name in tensors if name + ending in tensors}
    hidden = np.maximum(
        images.reshape(len(images), -1) / 255.0 @ weights["hidden1/weights"] + weights["hidden1/biases"], 0
    )
    return hidden @ weights["logits/weights"] + weights["logits/biases"]


def last_json(out):
    return json.loads(out.strip().splitlines()[-1])


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_figures_are_those_of_numpy_for_averaged_and_raw_weights(run, run_here, digits_dir, batch_size):
    done = run_here(
        "trainer.evaluate", f"--logdir={run}", "--weights=both", f"--batch_size={batch_size}", "--top_k=2", "--json"
    )
    assert done.code == 0, done
    found = last_json(done.out)
    images, labels = load_split(load_manifest(digits_dir), "test")
    tensors = load_tensors(str(run / "model.ckpt-80"))
    for values, ending in ((found, AVERAGE), (found["raw"], "")):
        logits = forward(tensors, images, ending)
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
        ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
        assert values["num_examples"] == len(labels) == 359
        assert values["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean(), abs=1e-12)
        assert values["top_k_accuracy"] == pytest.approx((ranks < 2).mean(), abs=1e-12)
        assert values["loss"] == pytest.approx(losses.mean(), abs=1e-6)
    predicted = forward(tensors, images, AVERAGE).argmax(1)
    for number, row in enumerate(found["classes"]):
        assert row["precision"] == pytest.approx((labels[predicted == number] == number).mean())
        assert row["recall"] == pytest.approx((predicted[labels == number] == number).mean())
    # The trainer's own evaluation at the end of its run agrees.
    assert json.loads((run / "result.json").read_text())["test_accuracy"] == found["accuracy"]
    assert (found["step"], found["split"], found["weights"]) == (80, "test", "ema")


def test_as_many_of_the_most_wrong_are_drawn_as_asked_for(run, run_here, monkeypatch):
    drawn, draw = [], plotting.plot_images
    monkeypatch.setattr(plotting, "plot_images", lambda *args: (drawn.append(args), draw(*args)))
    for count in (3, 1):
        done = run_here("trainer.evaluate", f"--logdir={run}", "--split=train", f"--worst={count}")
        assert done.code == 0, done
    assert [len(images) for images, _, _ in drawn] == [3, 1] and drawn[0][1][0] == drawn[1][1][0]
    done = run_here("trainer.evaluate", f"--logdir={run}", "--worst=0")
    assert done.code == 2 and "worst=0 is out of range: 1 to 1000" in done.err, done


def test_tables_pictures_and_curves_are_there(run, run_here):
    from PIL import Image

    done = run_here("trainer.evaluate", f"--logdir={run}", "--split=validation")
    assert done.code == 0, done
    assert "180 images, ema weights" in done.out and "precision" in done.out and "taken for" in done.out
    for name in ("confusion", "pr", "wrong"):
        with Image.open(run / "eval" / f"validation.ema.{name}.png") as picture:
            assert min(picture.size) > 100
            assert len(set(picture.convert("L").getdata())) > 10
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run))
    multiplexer.Reload()
    tags = multiplexer.Runs()["eval/validation"]
    assert {"accuracy", "loss", "top_k"} <= set(tags["scalars"])
    assert {"confusion", "pr", "wrong"} == set(tags["images"])
    assert "pr_3/pr_curves" in tags["tensors"]


@pytest.mark.slow
def test_it_follows_a_running_training_and_ends_with_it(program, run_program, digits_dir, tmp_path):
    logdir = tmp_path / "run"
    follower = program("trainer.evaluate", f"--logdir={logdir}", "--follow", "--interval=0.1", "--split=validation")
    done = run_program(
        "trainer",
        f"--data_dir={digits_dir}",
        f"--logdir={logdir}",
        "--model=mlp",
        "--train_steps=900",
        "--checkpoint_every=100",
        "--eval_every=0",
        "--summary_every=50",
    )
    assert done.code == 0, done
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 0, err
    steps = [int(line.split()[1]) for line in out.splitlines() if line.startswith("step ")]
    assert steps == sorted(set(steps)) and steps[-1] == 900 and len(steps) >= 3
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    assert [event.step for event in multiplexer.Scalars("eval/validation", "accuracy")] == steps
    assert len(multiplexer.Scalars(".", "accuracy")) > 10  # The training's own curve beside it.
    # `best/` holds the best of all of them, also where the training has deleted it.
    rows = [json.loads(line) for line in (logdir / "eval/evaluations.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["accuracy"], -row["loss"]))
    assert json.loads((logdir / "best/best.json").read_text())["step"] == best["step"]
    again = run_program("trainer.evaluate", f"--logdir={logdir}", "--checkpoint=best", "--split=validation", "--json")
    assert last_json(again.out)["accuracy"] == best["accuracy"]
    # Once more: nothing is evaluated twice.
    more = run_program("trainer.evaluate", f"--logdir={logdir}", "--follow", "--split=validation")
    assert more.code == 0 and "step 900" not in more.out.replace("best: step 900", "")


@pytest.mark.slow
def test_checkpoints_that_vanish_or_are_half_written_do_not_end_it(program, run, tmp_path):
    """Files come, are cut off and are deleted at random moments, as fast as they can."""
    stop = threading.Event()
    whole = {ending: (run / f"model.ckpt-80.{ending}").read_bytes() for ending in ("index", "data-00000-of-00001")}
    (run / "result.json").unlink()  # It looks as if the training went on.
    follower = program("trainer.evaluate", f"--logdir={run}", "--follow", "--interval=0.01", "--timeout=60", "--json")

    def torment():
        rng = np.random.default_rng(1)
        step = 100
        while not stop.is_set():
            step += 1
            for ending, data in whole.items():
                cut = len(data) if rng.random() < 0.5 else int(rng.integers(0, len(data)))
                (run / f"model.ckpt-{step}.{ending}").write_bytes(data[:cut])
            time.sleep(float(rng.random()) * 0.05)
            if rng.random() < 0.7:
                for ending in whole:
                    (run / f"model.ckpt-{step}.{ending}").unlink()

    thread = threading.Thread(target=torment)
    thread.start()
    time.sleep(8)
    stop.set()
    thread.join()
    for path in run.glob("model.ckpt-1*"):
        path.unlink()
    for ending, data in whole.items():
        (run / f"model.ckpt-9999.{ending}").write_bytes(data)
    (run / "result.json").write_text('{"status": "done"}')
    out, err = follower.communicate(timeout=150)
    # A damaged one that stays is left out, and is an error in the end.
    assert follower.returncode == (1 if "is left out: " in out else 0), (out, err)
    assert "Traceback" not in err
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len({row["accuracy"] for row in rows}) == 1, "what is evaluated is the whole checkpoint, or nothing"
    assert len(rows) >= 3


def test_a_signal_ends_it(program, run):
    (run / "result.json").unlink()
    follower = program("trainer.evaluate", f"--logdir={run}", "--follow", "--interval=60", "--timeout=600")
    for line in follower.stdout:
        if "step 80" in line:
            break
    follower.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    out, err = follower.communicate(timeout=30)
    assert follower.returncode == 143 and "Traceback" not in err, (out, err)
    assert time.monotonic() - begin < 5


def test_raw_and_averaged_weights_without_averages(train, run_here):
    folder = train(model="mlp", model_args=("hidden_sizes=4",), train_steps=1, ema_decay=0.0)
    done = run_here("trainer.evaluate", f"--logdir={folder}", "--json")
    assert done.code == 0 and last_json(done.out)["weights"] == "raw"
    done = run_here("trainer.evaluate", f"--logdir={folder}", "--weights=ema")
    assert done.code == 2 and "holds no averaged weights; use --weights=raw" in done.err
    done = run_here("trainer.evaluate", f"--logdir={folder}", "--weights=ema", "--follow")
    assert done.code == 2 and "holds no averaged weights; use --weights=raw" in done.err


@pytest.mark.parametrize("layer", ["hidden1/weights", "logits/biases"])
def test_weights_that_are_not_finite_are_exit_code_3(run, run_here, layer, tmp_path):
    """Also where a ReLU hides them from the logits."""
    tensors = load_tensors(str(run / "model.ckpt-80"))
    tensors[f"{layer}{AVERAGE}"] = np.full_like(tensors[f"{layer}{AVERAGE}"], np.nan)
    save_tensors(tensors, str(run / "model.ckpt-81"))
    for args in (["evaluate"], ["export", f"--output={tmp_path / 'out'}"]):
        done = run_here(f"trainer.{args[0]}", f"--logdir={run}", *args[1:])
        assert done.code == 3 and "NaN or infinite" in done.err and layer in done.err
    done = run_here("trainer.predict", f"--model={run}", "x.png")
    assert done.code == 3 and layer in done.err
    assert not (tmp_path / "out" / "1").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--logdir is missing"),
        (["--logdir=RUN", "--checkpoint=7"], "holds no checkpoint of step 7; there are: 80"),
        (["--logdir=RUN", "--checkpoint=best"], "--follow keeps the best one"),
        (["--logdir=RUN", "--split=tset"], "did you mean test?"),
        (["--logdir=RUN", "--follow", "--checkpoint=80"], "conflict"),
        (["--logdir=RUN", "--batch_size=-1"], "out of range"),
        (["--logdir=RUN", "--device=gpu"], "no GPU that TensorFlow can use"),
        (["--logdir=RUN", "--data_dir=OTHER"], "the model wants 8x8x1 in 10"),
        (["--logdir=NOTHING"], "holds no config.json"),
        (["stray"], "unexpected argument"),
    ],
)
def test_mistakes_are_explained(train, run_here, tmp_path, digits_dir, args, message):
    if any("RUN" in arg for arg in args):
        train(model="mlp", model_args=("hidden_sizes=4",), train_steps=80)
    other = tmp_path / "other"
    shutil.copytree(digits_dir, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(
        json.dumps(manifest | {"features": manifest["features"] | {"image": {"dtype": "uint8", "shape": [4, 16, 1]}}})
    )
    places = {"RUN": tmp_path / "run", "OTHER": other, "NOTHING": tmp_path / "nothing"}
    for name, path in places.items():
        args = [arg.replace(name, str(path)) for arg in args]
    done = run_here("trainer.evaluate", *args)
    assert done.code == 2 and message in done.err, done


def test_a_mistake_is_one_line_and_exit_code_2(run_program):
    done = run_program("trainer.evaluate")
    assert done.code == 2 and done.err.startswith("error: --logdir is missing") and done.err.count("\n") == 1, done


@pytest.mark.slow
def test_a_checkpoint_is_in_the_curves_once_whoever_evaluates_it(run, run_here, tmp_path):
    for args in ([], [], ["--weights=both"], ["--follow", "--split=test"]):
        assert run_here("trainer.evaluate", f"--logdir={run}", *args).code == 0
    rows = [json.loads(line) for line in (run / "eval/evaluations.jsonl").read_text().splitlines()]
    assert [(row["step"], row["weights"]) for row in rows] == [(80, "ema"), (80, "raw")]
    # A checkpoint from elsewhere is none of this run's curves.
    save_tensors(load_tensors(str(run / "model.ckpt-80")), str(tmp_path / "elsewhere"))
    assert run_here("trainer.evaluate", f"--logdir={run}", f"--checkpoint={tmp_path / 'elsewhere'}").code == 0
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(run))
    multiplexer.Reload()
    for name in ("eval/test", "eval/test_raw"):
        assert [event.step for event in multiplexer.Scalars(name, "accuracy")] == [80]


def test_a_cut_line_of_an_earlier_evaluation_costs_that_line_alone(run, run_here):
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval/evaluations.jsonl").write_bytes(b'\xff\n{"step": Infinity, "written": 1e999}\n{"step": 8')
    assert run_here("trainer.evaluate", f"--logdir={run}").code == 0
    assert run_here("trainer.evaluate", f"--logdir={run}").code == 0
    lines = (run / "eval/evaluations.jsonl").read_bytes().splitlines()
    assert len(lines) == 4 and json.loads(lines[-1])["step"] == 80


def test_a_checkpoint_that_stays_damaged_is_left_out_with_exit_code_1(run, run_here):
    data = run / "model.ckpt-80.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    done = run_here("trainer.evaluate", f"--logdir={run}", "--follow", "--interval=0.01")
    assert done.code == 1 and "step 80 is left out: " in done.out


def test_the_best_is_kept_though_the_training_deletes_it_meanwhile(run, run_here, monkeypatch):
    from trainer.evaluating.evaluator import Evaluator

    evaluate, path = Evaluator.evaluate, run / "model.ckpt-80"

    def delete_and_evaluate(*args, **settings):
        for file in run.glob("model.ckpt-80.*"):
            file.unlink()
        return evaluate(*args, **settings)

    wanted = load_tensors(str(path))
    monkeypatch.setattr(Evaluator, "evaluate", delete_and_evaluate)
    done = run_here("trainer.evaluate", f"--logdir={run}", "--follow")
    assert done.code == 0 and "step 80  validation accuracy" in done.out, done
    found = load_tensors(str(run / "best/model.ckpt-80"))
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())
    assert not (run / "eval/validation.held").exists()


def test_following_another_split_leaves_the_best_of_the_first(run, run_here):
    assert run_here("trainer.evaluate", f"--logdir={run}", "--follow").code == 0
    before = (run / "best/best.json").read_text()
    done = run_here("trainer.evaluate", f"--logdir={run}", "--follow", "--split=train")
    assert done.code == 0 and "stays: it keeps the best accuracy on the validation set with ema weights" in done.out
    assert (run / "best/best.json").read_text() == before


def test_a_second_follower_of_a_split_is_refused(program, run, run_here):
    (run / "result.json").unlink()
    follower = program("trainer.evaluate", f"--logdir={run}", "--follow", "--interval=0.1", "--timeout=600")
    for line in follower.stdout:
        if "step 80" in line:
            break
    done = run_here("trainer.evaluate", f"--logdir={run}", "--follow")
    assert done.code == 1 and f"is in use by process {follower.pid}" in done.err
    follower.send_signal(signal.SIGTERM)


def test_the_data_is_found_from_another_directory(run_here, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    assert run_here("trainer", "--train_steps=2", "--model=mlp", cwd=tmp_path).code == 0
    done = run_here("trainer.evaluate", f"--logdir={tmp_path / 'runs/digits_mlp'}", cwd=tmp_path / "elsewhere")
    assert done.code == 0 and "359 images" in done.out
