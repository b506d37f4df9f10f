"""The loop asks until a draft will do, loses nothing, and writes nothing twice."""

import threading
import time

import pytest

from personalib.base.storage import Journal
from personalib.stimuli.assignments import Keywords, LifeStory
from personalib.stimuli.backgrounds import draw_backgrounds
from personalib.stimuli.grammar_writer import GrammarWriter
from personalib.stimuli.writers import Unusable, WriterError, read_draft, write_all

PEOPLE = draw_backgrounds(12, seed=2)
STORY = LifeStory()


class Scripted:
    """A writer whose answers a function gives; it remembers what it was asked."""

    identity = "scripted"

    def __init__(self, answer):
        self.answer, self.calls, self._lock = answer, [], threading.Lock()

    def write(self, assignment, background, attempt, problems):
        with self._lock:
            self.calls.append((background.idx, attempt, list(problems)))
        return self.answer(assignment, background, attempt)


def good(assignment, background, attempt=0):
    return GrammarWriter().write(assignment, background, attempt, [])


def short(assignment, background):
    """A draft that is too short by some parts."""
    cut = {"work": "Your work.", "mind": "Your mind.", "health": "You."}
    return good(assignment, background).model_copy(update=cut)


def asked_again(*_):
    pytest.fail("asked again")


def reopened(journal):
    """The journal as the next run finds it."""
    journal.close()
    return Journal(journal.path)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


@pytest.mark.parametrize("workers", [1, 4])
def test_everybody_gets_a_story_in_order(journal, workers):
    written = write_all(STORY, PEOPLE, Scripted(good), journal, workers=workers)
    assert [one.idx for one in written] == [one.idx for one in PEOPLE]
    assert all(one.generated == STORY.text(good(STORY, before)) for one, before in zip(written, PEOPLE, strict=True))
    assert len(journal.entries) == len(PEOPLE)


def test_a_bad_draft_and_what_is_none_are_kept_and_asked_for_again_with_what_was_wrong(journal):
    def answer(assignment, one, attempt):
        if attempt == 1:
            raise Unusable("not in the form asked for", "Once upon a time")
        return good(assignment, one) if attempt else short(assignment, one)

    writer = Scripted(answer)
    write_all(STORY, PEOPLE[:1], writer, journal)
    assert [attempt for _, attempt, _ in writer.calls] == [0, 1, 2]
    first, second, third = (problems for *_, problems in writer.calls)
    assert first == [] and "words; it needs 100 to 150" in second[0] and third == ["not in the form asked for"]
    assert [entry["problems"] for entry in journal.entries] == [second, third, []]
    assert journal.entries[1]["written"] == "Once upon a time"


def test_attempts_are_bounded_and_the_others_are_kept(journal):
    bad = PEOPLE[3].idx
    writer = Scripted(lambda assignment, one, _: short(assignment, one) if one.idx == bad else good(assignment, one))
    problem = rf"1 of 12 have no usable life story after 2 attempts, background {bad}"
    with pytest.raises(WriterError, match=problem) as error:
        write_all(STORY, PEOPLE, writer, journal, attempts=2)
    assert str(journal.path) in str(error.value) and "words; it needs" in str(error.value)
    again = Scripted(good)
    assert len(write_all(STORY, PEOPLE, again, reopened(journal), attempts=2)) == 12
    # only the one that was missing, with what was wrong before, and not as if nothing had been tried
    [(idx, attempt, problems)] = again.calls
    assert (idx, attempt) == (bad, 2) and "words; it needs" in problems[0]


def test_what_is_in_the_journal_is_not_written_again(journal):
    first = write_all(STORY, PEOPLE[:5], Scripted(good), journal)
    assert write_all(STORY, PEOPLE[:5], Scripted(asked_again), reopened(journal)) == first
    more = Scripted(good)
    assert write_all(STORY, PEOPLE, more, reopened(journal))[:5] == first
    assert sorted(idx for idx, *_ in more.calls) == [one.idx for one in PEOPLE[5:]]


@pytest.mark.parametrize("change", ["writer", "person", "background", "form"])
def test_a_journal_of_something_else_is_not_used(journal, change):
    write_all(STORY, PEOPLE[:2], Scripted(good), journal)
    writer, journal = Scripted(good), reopened(journal)
    if change == "writer":
        writer.identity = "another"
    if change == "form":
        for entry in journal.entries:
            entry["draft"] = {"text": "an older form"}
    people = draw_backgrounds(12, seed=3)[:2] if change == "background" else PEOPLE[:2]
    write_all(LifeStory("first") if change == "person" else STORY, people, writer, journal)
    assert len(writer.calls) == 2


def test_a_failing_writer_stops_the_rest_and_keeps_what_came(journal):
    def answer(assignment, one, attempt):
        if one.idx == PEOPLE[4].idx:
            raise WriterError("the server is gone")
        return good(assignment, one)

    writer = Scripted(answer)
    with pytest.raises(WriterError, match="the server is gone"):
        write_all(STORY, PEOPLE, writer, journal)
    assert [entry["idx"] for entry in journal.entries] == [one.idx for one in PEOPLE[:4]]
    assert len(writer.calls) < len(PEOPLE)


def test_nothing_is_asked_for_after_a_failure(journal):
    """Three threads are in their first attempts when a fourth fails; none of them makes a second one."""
    barrier = threading.Barrier(4)

    def answer(assignment, one, attempt):
        barrier.wait(30)
        if one.idx == PEOPLE[0].idx:
            raise WriterError("the server is gone")
        time.sleep(0.3)
        return short(assignment, one)

    writer = Scripted(answer)
    with pytest.raises(WriterError, match="the server is gone"):
        write_all(STORY, PEOPLE, writer, journal, workers=4)
    assert len(writer.calls) == 4 and len(journal.entries) == 3


def test_a_draft_is_kept_where_a_check_fails(journal, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(LifeStory, "problems", broken)
    with pytest.raises(ZeroDivisionError):
        write_all(STORY, PEOPLE[:1], Scripted(good), journal)
    monkeypatch.undo()
    assert write_all(STORY, PEOPLE[:1], Scripted(asked_again), reopened(journal))[0].generated


def test_a_journal_is_judged_by_todays_checks(journal, monkeypatch):
    monkeypatch.setattr(LifeStory, "problems", lambda *_: ["too dull"])
    with pytest.raises(WriterError, match="too dull"):
        write_all(STORY, PEOPLE[:1], Scripted(good), journal, attempts=1)
    monkeypatch.undo()
    journal = reopened(journal)
    assert write_all(STORY, PEOPLE[:1], Scripted(asked_again), journal)[0].generated
    monkeypatch.setattr(LifeStory, "problems", lambda *_: ["too short"])
    with pytest.raises(WriterError, match="too short"):
        write_all(STORY, PEOPLE[:1], Scripted(good), reopened(journal), attempts=1)


@pytest.mark.parametrize("from_journal", [False, True])
def test_a_story_like_another_of_this_run_or_of_the_journal_is_refused(journal, from_journal):
    same = good(STORY, PEOPLE[0]).model_dump()
    if from_journal:
        write_all(STORY, PEOPLE[:1], Scripted(good), journal)
        journal = reopened(journal)

    def answer(assignment, one, attempt):
        # The words that tell an attribute are quoted from the one story, so that likeness is all that is wrong.
        return assignment.form(one).model_validate(same) if attempt == 0 else good(assignment, one)

    write_all(STORY, PEOPLE[:3], Scripted(answer), journal)
    refused = [entry for entry in journal.entries if entry["attempt"] == 0][1:]
    assert len(refused) == 2
    for entry in refused:
        assert any(f"much like the life story of background {PEOPLE[0].idx}" in each for each in entry["problems"])


def test_two_backgrounds_with_one_number_are_refused(journal):
    with pytest.raises(ValueError, match="two backgrounds have the idx 0"):
        write_all(STORY, [PEOPLE[0], PEOPLE[0]], Scripted(good), journal)


def test_keywords_are_written_the_same_way(journal):
    def answer(assignment, one, attempt):
        return assignment.form(one).model_validate({key: f"a person of kind {one.idx} {key}" for key in one.elements})

    written = write_all(Keywords(), PEOPLE, Scripted(answer), journal, workers=3)
    assert written[2].sentences("first")["gender"] == f"I am a person of kind {PEOPLE[2].idx} gender."
    assert all(not one.generated for one in written)


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n```\n", "\n {} "])
def test_a_draft_is_read_from_json_with_or_without_a_fence(fence):
    draft = good(STORY, PEOPLE[0])
    assert read_draft(fence.replace("{}", draft.model_dump_json()), STORY, PEOPLE[0]) == draft


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[: len(text) // 2], "not in the form asked for: Invalid JSON"),
        (lambda text: "Once upon a time", "not in the form asked for: Invalid JSON"),
        (lambda text: text.replace('"mind"', '"head"'), "mind: Field required"),
        (lambda text: text.replace('"gender"', '"sex"'), r"told\.gender: Field required"),
        (lambda text: f"[{text}]", "not in the form asked for"),
    ],
)
def test_what_is_no_draft_is_kept_with_the_reason(change, problem):
    text = change(good(STORY, PEOPLE[0]).model_dump_json())
    with pytest.raises(Unusable, match=problem) as error:
        read_draft(text, STORY, PEOPLE[0])
    assert error.value.written == text
