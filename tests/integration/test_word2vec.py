"""The word vectors' example: its operations against numpy, its program against kills, signals and bad corpora."""

import importlib.util
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPO, environment
from tests.soak import amounts
from trainer.errors import TrainerError
from trainer.tf1 import tf

FOLDER = REPO / "examples" / "word2vec"
WORDS = Path(os.environ.get("WORDS_DIR", REPO.parent / "shared" / "data" / "words"))
FLAGS = ["--words_per_step=5000", "--min_count=1", "--subsample=0.01", "--dim=20", "--log_seconds=0.01"]


@pytest.fixture(scope="module", autouse=True)
def _beside(compiler):
    """Lets the example's files be imported, as its programs do."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in ("corpus", "evaluate", "export", "loop", "model", "train", "vectors"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def modules():
    def load(name):
        spec = importlib.util.spec_from_file_location(f"word2vec_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # Dataclasses look themselves up there.
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    """Sentences of five topics, each with ten words of its own and ten that all have."""
    generator = random.Random(1)
    letters = "abcdefghijklmnopqrst"
    lines = []
    for _ in range(1500):
        topic = generator.randrange(5)
        own = [f"topic{'abcde'[topic]}{letters[generator.randrange(10)]}" for _ in range(20)]
        both = [f"shared{letters[generator.randrange(10)]}" for _ in range(10)]
        words = own + both
        generator.shuffle(words)
        lines.append(" ".join(words))
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt.xz"
    path.write_bytes(lzma.compress("\n".join(lines).encode()))
    return path


def run(script, *flags, check=True, **more):
    command = [sys.executable, str(FOLDER / script), *map(str, flags)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=150, **more)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def tensors(logdir):
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(logdir)))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def same(one, other):
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_words_of_a_topic_come_together_and_other_programs_read_the_vectors(corpus_file, tmp_path, modules):
    done = run("train.py", f"--corpus={corpus_file}", f"--logdir={tmp_path}/run", "--epochs=15", *FLAGS)
    assert "45,000 words of 60 types" in done.stdout and "rate 0.00e+00" in done.stdout, done
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "done" and result["position"] == 15 * (45_000 + 1499)
    done = run("evaluate.py", f"--logdir={tmp_path}/run", "--nearest=topicaa", "--count=5")
    words = [part.split()[0] for part in done.stdout.splitlines()[-1].partition(": ")[2].split(", ")]
    assert all(word.startswith("topica") for word in words), words
    vectors = modules("vectors")
    for name in ("words.txt", "words.bin"):
        run("export.py", f"--logdir={tmp_path}/run", f"--output={tmp_path / name}")
        found = vectors.read_file(tmp_path / name)
        assert np.array_equal(found.values, tensors(tmp_path / "run")["w_in"]) and len(found.words) == 60
    events = list(tf.compat.v1.train.summary_iterator(str(next((tmp_path / "run").glob("events.*")))))
    assert {value.tag for event in events for value in event.summary.value} == {
        "loss", "learning_rate", "words_per_second"
    }  # fmt: skip


def test_gensim_reads_what_is_exported(corpus_file, tmp_path):
    keyed = pytest.importorskip("gensim.models").KeyedVectors
    run("train.py", f"--corpus={corpus_file}", f"--logdir={tmp_path}/run", "--epochs=1", *FLAGS)
    for name in ("words.txt", "words.bin"):
        run("export.py", f"--logdir={tmp_path}/run", f"--output={tmp_path / name}")
        found = keyed.load_word2vec_format(str(tmp_path / name), binary=name.endswith(".bin"))
        assert np.allclose(found["topicaa"], tensors(tmp_path / "run")["w_in"][found.key_to_index["topicaa"]])


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(corpus_file, tmp_path):
    # Many short steps: it has to be under way when the signal comes.
    flags = [f"--corpus={corpus_file}", "--epochs=150", "--deterministic", *FLAGS, "--words_per_step=1000"]
    run("train.py", f"--logdir={tmp_path}/whole", *flags)
    command = [sys.executable, str(FOLDER / "train.py"), f"--logdir={tmp_path}/run", *flags]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "% of 150 epochs" in line:
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped at word" in out, (out, err)
    done = run("train.py", f"--logdir={tmp_path}/run", *flags[1:])  # The corpus is not needed again.
    assert "resuming from step" in done.stdout and same(tmp_path / "whole", tmp_path / "run")
    done = run("train.py", f"--logdir={tmp_path}/run", *flags[1:], "--dim=21", check=False)
    assert done.returncode == 2 and "holds another run (dim: 20 -> 21)" in done.stderr


@amounts("times", 3, 20)
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(corpus_file, tmp_path, times):
    flags = [f"--corpus={corpus_file}", "--epochs=60", "--deterministic", "--checkpoint_seconds=0.05", *FLAGS]
    run("train.py", f"--logdir={tmp_path}/whole", *flags)
    generator = random.Random(1)
    for _ in range(times):
        command = [sys.executable, str(FOLDER / "train.py"), f"--logdir={tmp_path}/run", *flags]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(1, 5))
        process.kill()
        process.communicate(timeout=60)
    run("train.py", f"--logdir={tmp_path}/run", *flags)
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "has no words; wanted text"),
        (b"\n\n \n", "has no words; wanted text"),
        (b"word " * 50, "has 1 words that come 1 times or more, of 1; wanted two"),
        (b"some text\0more", "it is no text: byte 4 of this piece is 0"),
        (b"a" * 20_000, "it is no text: a word has 10,000 bytes or more"),
    ],
)
def test_a_bad_corpus_is_named(tmp_path, modules, content, error):
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(TrainerError, match=error):
        modules("corpus").prepare(path, tmp_path, min_count=1, tokens="letters")
    assert not list(tmp_path.glob("ids*")) and not (tmp_path / "vocabulary.tsv").exists()


def test_a_bad_file_and_a_bad_flag_are_named(tmp_path, corpus_file):
    broken = tmp_path / "corpus.txt.xz"
    broken.write_bytes(corpus_file.read_bytes()[:1000])
    for flags, code, error in (
        ([f"--corpus={broken}"], 2, "cannot be read: Compressed file ended"),
        ([], 2, "--corpus is missing"),
        ([f"--corpus={tmp_path}/none"], 2, "wanted a file of text"),
        ([f"--corpus={corpus_file}", "--window=0"], 2, "window=0"),
        ([f"--corpus={corpus_file}", "--learning_rate=nan"], 2, "learning_rate=nan"),
    ):
        done = run("train.py", f"--logdir={tmp_path}/run", *flags, check=False)
        assert done.returncode == code and error in done.stderr and "Traceback" not in done.stderr, done
        (tmp_path / "run" / "config.json").unlink(missing_ok=True)


def test_whitespace_keeps_words_as_they_are(tmp_path, modules):
    path = tmp_path / "corpus.txt"
    path.write_text("Größe don't GRÖßE don't\nGröße don't\n")
    found = modules("corpus").prepare(path, tmp_path, min_count=1, tokens="whitespace")
    assert found.words == ["don't", "Größe", "GRÖßE"] and found.counts.tolist() == [3, 2, 1]
    assert found.ids.stretch(0, 99).tolist() == [1, 0, 2, 0, -1, 1, 0, -1]


def test_a_line_ends_also_where_a_piece_of_the_file_does(tmp_path, modules, monkeypatch):
    corpus = modules("corpus")
    path = tmp_path / "corpus.txt"
    path.write_text("one two\nthree 123\nfour\tfive\n\n one\n")
    for chunk in range(5, 40):
        monkeypatch.setattr(corpus, "CHUNK", chunk)
        found = corpus.prepare(path, tmp_path, min_count=1, tokens="letters")
        ids, words = found.ids.stretch(0, 99).tolist(), found.words
        lines = [[]]
        for number in ids:
            lines.append([]) if number == -1 else lines[-1].append(words[number])
        assert lines == [["one", "two"], ["three"], ["four", "five"], ["one"], []], chunk


def test_any_letter_may_be_in_a_word(tmp_path, modules):
    path = tmp_path / "corpus.txt"
    path.write_text("a\u2028b c\x1cd\na\u2028b c\x1cd e\u0085f\n")
    found = modules("corpus").prepare(path, tmp_path, min_count=1, tokens="whitespace")
    assert sorted(found.words) == ["a\u2028b", "c\x1cd", "e\u0085f"]


def test_before_the_first_checkpoint_all_may_change_and_then_nothing(tmp_path, corpus_file):
    flags = [f"--corpus={corpus_file}", f"--logdir={tmp_path}/run", "--epochs=1", "--dim=5"]
    done = run("train.py", *flags, "--min_count=100000", check=False)
    assert done.returncode == 2 and "a lower --min_count may help" in done.stderr
    done = run("train.py", f"--logdir={tmp_path}/run", check=False)
    assert done.returncode == 2 and "--corpus is missing" in done.stderr
    run("train.py", *flags, "--min_count=3")
    other = tmp_path / "other.txt"
    other.write_text("quite another corpus\n" * 10)
    done = run("train.py", f"--corpus={other}", *flags[1:], "--min_count=3", check=False)
    assert done.returncode == 2 and "holds another run (corpus: " in done.stderr
    (tmp_path / "run" / "config.json").write_text("{bad")
    done = run("train.py", *flags, "--min_count=3", check=False)
    assert done.returncode == 2 and "config.json cannot be read" in done.stderr and "Traceback" not in done.stderr


def test_words_are_found_as_they_are_written_and_no_score_is_made_up(modules):
    vectors, evaluate = modules("vectors"), modules("evaluate")
    found = vectors.make_vectors(["Fish", "bird", "tree"], np.eye(3, dtype=np.float32) + 0.1)
    assert [found.find(word) for word in ("Fish", "fish", "BIRD", "none")] == [0, None, 1, None]
    assert evaluate.correlate(found, [["Fish", "bird", "1"]]) == (None, 1, 1)
    assert evaluate.correlate(found, [["Fish", "bird", "1"], ["bird", "tree", "1"]])[0] is None


def test_words_that_are_rare_are_left_out(tmp_path, modules):
    path = tmp_path / "corpus.txt"
    path.write_text("one two three\ntwo three\nthree, Two.")
    found = modules("corpus").prepare(path, tmp_path, min_count=2, tokens="letters")
    assert found.words == ["three", "two"] and found.ids.stretch(0, 99).tolist() == [1, 0, -1, 1, 0, -1, 0, 1]


@pytest.fixture
def tables():
    """Makes a session with two tables of 6 words; yields the module, the variables and the session."""
    import trainer.ops

    module = trainer.ops.load(str(FOLDER / "word2vec_ops.cc"), flags=("-ffp-contract=fast",))
    classic = trainer.ops.load(str(FOLDER / "word2vec_classic.cc"), flags=("-ffp-contract=fast",))
    with tf.Graph().as_default(), tf.Session() as session:
        values = np.random.default_rng(1).normal(size=(2, 6, 4)).astype(np.float32)
        variables = [tf.get_variable(name, initializer=table) for name, table in zip("io", values, strict=True)]
        session.run(tf.global_variables_initializer())
        yield module, classic, variables, session


def train_op(module, variables, ids, counts=(5,) * 6, rates=(0.1, 0.1), position=0, **attributes):
    handles = [variable.handle for variable in variables]
    inputs = [tf.constant(counts, tf.int64), tf.constant(ids, tf.int32), tf.constant(position, tf.int64)]
    return module.word2vec_train(*handles, *inputs, tf.constant(rates, tf.float32), seed=1, subsample=0.0, **attributes)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"ids": [0, 6]}, "an id is out of range -1..5"),
        ({"ids": [0, -2]}, "an id is out of range -1..5"),
        ({"ids": [0, 2**31 - 1]}, "an id is out of range -1..5"),
        ({"ids": [0, 1], "counts": [1]}, "1 counts for 6 words"),
        ({"ids": [0, 1], "counts": [1, 1, 1, 0, 1, 1]}, "word 3 is counted 0 times"),
        ({"ids": [0, 1], "rates": [np.nan, 0]}, "a rate is not finite"),
        ({"ids": [0, 1], "window_size": 0}, "window_size=0 is not within 1 to 32"),
        ({"ids": [0, 1], "num_negative_samples": 64}, "num_negative_samples=64 is not within 1 to 63"),
    ],
)
def test_bad_input_of_the_fast_operation_is_an_error(tables, settings, error):
    module, _, variables, session = tables
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=error):
        session.run(train_op(module, variables, **settings))


def test_tables_that_do_not_fit_are_an_error(tables):
    module, _, (first, second), session = tables
    other = tf.get_variable("other", initializer=np.zeros((5, 4), np.float32))
    double = tf.get_variable("double", initializer=np.zeros((6, 4)))
    session.run([other.initializer, double.initializer])
    for variables, error in (
        ([first, first], "w_in and w_out are one variable"),
        ([first, other], "wanted the same"),
        ([double, second], "float32"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=error):
            session.run(train_op(module, variables, [0, 1]))
    with pytest.raises((tf.errors.FailedPreconditionError, tf.errors.NotFoundError)):
        session.run(train_op(module, [first, tf.get_variable("none", [6, 4])], [0, 1]))


def test_a_value_that_was_read_stays_as_it_was(tables):
    module, _, variables, session = tables
    before = session.run(variables)
    read = variables[0].read_value()
    with tf.control_dependencies([read]):
        trained = train_op(module, variables, [0, 1, 2, 3, 4, 5] * 50)
    with tf.control_dependencies([trained.loss]):
        later = tf.identity(read)
    value, loss = session.run([later, trained.loss])
    assert np.array_equal(value, before[0]) and np.isfinite(loss)
    assert not np.array_equal(session.run(variables[0]), before[0])


def neg_train_in_numpy(w_in, w_out, examples, labels, rate, drawn):
    """Plain gradient descent, pair by pair; `drawn` are the negative samples of each."""
    for example, label, negatives in zip(examples, labels, drawn, strict=True):
        moved = np.zeros_like(w_in[0])
        for word, wanted in [(label, 1), *((word, 0) for word in negatives if word != label)]:
            error = (wanted - 1 / (1 + np.exp(-w_in[example] @ w_out[word]))) * rate
            moved += error * w_out[word]
            w_out[word] += error * w_in[example]
        w_in[example] += moved


def test_neg_train_is_gradient_descent_pair_by_pair(tables):
    _, classic, variables, session = tables
    w_in, w_out = session.run(variables)
    examples, labels = [0, 1, 0, 2], [1, 2, 3, 1]
    # One word alone is ever drawn: then the numbers that are drawn do not matter.
    handles = [variable.handle for variable in variables]
    train = classic.neg_train_word2vec(
        *handles, examples, labels, tf.constant(0.1), vocab_count=[0, 0, 0, 0, 0, 7], num_negative_samples=2
    )
    session.run(train)
    neg_train_in_numpy(w_in, w_out, examples, labels, 0.1, [[5, 5]] * 4)
    np.testing.assert_allclose(session.run(variables[0]), w_in, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(session.run(variables[1]), w_out, rtol=1e-5, atol=1e-6)
    for examples, error in (([0, 1, 0, 6], "out of range 0..5"), ([0, 1, 0, -1], "out of range 0..5")):
        bad = classic.neg_train_word2vec(
            *handles, examples, labels, tf.constant(0.1), vocab_count=[1] * 6, num_negative_samples=2
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=error):
            session.run(bad)


def test_skipgram_gives_the_pairs_of_a_file(tables, tmp_path):
    _, classic, _, session = tables
    path = tmp_path / "words.txt"
    path.write_text("a b c d a b c d rare")
    made = classic.skipgram_word2vec(
        filename=str(path), batch_size=8, window_size=1, min_count=2, subsample=0.0, seed=1
    )
    first = session.run(made)
    assert first.vocab_word.tolist() == [b"UNK", b"a", b"b", b"c", b"d"]
    assert first.vocab_freq.tolist() == [1, 2, 2, 2, 2] and first.words_per_epoch == 9
    words = first.vocab_word
    pairs = [(words[a].decode(), words[b].decode()) for a, b in zip(first.examples, first.labels, strict=True)]
    # Each word with its neighbours; the rare one has none.
    assert pairs == [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "c"), ("d", "a"), ("a", "d")]
    epochs = [session.run(made).current_epoch for _ in range(6)]
    assert epochs[-1] > first.current_epoch
    for content, error in (("", "has 0 different words"), ("a a a", "has 1 different words")):
        path.write_text(content)
        with pytest.raises(tf.errors.InvalidArgumentError, match=error):
            session.run(classic.skipgram_word2vec(filename=str(path), batch_size=2, min_count=1))
    with pytest.raises((ValueError, tf.errors.OpError)):
        session.run(classic.skipgram_word2vec(filename=str(path), batch_size=1 << 40, min_count=1))
    with pytest.raises(tf.errors.NotFoundError):
        session.run(classic.skipgram_word2vec(filename=str(tmp_path / "none"), batch_size=2))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_known_relations_are_found_in_speeches(tmp_path):
    corpus = WORDS / "ungdc.txt.xz"
    if not corpus.is_file():
        pytest.skip(f"the words are not in {WORDS} (WORDS_DIR names their folder)")
    run("train.py", f"--corpus={corpus}", f"--logdir={tmp_path}/run", "--epochs=2")
    files = [f"--analogies={WORDS}/google_analogies.txt", f"--similarities={WORDS}/ws353.txt", "--json"]
    found = json.loads(run("evaluate.py", f"--logdir={tmp_path}/run", *files).stdout.splitlines()[-1])
    assert found["analogies"] > 0.10 and found["ws353"] > 0.30, found
