"""Conversations between their turns: which slot they find again, what is copied out, and what is forgotten first.

Slots are stand-ins here that hold token ids and nothing else. `tests/serving/test_chats.py` has the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from fastv_runtime.serving.scheduler.conversations import Conversations
from fastv_runtime.serving.scheduler.places import Place, take_place


def length_in_common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(eq=False)
class Copy:
    """A saved conversation: a letter is a token, and takes a byte."""

    text: str

    @property
    def nbytes(self) -> int:
        return len(self.text)

    def common(self, prepared: Any) -> int:
        return length_in_common(self.text, prepared.text)


class Letters:
    """A slot that holds letters."""

    def __init__(self) -> None:
        self.text = ""
        self.copies = 0

    def common(self, prepared: Any) -> int:
        return length_in_common(self.text, prepared.text)

    def save(self) -> Copy:
        self.copies += 1
        return Copy(self.text)

    def restore(self, saved: Copy) -> None:
        self.text = saved.text


class Slots:
    """Places one after another, as the scheduler uses them."""

    def __init__(self, count: int, limit: int) -> None:
        self.places = [Place(Letters()) for _ in range(count)]  # type: ignore[arg-type]
        self.conversations = Conversations(limit)
        self.turn = 0

    def ask(self, text: str, answer: str = "") -> tuple[int, int]:
        """Which place a prompt got, and how much it found there."""
        prepared: Any = SimpleNamespace(text=text, length=len(text))
        place = take_place(self.places, prepared, self.conversations)
        reused = place.slot.common(prepared)
        self.turn += 1
        place.used, place.prompt = self.turn, len(text)
        place.slot.text = text + answer  # type: ignore[attr-defined]
        return self.places.index(place), reused

    @property
    def copies(self) -> int:
        return sum(place.slot.copies for place in self.places)  # type: ignore[attr-defined]

    def kept(self) -> list[str]:
        return [each.saved.text for each in self.conversations._kept]  # type: ignore[attr-defined]


def test_a_turn_finds_the_slot_of_the_turn_before() -> None:
    slots = Slots(2, 0)
    assert [slots.ask("aaaa"), slots.ask("bbbb"), slots.ask("aaaaAA"), slots.ask("bbbbBB")] == [
        (0, 0),
        (1, 0),
        (0, 4),
        (1, 4),
    ]


def test_a_new_conversation_gets_the_least_recently_used_slot() -> None:
    slots = Slots(3, 0)
    for text in ("aaaa", "bbbb", "cccc", "aaaaA"):
        slots.ask(text)
    assert slots.ask("dddd") == (1, 0)
    assert slots.ask("eeee") == (2, 0)


def test_the_same_first_words_take_no_slot_away() -> None:
    slots = Slots(2, 0)
    assert slots.ask("system aaaaaaaa") == (0, 0)
    assert slots.ask("system bbbbbbbb") == (1, 0)
    assert slots.ask("system aaaaaaaa A") == (0, 15)


def test_nothing_is_copied_for_a_turn_that_continues_its_slot_nor_where_nothing_is_kept() -> None:
    slots = Slots(1, 100)
    for text in ("a", "aa", "aaa"):
        slots.ask(text)
    assert slots.copies == 0
    off = Slots(1, 0)
    for text in ("aaaa", "bbbb", "aaaa"):
        assert off.ask(text) == (0, 0)
    assert (off.copies, off.kept()) == (0, [])


def test_a_conversation_that_lost_its_slot_is_restored() -> None:
    slots = Slots(1, 100)
    slots.ask("aaaa", answer="AA")
    assert slots.ask("bbbb") == (0, 0)
    assert slots.kept() == ["aaaaAA"]
    assert slots.ask("aaaaAAa") == (0, 6)
    assert slots.kept() == ["bbbb"], "what is in a slot again is not kept twice"
    assert slots.ask("bbbbb") == (0, 4)


def test_a_conversation_that_another_one_begins_like_stays() -> None:
    slots = Slots(1, 100)
    slots.ask("picture first")
    slots.ask("-----")
    assert slots.ask("picture second") == (0, len("picture "))
    assert "picture first" in slots.kept()
    assert slots.ask("picture first and on") == (0, len("picture first"))


def test_a_slot_is_better_than_a_copy_that_holds_as_much() -> None:
    slots = Slots(1, 100)
    slots.ask("aaaa")
    slots.ask("bbbb")
    slots.ask("aaaa")
    slots.ask("aaaac")  # goes on in its slot; the copy was taken out
    assert slots.kept() == ["bbbb"]
    assert slots.copies == 2


def test_the_least_recently_used_conversation_is_forgotten_first() -> None:
    slots = Slots(1, 12)
    for text in ("aaaa", "bbbb", "cccc", "dddd"):
        slots.ask(text)
    assert slots.kept() == ["aaaa", "bbbb", "cccc"]
    assert slots.ask("aaaaa") == (0, 4)
    assert slots.kept() == ["bbbb", "cccc", "dddd"]
    slots.ask("eeee")
    assert slots.kept() == ["dddd", "aaaaa"]
    assert slots.conversations.nbytes == 9


def test_one_that_is_too_large_drives_out_nothing() -> None:
    conversations = Conversations(10)
    conversations.keep(Copy("aaaa"), 4)  # type: ignore[arg-type]
    conversations.keep(Copy("b" * 11), 11)  # type: ignore[arg-type]
    assert (len(conversations), conversations.nbytes) == (1, 4)


@pytest.mark.parametrize("limit", [4, 9, 30])
def test_books_are_right_whatever_comes(limit: int) -> None:
    slots = Slots(2, limit)
    for turn in range(60):
        name = "abcdefg"[turn * turn % 7]
        slots.ask(name * (4 + turn % 5), answer=name.upper())
        assert slots.conversations.nbytes == sum(map(len, slots.kept())) <= limit


def test_no_memory_for_a_copy_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(slot: Letters) -> Copy:
        raise MemoryError

    monkeypatch.setattr(Letters, "save", full)
    slots = Slots(1, 100)
    slots.ask("aaaa")
    assert slots.ask("bbbb") == (0, 0)
    assert slots.kept() == []
