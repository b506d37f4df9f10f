"""Evaluations ask what they have to, in any number of goes, and end with the same files."""

import multiprocessing
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_models import LABELS, small, vector

from personalib.base.data import DataError
from personalib.base.records import ItemError
from personalib.evaluation import blocks as evaluation_blocks
from personalib.evaluation.arms import NONE, Arm
from personalib.evaluation.ask import NEUTRAL, Evaluation, evaluate
from personalib.evaluation.estimates import base_scores, effects, health, of_questionnaire
from personalib.evaluation.store import AnswerStore
from personalib.models.parts import Site
from personalib.models.prompts import format_prompt
from personalib.questionnaires.questions import Question, Questionnaire
from personalib.steering.generation import generate
from personalib.steering.grid import answer_losses, ask_steered
from personalib.steering.guards import neutral_exchanges
from personalib.steering.interventions import Add

ROLES = {2: ("right", "wrong1"), 3: ("wrong1", "right", "wrong2"), 4: ("right", "wrong1", "wrong2", "wrong3")}
PUSH = Add(vector(Site(1), 1), 2.0)
STEERED = Arm("repe", "trust", (PUSH,), dose=0.25)
BACK = Arm("repe", "trust", (replace(PUSH, coefficient=-2.0),), dose=-0.25, pole="negative")
TOLD = Arm("prompt", "trust", contexts=("w20 w21", "w22", "w23 w24 w20"))
BOTH = Arm("both", "trust", (PUSH,), contexts=("w21 w21",), dose=0.25)
ARMS = (STEERED, TOLD, BACK, BOTH)
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w1 w2", "w9 w8 w7"]
OTHERS = ["w19 w1 w2 w3", "w19 w4", "w18 w5 w6 w7 w8 w9"]


def questions(texts=TEXTS, sizes=(2, 3, 4), templates=("letters", "bare"), **changes):
    """Items of different numbers of options in both orders and two wordings."""
    return tuple(
        replace(
            Question(
                item=f"item {number}",
                group=f"group {number % 2}",
                template=template,
                order=order,
                text=f"{text} w{10 + ['letters', 'bare'].index(template)} w{12 + ['normal', 'reversed'].index(order)}",
                labels=LABELS[: sizes[number % len(sizes)]],
                roles=ROLES[sizes[number % len(sizes)]][:: 1 if order == "normal" else -1],
                opening="w15 " if number == 1 else "",
                options=tuple(LABELS[: sizes[number % len(sizes)]]),
            ),
            **changes,
        )
        for template in templates
        for order in ("normal", "reversed")
        for number, text in enumerate(texts)
    )


CHOICE = Questionnaire("choice", "choice", questions())
TRAIT = Questionnaire("trait", "trait", questions(OTHERS, (4,)))
WORDS = Questionnaire("words", "choice", questions(TEXTS[2:], templates=("bare",)), "words")
ALL = (CHOICE, TRAIT, WORDS)
READINGS = {"by options": "options", "in words": "words"}


@pytest.fixture(scope="module", autouse=True)
def short(one_thread):
    """Answers in words are short, since every token takes its time; one thread, so that forks are no trouble."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_blocks, "_TOKENS", 4)
        yield


@pytest.fixture(scope="module")
def llama():
    return small("llama")


@pytest.fixture(scope="module")
def make(llama):
    def made(questionnaires=ALL, arms=ARMS, model=llama, **choices):
        return Evaluation(model, questionnaires, arms, **{"form": "base", "neutral": 3, "batch_size": 4} | choices)

    return made


@pytest.fixture
def asked(monkeypatch):
    """Counts the answers that are written."""
    seen, add = [], AnswerStore.add
    monkeypatch.setattr(AnswerStore, "add", lambda self, replies: (seen.extend(replies), add(self, replies))[1])

    def count(evaluation, folder):
        seen.clear()
        evaluation.run(folder)
        return len(seen)

    return count


def contents(folder):
    """All files with their bytes, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def prompts(llama, questionnaire, contexts=("",)):
    """Each item gets the next context in turn."""
    return [
        format_prompt(llama.tokenizer, one.text, form="base", context=contexts[int(one.item[5:]) % len(contexts)])
        + one.opening
        for one in questionnaire.questions
    ]


def by_name(answers):
    """The answers to each questionnaire."""
    return {name: of_questionnaire(answers, name) for name in answers["questionnaire"].unique()}


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, by_name(make().run(folder))


# What is answered


@pytest.mark.parametrize("number", range(len(ARMS) + 1))
def test_options_are_those_of_asking_directly(llama, whole, number):
    arm = (NONE, *ARMS)[number]
    for questionnaire in (CHOICE, TRAIT):
        table = whole[1][questionnaire.name]
        rows = table[table["arm"] == number]
        texts = prompts(llama, questionnaire, arm.contexts or ("",))
        for text, one, (_, row) in zip(texts, questionnaire.questions, rows.iterrows(), strict=True):
            [[expected]] = ask_steered(llama, [text], one.labels, [arm.condition])
            np.testing.assert_allclose([row[f"p_{role}"] for role in one.roles], expected, rtol=0, atol=1e-6)
            np.testing.assert_allclose(row["mass"], expected.sum(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", range(len(ARMS) + 1))
def test_words_are_those_of_generating_directly(llama, whole, number):
    arm, table = (NONE, *ARMS)[number], whole[1]["words"]
    contexts = arm.contexts or ("",)
    # Items are counted within their questionnaire.
    texts = [
        format_prompt(llama.tokenizer, one.text, form="base", context=contexts[place % 3 % len(contexts)]) + one.opening
        for place, one in enumerate(WORDS.questions)
    ]
    expected = generate(llama, texts, arm.condition, tokens=evaluation_blocks._TOKENS)
    assert table.loc[table["arm"] == number, "text"].tolist() == expected


@pytest.mark.parametrize("number", range(len(ARMS) + 1))
def test_neutral_losses_are_those_of_answers_without_their_first_token(llama, whole, number):
    arm, table = (NONE, *ARMS)[number], whole[1][NEUTRAL]
    exchanges = neutral_exchanges(llama, 3, form="base", contexts=arm.contexts or ("",))
    [losses], tokens = answer_losses(llama, exchanges, [arm.condition], skip=1)
    own = table[table["arm"] == number]
    np.testing.assert_allclose(own["loss"], losses, rtol=1e-5)
    np.testing.assert_array_equal(own["tokens"], tokens)


def test_arms_make_a_difference(whole):
    wide = whole[1]["choice"].pivot_table(index="arm", columns=["item", "template", "order"], values="p_right")
    assert (wide.diff().abs().max(axis=1)[1:] > 1e-3).all()


def test_what_is_told_is_dealt_by_item_and_is_the_same_in_every_order_and_wording(llama, make, tmp_path):
    one = make([CHOICE], [TOLD], neutral=0)
    seen = {}
    for block in one._blocks:
        for each, prompt in zip(block.questions, block.prompts, strict=True):
            if block.arms == (1,):
                seen.setdefault(each.item, set()).add(prompt.split("\n")[0])
    assert seen == {f"item {number}": {TOLD.contexts[number % 3]} for number in range(len(TEXTS))}


def test_the_organism_is_asked_in_its_own_chat_template(organism, tmp_path):
    asked = (replace(TRAIT.questions[0], text="Do you like maps?\nA. yes\nB. no", labels=("A", "B"), roles=("x", "y")),)
    arm = Arm("prompt", "k", contexts=("You are a woman.",))
    one = Evaluation(organism, [Questionnaire("own", "trait", asked)], [arm], neutral=1)
    found = of_questionnaire(one.run(tmp_path), "own")[["p_x", "p_y"]].to_numpy()
    texts = [format_prompt(organism.tokenizer, asked[0].text, context=each) for each in ("", "You are a woman.")]
    [expected] = ask_steered(organism, texts, ("A", "B"), [()])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# How it is laid out


def test_rows_come_as_arms_and_questions_were_declared_with_the_names_of_both(whole):
    for questionnaire in ALL:
        table = whole[1][questionnaire.name]
        asked = [(one.item, one.group, one.template, one.order) for one in questionnaire.questions]
        found = list(table[["item", "group", "template", "order"]].itertuples(index=False, name=None))
        assert found == asked * (len(ARMS) + 1)
        assert table["arm"].tolist() == np.repeat(range(len(ARMS) + 1), len(asked)).tolist()
        assert table.index.tolist() == list(range(len(table)))
    for table in whole[1].values():
        named = table.drop_duplicates("arm")
        assert set(table["model"]) == {"llama"}
        for column in ("method", "key", "pole"):
            assert named[column].tolist() == [getattr(arm, column) for arm in (NONE, *ARMS)]
        np.testing.assert_array_equal(named["dose"], [np.nan, 0.25, np.nan, -0.25, 0.25])


def test_chances_are_sorted_and_mass_is_last_and_their_sum(whole):
    table = whole[1]["choice"]
    assert list(table) == [
        *("questionnaire", "kind", "model", "method", "key", "pole", "dose"),
        *("arm", "item", "cluster", "group", "template", "order"),
        *("p_right", "p_wrong1", "p_wrong2", "p_wrong3", "mass"),
    ]
    chances = table.filter(like="p_")
    np.testing.assert_allclose(table["mass"], chances.sum(axis=1), rtol=1e-12)
    # A question without a role has no chance of it, which is not a chance of zero.
    sizes = table["item"].str[5:].astype(int).map(lambda number: (2, 3, 4)[number % 3])
    assert (chances.notna().sum(axis=1) == sizes).all()
    assert list(whole[1][NEUTRAL])[-2:] == ["loss", "tokens"]
    assert list(whole[1]["words"])[-5:] == ["labels", "roles", "options", "sample", "text"]


def test_files_hold_what_answers_gives(whole):
    folder, tables = whole
    assert {path.stem for path in folder.glob("*.parquet")} == {*tables} == {"choice", "trait", "words", NEUTRAL}
    for name, table in tables.items():
        written = pd.read_parquet(folder / f"{name}.parquet")
        # In one table with others, whole numbers that these lack are written with a point.
        pd.testing.assert_frame_equal(written, table, check_dtype=False, check_like=True)
    assert pd.read_parquet(folder / f"{NEUTRAL}.parquet")["tokens"].dtype == np.int64


# What is refused


def test_questionnaires_of_one_name_are_refused(make):
    for names in (["a", "a"], [NEUTRAL], ["b", NEUTRAL]):
        with pytest.raises(ValueError, match="give each a name of its own, and none 'neutral'"):
            make([replace(CHOICE, name=name) for name in names])


def test_the_model_as_it_is_comes_first_and_once(make):
    assert list(make(arms=[]).arms) == [NONE]
    assert list(make(arms=[STEERED]).arms) == [NONE, STEERED]
    assert list(make(arms=[NONE, STEERED]).arms) == [NONE, STEERED]


def test_an_arm_that_is_merely_called_none_is_not_taken_for_the_model_as_it_is(make):
    """Everything would be compared with a model that is steered."""
    first = make(arms=[replace(STEERED, method="none"), TOLD]).arms[0]
    assert first.condition == () and first.contexts == ()


def test_arms_that_are_told_the_same_are_asked_together(make, llama):
    """And have the answers that each has by itself."""
    both = replace(TOLD, method="both", condition=(PUSH,))
    evaluation = make((CHOICE,), (TOLD, STEERED, both, BOTH))
    assert {block.arms for block in evaluation._blocks} == {(0, 2), (1, 3), (4,)}
    rows = evaluation.run()
    alone = make((CHOICE,), (both,)).run()
    same = ["questionnaire", "item", "template", "order", "mass", "loss"]
    pd.testing.assert_frame_equal(
        rows.loc[rows["arm"] == 3, same].reset_index(drop=True),
        alone.loc[alone["arm"] == 1, same].reset_index(drop=True),
        rtol=1e-5,
    )


def test_answers_in_memory_are_those_on_disk(llama, whole):
    answers = evaluate(llama, ALL, ARMS, form="base", neutral=3, batch_size=4)
    for name, table in by_name(answers).items():
        pd.testing.assert_frame_equal(table, whole[1][name])
    assert set(whole[1]) == {one.name for one in ALL} | {NEUTRAL}


def test_one_questionnaire_may_be_asked_without_the_model_as_it_is_and_without_neutral_questions(llama, whole):
    answers = evaluate(llama, CHOICE, ARMS[:1], form="base", neutral=0, batch_size=4, baseline=False)
    # Nothing is taken for the model as it is, which has the number 0.
    expected = whole[1]["choice"].query("arm == 1")
    pd.testing.assert_frame_equal(
        answers[list(expected)].reset_index(drop=True), expected.reset_index(drop=True), rtol=1e-5
    )
    assert set(answers["questionnaire"]) == {"choice"}
    for compared in (effects, health, base_scores):
        with pytest.raises(ValueError, match="the model as it is was not asked"):
            compared(answers)


def test_with_nothing_to_ask_under_nothing_is_asked(llama):
    with pytest.raises(ValueError, match="there are no arms"):
        evaluate(llama, CHOICE, baseline=False)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_at_least_one_prompt_is_asked_at_a_time(llama, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}; run at least one prompt at a time"):
        evaluate(llama, CHOICE, form="base", batch_size=batch_size)


def test_an_evaluation_that_another_process_runs_is_refused_before_anything_is_asked(make, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_blocks, "ask_steered", lambda *_, **__: pytest.fail("asked"))
    with AnswerStore(tmp_path / "parts").writing(), pytest.raises(DataError, match="another process is evaluating"):
        make().run(tmp_path)


# What is asked again, and what is not


def test_a_second_run_asks_nothing_and_changes_no_byte(make, whole, asked):
    folder, _ = whole
    before, unused = contents(folder), small("llama")
    unused.model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    assert asked(make(model=unused), folder) == 0
    assert contents(folder) == before


def test_an_arm_that_is_added_is_asked_alone(make, asked, tmp_path):
    count = sum(len(one.questions) for one in ALL)
    assert asked(make(arms=[STEERED, TOLD], neutral=0), tmp_path) == 3 * count
    assert asked(make(arms=[STEERED, BACK, TOLD], neutral=0), tmp_path) == count
    assert asked(make(arms=[BOTH, STEERED, TOLD], neutral=0), tmp_path) == count
    assert asked(make(arms=[TOLD, BACK, STEERED, BOTH], neutral=0), tmp_path) == 0


def test_a_text_that_is_too_long_is_noticed_before_anything_is_asked(make, asked, tmp_path):
    long = replace(WORDS, questions=(replace(WORDS.questions[0], item="endless", text="w1 " * 50),))
    short = small("llama", max_position_embeddings=60)
    with pytest.raises(ItemError, match=r"'words, item endless'.* 24 to be written"):
        make([TRAIT, long], [STEERED], model=short).run(tmp_path)
    assert not list((tmp_path / "parts").glob("*.parquet"))


def test_what_was_answered_is_not_changed_by_what_is_asked_later(make, tmp_path):
    """Not in its last bit either: an older plan can be run again with the same result."""
    make([TRAIT], [STEERED]).run(tmp_path)
    before = contents(tmp_path)
    make([TRAIT], [BOTH, STEERED, BACK]).run(tmp_path)
    make([TRAIT], [STEERED]).run(tmp_path)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_names_make_nothing_asked_anew(make, asked, tmp_path):
    asked(make(), tmp_path)
    arms = [replace(arm, method=f"m{number}", key="k", dose=1.0, pole="p") for number, arm in enumerate(ARMS)]
    own = [replace(one, name=f"other {one.name}", kind="scale") for one in ALL]
    renamed = make(own, arms)
    assert asked(renamed, tmp_path) == 0
    methods = of_questionnaire(renamed.run(tmp_path), "other trait")["method"].unique().tolist()
    assert methods == ["none", "m0", "m1", "m2", "m3"]


def test_another_text_that_is_told_is_asked_anew_where_it_is_told(make, asked, tmp_path):
    asked(make([TRAIT], [TOLD], batch_size=1, neutral=0), tmp_path)
    other = replace(TOLD, contexts=(*TOLD.contexts[:2], "w19"))
    # Of three items one is told the third text, in two orders and two wordings.
    assert asked(make([TRAIT], [other], batch_size=1, neutral=0), tmp_path) == 4


def test_another_seed_draws_other_neutral_questions(make, asked, tmp_path):
    asked(make([TRAIT]), tmp_path)
    first = pd.read_parquet(tmp_path / "neutral.parquet")
    assert asked(make([TRAIT], seed=1), tmp_path) == 3 * (len(ARMS) + 1)
    assert not pd.read_parquet(tmp_path / "neutral.parquet").equals(first)
    assert asked(make([TRAIT]), tmp_path) == 0
    assert pd.read_parquet(tmp_path / "neutral.parquet").equals(first)


def test_questionnaires_that_share_questions_share_their_answers(make, asked, tmp_path):
    asked(make([TRAIT]), tmp_path)
    part = replace(TRAIT, name="part", questions=TRAIT.questions[:6])
    assert asked(make([TRAIT, part]), tmp_path) == 0
    assert len(pd.read_parquet(tmp_path / "part.parquet")) == 6 * (len(ARMS) + 1)


# What a kill costs


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_run_that_is_stopped_while_it_writes_loses_one_batch(make, whole, tmp_path, monkeypatch, moment, count):
    """What is written when the run ends is that of a run that nothing stopped, byte by byte."""
    calls, name = [], moment.rpartition(".")[2]
    own = os.fsync if name == "fsync" else type(tmp_path).replace

    def stopped(*arguments):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(moment, stopped)
        with pytest.raises(KeyboardInterrupt):
            make().run(tmp_path)
    left = contents(tmp_path)
    assert sum(one.endswith(".parquet") for one in left) == count
    assert not any(one.endswith(".partial") for one in left)
    make().run(tmp_path)
    assert contents(tmp_path) == contents(whole[0])
    assert all(contents(tmp_path)[one] == content for one, content in left.items() if one.endswith(".parquet"))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_questions_that_are_put_twice_do_not_change_what_a_resumed_run_writes(make, tmp_path, stopped_after, count):
    """The same prompt in two batches of a questionnaire: what one of them has answered is known to the other."""
    asked = (TRAIT.questions[0], TRAIT.questions[3]) * 4
    twice = [Questionnaire(name, "trait", asked, reading) for name, reading in READINGS.items()]
    choices = {"arms": [STEERED], "neutral": 0, "batch_size": 3}
    make(twice, **choices).run(tmp_path / "whole")
    with stopped_after(count):
        make(twice, **choices).run(tmp_path / "resumed")
    make(twice, **choices).run(tmp_path / "resumed")
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_a_run_that_is_killed_at_many_moments_ends_as_if_nothing_had_been(make, whole, tmp_path):
    context, rng, kills, seen = multiprocessing.get_context("fork"), random.Random(0), 0, {}
    while True:
        process = context.Process(target=lambda: make().run(tmp_path))
        process.start()
        # Later each time, so that it comes to its end.
        process.join(rng.uniform(0, 0.2) * (1 + kills / 10))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        assert kills < 100, "it never comes to its end"
        now = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "parts").glob("*.parquet")}
        assert seen.items() <= now.items(), "whole parts stay as they are"
        seen = now
        AnswerStore(tmp_path / "parts").replies()
    assert process.exitcode == 0 and kills >= 3
    assert contents(tmp_path) == contents(whole[0])
