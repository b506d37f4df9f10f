"""Blocks ask what is not known, batch by batch, and lay out the answers as rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_models import LABELS, small, vector

from personalib.base.records import ItemError
from personalib.evaluation import blocks as evaluation_blocks
from personalib.evaluation.blocks import Losses, Options, Words
from personalib.evaluation.keys import model_key
from personalib.evaluation.store import Reply
from personalib.models.hooks import _KNOWN
from personalib.models.parts import Site
from personalib.models.sampling import GREEDY, Sampling
from personalib.questionnaires.questions import Question
from personalib.steering.generation import generate
from personalib.steering.interventions import Add

CONDITIONS = [
    (),
    (Add(vector(Site(1), 1), 2.0),),
    (Add(vector(Site(0), 2), -1.0, "last"),),
    (Add(vector(Site(1), 3), 1.0, "prompt_except_last"), Add(vector(Site(2), 4), 0.5, "all")),
]
# The places of the arms among those of an evaluation, of which one that is told something is asked elsewhere.
ARMS = (0, 1, 3, 4)
TEXTS = ["w1 w2 w3 ", "w4 ", "w5 w6 w7 w8 w9 ", "w1 w2 ", "w9 w8 w7 w6 w5 w4 ", "w3 w3 "]
PLACES = (7, 0, 3, 1, 2, 9)
EXCHANGES = [("w1 w2 ", "w3 w4 w5"), ("w6 ", "w7 w8"), ("w9 w10 w11 ", "w1 w2 w3 w4")]


def question(number, labels=LABELS[:2], roles=("right", "wrong1")):
    return Question(
        f"item {number // 2}", f"group {number % 3}", "letters", "normal", "", labels, roles, options=("Yes.", "Nø.")
    )


@pytest.fixture(scope="module")
def llama():
    return small("llama")


def block(kind, llama, conditions=CONDITIONS, arms=ARMS, texts=TEXTS, sampling=GREEDY, **changes):
    shared = "own", model_key(llama), tuple(arms), tuple(conditions)
    if kind is Losses:
        return Losses(*shared, tuple(EXCHANGES))
    questions = tuple(replace(question(number), **changes) for number in range(len(texts)))
    how = [sampling] if kind is Words else []
    return kind(*shared, questions, PLACES[: len(texts)], tuple(texts), *how)


def asked(one, llama, known=(), batch_size=4):
    """What a block asks, batch by batch, and how many answers it says are read each time."""
    done = []
    return list(one.missing(llama, set(known), batch_size, done.append)), done


def merged(batches):
    return {key: reply for batch in batches for key, reply in batch.items()}


every_kind = pytest.mark.parametrize("kind", [Options, Words, Losses])
UNITS = {Options: len(TEXTS), Words: len(TEXTS), Losses: len(EXCHANGES)}


# What is asked


@every_kind
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_answer_is_asked_once_and_counted_once(llama, kind, batch_size):
    one = block(kind, llama)
    batches, done = asked(one, llama, batch_size=batch_size)
    keys = [key for own in one.keys for key in own]
    assert len(set(keys)) == len(keys) == len(CONDITIONS) * UNITS[kind]
    assert sorted(key for batch in batches for key in batch) == sorted(keys)
    assert sum(done) == len(keys)


@every_kind
def test_what_is_known_needs_no_model(llama, kind, monkeypatch):
    one = block(kind, llama)
    _KNOWN.pop(llama.model, None)
    monkeypatch.setattr(llama.model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    known = {key for own in one.keys for key in own}
    assert asked(one, llama, known) == ([], []) and not list(one.shards(llama, known, 2))


@every_kind
def test_what_the_model_cannot_read_is_noticed_at_once_by_the_name_of_its_item(kind):
    """Of words with what is to be written."""
    longest, named = {Options: (6, "own, item item 2"), Words: (29, "own, item item 2"), Losses: (7, "w9 w10")}[kind]
    block(kind, short := small("llama", max_position_embeddings=longest + 1)).check(short)
    with pytest.raises(ItemError, match=rf"text \d of \d \('{named}.*the model reads {longest} at the most"):
        block(kind, short := small("llama", max_position_embeddings=longest)).check(short)


@every_kind
def test_a_run_that_goes_on_asks_the_batches_that_are_left_as_they_were(llama, kind):
    """To the last bit and in the same batches, so that the files on disk are the same."""
    one = block(kind, llama)
    whole, _ = asked(one, llama, batch_size=2)
    assert len(whole) > 1
    for stop in range(len(whole)):
        assert asked(one, llama, merged(whole[:stop]), batch_size=2)[0] == whole[stop:]
    # Whichever of the batches is lost.
    assert asked(one, llama, merged([*whole[:1], *whole[2:]]), batch_size=2)[0] == whole[1:2]


@every_kind
def test_one_more_arm_is_asked_alone(llama, kind):
    fewer = block(kind, llama, CONDITIONS[:3], ARMS[:3])
    known = merged(asked(fewer, llama)[0])
    more = block(kind, llama)
    found = merged(asked(more, llama, known)[0])
    assert sorted(found) == sorted(more.keys[3])


def test_one_more_prompt_is_asked_with_the_batch_that_it_falls_into(llama):
    known = merged(asked(block(Options, llama, texts=TEXTS[:5]), llama, batch_size=1)[0])
    more = block(Options, llama)
    found = merged(asked(more, llama, known, batch_size=1)[0])
    assert sorted(found) == sorted(own[5] for own in more.keys)


# What a key depends on


@every_kind
def test_the_arms_places_and_the_questionnaires_name_make_no_other_key(llama, kind):
    one = block(kind, llama)
    assert replace(one, arms=(5, 6, 7, 8), name="other").keys == one.keys


def test_prompt_labels_reading_model_and_condition_make_other_keys(llama):
    one = block(Options, llama)
    others = [
        block(Words, llama),
        replace(one, model="another"),
        replace(one, prompts=tuple(f"{text}w1 " for text in TEXTS)),
        block(Options, llama, labels=("A", "C")),
        block(Options, llama, labels=("B", "A")),
        block(Options, llama, labels=("A", "B", "C")),
    ]
    seen = {key for each in [one, *others] for own in each.keys for key in own}
    assert len(seen) == len(CONDITIONS) * len(TEXTS) * (len(others) + 1)


def test_what_a_question_counts_toward_makes_no_other_key(llama):
    """It is known without asking."""
    one = block(Options, llama)
    other = block(Options, llama, roles=("wrong1", "right"), group="g", item="i", template="t", order="o", cluster="c")
    assert other.keys == one.keys


def test_an_answer_or_a_prompt_that_is_another_makes_another_loss(llama):
    one = block(Losses, llama)
    other = replace(one, exchanges=(("w1 w2 ", "w3 w4 w6"), ("w7 ", "w7 w8"), EXCHANGES[2]))
    same = [[own in before for own in row] for row, before in zip(other.keys, one.keys, strict=True)]
    assert same == [[False, False, True]] * len(CONDITIONS)


# What is found


def test_roles_follow_the_options_wherever_they_stand(llama):
    one = block(Options, llama)
    turned = replace(one, questions=tuple(replace(each, roles=("wrong1", "right")) for each in one.questions))
    replies = merged(asked(one, llama)[0])
    table, other = one.table(replies), turned.table(replies)
    assert other["p_right"].tolist() == table["p_wrong1"].tolist() != table["p_right"].tolist()


def test_words_are_what_the_model_generates(llama):
    one = block(Words, llama)
    table = one.table(merged(asked(one, llama)[0]))
    expected = [generate(llama, TEXTS, each, tokens=evaluation_blocks._TOKENS) for each in CONDITIONS]
    assert table["text"].tolist() == [text for own in expected for text in own]
    assert len({tuple(own) for own in expected}) == len(CONDITIONS), "the conditions differ"
    assert set(table["labels"]) == {'["A", "B"]'} and set(table["roles"]) == {'["right", "wrong1"]'}
    assert set(table["options"]) == {'["Yes.", "Nø."]'}


SAMPLED = Sampling(temperature=1.0, frequency_penalty=0.5, seed=16, samples=3)


def test_sampled_words_are_what_the_model_generates_whatever_the_batches(llama):
    one = block(Words, llama, sampling=SAMPLED)
    batches, done = asked(one, llama, batch_size=4)
    assert sum(done) == sum(map(len, batches)) == 3 * len(TEXTS) * len(CONDITIONS)
    assert merged(batches) == merged(asked(one, llama, batch_size=1)[0])
    assert [list(shard.missing(llama, set(), 4, done.append)) for shard in one.shards(llama, set(), 4)] == [
        [batch] for batch in batches
    ]
    assert asked(one, llama, merged(batches[:2]), batch_size=4)[0] == batches[2:]
    table = one.table(merged(batches))
    expected = [generate(llama, TEXTS, each, tokens=evaluation_blocks._TOKENS, sampling=SAMPLED) for each in CONDITIONS]
    assert table["text"].tolist() == [text for own in expected for text in own]
    assert table["sample"].tolist() == [0, 1, 2] * len(TEXTS) * len(CONDITIONS)
    assert table["place"].tolist() == np.repeat(PLACES, 3).tolist() * len(CONDITIONS)
    assert table["arm"].tolist() == np.repeat(ARMS, 3 * len(TEXTS)).tolist()


def test_a_sampled_answer_has_a_key_of_its_own_and_more_samples_leave_the_first_ones(llama):
    def keys(**changes):
        own = block(Words, llama, sampling=SAMPLED.model_copy(update=changes)).keys
        return [key for arm in own for key in arm]

    first = keys(samples=1)
    assert len(set(keys())) == len(keys()) == 3 * len(first) and keys()[::3] == first
    others = [{"temperature": 1.1}, {"top_p": 0.9}, {"frequency_penalty": 0.0}, {"seed": 17}]
    assert not any(set(keys(**change)) & set(keys()) for change in others)
    greedy = [key for arm in block(Words, llama).keys for key in arm]
    assert not set(greedy) & set(keys())
    assert greedy == [key for arm in block(Words, llama, sampling=Sampling(seed=5)).keys for key in arm]


@pytest.mark.parametrize("kind", [Options, Words])
def test_rows_say_what_was_asked_under_which_arm(llama, kind):
    one = block(kind, llama)
    table = one.table(merged(asked(one, llama)[0]))
    assert table["arm"].tolist() == np.repeat(ARMS, len(TEXTS)).tolist()
    assert table["place"].tolist() == [*PLACES] * len(ARMS)
    about = table.loc[table["arm"] == 3, ["item", "group", "template", "order"]].reset_index(drop=True)
    rows = [(f"item {n // 2}", f"group {n % 3}", "letters", "normal") for n in range(len(TEXTS))]
    pd.testing.assert_frame_equal(about, pd.DataFrame(rows, columns=list(about)))
    assert table["cluster"].tolist() == table["item"].tolist(), "an item that stands for itself is its own cluster"
    assert set(block(kind, llama, cluster="c").table(merged(asked(one, llama)[0]))["cluster"]) == {"c"}


def test_rows_come_from_what_is_known_whoever_asked_it(llama):
    one = block(Options, llama)
    replies = {key: Reply((number / 100, 0.5)) for number, key in enumerate(key for own in one.keys for key in own)}
    table = one.table(replies)
    assert table["p_right"].tolist() == [number / 100 for number in range(len(replies))]


# What is asked elsewhere


def sharded(one, llama, known=(), batch_size=4):
    """What the shards of a block answer, each asked with nothing known."""
    shards = list(one.shards(llama, set(known), batch_size))
    return shards, [batch for shard in shards for batch in asked(shard, llama, batch_size=batch_size)[0]]


@every_kind
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("passes", [1, 16])
def test_shards_have_the_batches_of_the_block_and_answer_the_same_to_the_last_bit(
    llama, kind, batch_size, passes, monkeypatch
):
    monkeypatch.setattr(Options, "passes", passes)
    one = block(kind, llama)
    shards, found = sharded(one, llama, batch_size=batch_size)
    assert found == asked(one, llama, batch_size=batch_size)[0]
    assert (len(shards) == len(found)) == (passes == 1 or len(found) == 1 or kind is not Options)


@every_kind
def test_shards_of_a_resumed_run_have_what_is_left(llama, kind):
    one = block(kind, llama)
    batches, _ = asked(one, llama, batch_size=2)
    for gone in range(len(batches)):
        known = {key for batch in batches[:gone] + batches[gone + 2 :] for key in batch}
        _, found = sharded(one, llama, known, batch_size=2)
        assert found == batches[gone : gone + 2]


@pytest.mark.parametrize("kind", [Options, Words])
def test_questions_that_are_put_twice_are_in_one_shard_only(llama, kind):
    """As the block itself asks: what one batch answers is known to the next."""
    one, known = block(kind, llama, texts=TEXTS[:2] * 3), set()
    expected = []
    for batch in one.missing(llama, known, 2, lambda _: None):
        expected.append(batch)
        known.update(batch)
    _, found = sharded(one, llama, batch_size=2)
    assert found == expected


@every_kind
def test_handing_out_shards_runs_no_model(llama, kind, monkeypatch):
    monkeypatch.setattr(llama.model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    known, one = set(), block(kind, llama)
    assert list(one.shards(llama, known, 2))
    assert known == {key for own in one.keys for key in own}
    assert not list(one.shards(llama, known, 2))
