from __future__ import annotations

import pytest

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.videos.number_words import in_words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "one"),
        (16, "sixteen"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (115, "one hundred and fifteen"),
        (999, "nine hundred and ninety-nine"),
    ],
)
def test_numbers_are_written_as_num2words_does(number: int, words: str) -> None:
    assert in_words(number) == words


def test_more_is_refused() -> None:
    with pytest.raises(UserError, match="`frames` 1000: must be below 1000"):
        in_words(1000)
