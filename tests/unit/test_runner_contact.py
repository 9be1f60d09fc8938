"""When a runner asks control for news, and when control's last word ceases to hold."""

from __future__ import annotations

import pytest

from jobs.runner.contact import PULL_SECONDS, Contact

pytestmark = pytest.mark.unit
DAY = 86400.0


def test_it_asks_again_only_after_an_answer_and_a_while() -> None:
    contact = Contact(100)
    assert not contact.is_due(100 + PULL_SECONDS - 1, DAY)
    assert contact.is_due(100 + PULL_SECONDS, DAY)
    assert not contact.is_due(100 + 10 * PULL_SECONDS, DAY)
    contact.over(1000)
    assert not contact.is_due(1000 + PULL_SECONDS - 1, DAY)
    assert contact.is_due(1000 + PULL_SECONDS, DAY)


def test_it_asks_more_often_where_the_last_word_does_not_hold_for_long() -> None:
    contact = Contact(0)
    assert not contact.is_due(2.9, 9)
    assert contact.is_due(3, 9)


def test_the_last_word_ceases_to_hold_once_and_holds_again_with_the_next() -> None:
    contact = Contact(0)
    assert not contact.heard(10)
    assert not contact.lapses(10 + DAY, DAY)
    assert contact.lapses(11 + DAY, DAY)
    assert not contact.lapses(12 + DAY, DAY)
    assert contact.heard(13 + DAY)
    assert not contact.heard(13 + DAY)
    assert not contact.lapses(13 + 2 * DAY, DAY)


def test_a_question_without_an_answer_is_no_word_of_control() -> None:
    contact = Contact(0)
    contact.over(DAY)
    assert contact.lapses(DAY + 1, DAY)
