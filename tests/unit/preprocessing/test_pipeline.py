"""The grammar of --preprocess, and what it refuses."""

import pytest

from trainer.errors import UsageError
from trainer.preprocessing.named import PIPELINES
from trainer.preprocessing.parsing import evaluation_of, parse_pipeline
from trainer.preprocessing.pipeline import OPERATIONS
from trainer.preprocessing.preprocessing import make_preprocessing


def parsed(text):
    return [
        (found.name, found.args, found.kwargs) for found in parse_pipeline("preprocess", text, training=True).operations
    ]


def test_operations_have_literals_ranges_and_names():
    assert parsed("") == parsed("none") == []
    assert parsed(" pad( 4 ) | flip_lr|random_crop(32, width=30)") == [
        ("pad", (4,), {}),
        ("flip_lr", (), {}),
        ("random_crop", (32, 30), {}),
    ]
    assert parsed("contrast(0.2..1.8)") == parsed("contrast((0.2, 1.8))") == [("contrast", ((0.2, 1.8),), {})]
    assert parsed("resize(7, method='area')|scale(-1,1)") == [
        ("resize", (7,), {"method": "area"}),
        ("scale", (-1, 1), {}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flip_l", "operation=flip_l is unknown: choose one of .*; did you mean flip_lr?"),
        ("pad", "pad: missing a required argument: 'n'; it takes n"),
        ("pad(0)", "n=0 is out of range: a whole number, 1 to 100,000"),
        ("pad(1.5)", "n=1.5 is out of range: a whole number"),
        ("pad(True)", "n=True is out of range"),
        ("pad(4, 5)", "too many positional arguments; it takes n"),
        ("flip_lr(1)", "too many positional arguments; it takes no arguments"),
        ("pad(m=1)", "it takes n"),
        ("rotate(181)", "degrees=181 is out of range: a number, above 0, to 180"),
        ("contrast(2..1)", r"factor=\(2, 1\) is out of range: a range within 0 to 100, as 0.5..1.5"),
        ("contrast(1)", "factor=1 is out of range"),
        ("resize(8, method='cubic')", "method='cubic' is out of range: one of bilinear, nearest, bicubic, area"),
        ("resize(8, None)", "width=None is out of range"),
        ("subtract_mean(1, 'a')", "means='a' is out of range"),
        ("pad(4", "'pad\\(4' is no operation"),
        ("pad(4)||flip_lr", "'' is no operation"),
        ("pad(__import__('os'))", "the arguments are no literals"),
        ("pad(n=n)", "n='n' is out of range: a whole number, 1 to 100,000"),
        ("color('bb')", "order='bb' is out of range: any, or some of the letters b, s, h and c"),
        ("color('x')", "order='x' is out of range"),
        ("random_resize_short(9..8)", r"n=\(9, 8\) is out of range: a range within 1 to 100,000"),
        ("distorted_crop(9, method='lanczos')", "method='lanczos' is out of range: one of bilinear, nearest, bicubic"),
        ("resize_short(9, 'area')", r"method='area' is out of range: bilinear \(antialiased\) or bilinear_tf1"),
        ("inception(0)", "size=0 is out of range: a whole number, 1 to 100,000"),
        ("inception(8, 9)", "too many positional arguments; it takes size"),
        ("none(3)", "none takes no arguments"),
        ("vgg|flip_lr", "vgg is a whole pipeline, and stands alone"),
        ("incepton", "operation=incepton is unknown.*did you mean inception"),
    ],
)
def test_mistakes_say_what_is_legal(text, message):
    with pytest.raises(UsageError, match=message):
        parse_pipeline("preprocess", text, training=True)


def test_only_a_training_may_be_random():
    with pytest.raises(UsageError, match=r"--eval_preprocess=pad\(1\)\|flip_lr: flip_lr is random"):
        parse_pipeline("eval_preprocess", "pad(1)|flip_lr")


def test_an_evaluation_is_the_training_without_what_is_random():
    assert evaluation_of("pad(4)|random_crop(32)|flip_lr|scale(-1,1)", "") == "pad(4)|scale(-1,1)"
    assert evaluation_of("flip_lr", "central_crop(0.5)") == "central_crop(0.5)"
    assert evaluation_of("cifar", "") == "cifar" and evaluation_of("", "") == ""


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_are_legal(name):
    """As they are written for the size that they have by themselves, and for another."""
    named = PIPELINES[name]
    assert parse_pipeline("preprocess", name, training=True).text == named.of(named.size).training
    assert parse_pipeline("eval_preprocess", name).text == named.of(named.size).evaluation
    if named.size:
        assert "(64" in parse_pipeline("preprocess", f"{name}(64)", training=True).text
        assert evaluation_of(f"{name}(64)", "") == f"{name}(64)"


@pytest.mark.parametrize("before", ["float", "scale(-1,1)", "unit|standardize"])
def test_color_takes_bytes_or_the_range_of_unit(before):
    with pytest.raises(UsageError, match=r"color takes bytes, or float32 of 0\.\.1 as unit gives it, and"):
        make_preprocessing((8, 8, 3), f"{before}|color")


def test_a_size_that_is_drawn_is_not_taken_for_a_fixed_one():
    with pytest.raises(UsageError, match="random_resize_short gives each picture another size, and these are"):
        make_preprocessing((32, 32, 3), "random_resize_short(20..30)|random_crop(20)", "crop_or_pad(20)")
    seen = make_preprocessing((48, 40, 3), "vgg(32)", smallest=(48, 40))
    assert (seen.training.num_alone, seen.elsewhere.num_alone, seen.shape) == (2, 0, (32, 32, 3))


def test_boxes_that_do_not_count_change_nothing_of_stored_pixels():
    """These go through the pipeline in batches, where a first operation of their own would be left out."""
    text = "distorted_crop(16, min_object_covered=0.0)"
    side = make_preprocessing((32, 32, 3), text, "resize(16)", has_boxes=True).training
    assert (side.num_alone, side.batch_shape) == (0, (32, 32, 3))
    encoded = make_preprocessing((32, 32, 3), text, "resize(16)", smallest=(32, 32), has_boxes=True).training
    assert (encoded.num_alone, encoded.batch_shape) == (1, (16, 16, 3))
    with pytest.raises(UsageError, match="only where they are stored by --store=encoded"):
        make_preprocessing((32, 32, 3), "distorted_crop(16)", "resize(16)", has_boxes=True)


def test_what_is_cut_out_grows_with_what_it_is_cut_of():
    assert parse_pipeline("eval_preprocess", "vgg").text.startswith("float|resize_short(256, method='bilinear_tf1')|")
    assert "resize_short(512," in parse_pipeline("eval_preprocess", "vgg(448)").text
    assert "random_resize_short(512..1024," in parse_pipeline("preprocess", "vgg(448)", training=True).text


def test_every_operation_is_described():
    for name, function in OPERATIONS.items():
        assert function.__doc__ and function.__doc__[0].isupper(), name
