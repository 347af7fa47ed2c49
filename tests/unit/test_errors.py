import pytest

from trainer.errors import reason, unknown_name


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("disk full", "disk full"),
        ("Graph execution error:\n\nDetected at node x\nNode: 'x'\nthe cause\n\t [[{{node x}}]]", "the cause"),
        ("2 root error(s) found.\n  (0) INTERNAL: NCCL\n\t [[{{node a}}]]\n  (1) CANCELLED: b", "INTERNAL: NCCL"),
        ("", "ValueError"),
    ],
)  # fmt: skip
def test_the_line_that_holds_the_cause_is_found(text, cause):
    assert reason(ValueError(text)) == cause


def test_names_are_compared_without_their_case():
    assert "did you mean mnist?" in str(unknown_name("dataset", "MNIST", ["digits", "mnist"]))
