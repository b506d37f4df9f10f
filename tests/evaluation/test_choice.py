"""A push is the one that does most nearly what words do, of those under which nothing of the family collapses."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from personalib.base.data import DataError, data_dir
from personalib.evaluation import choice as choices
from personalib.evaluation.arms import Push
from personalib.evaluation.ask import Evaluation, evaluate
from personalib.evaluation.choice import PushChoice, choose_push, facts_lost, load_push, matched_push
from personalib.evaluation.estimates import ALL, effects
from personalib.evaluation.study import prompted_effects
from personalib.models.parts import Site, blocks
from personalib.steering.settings import Guard
from personalib.stimuli.factors import POLES

SITES = {"early": Site(1), "late": Site(3)}
POSITIONS, DOSES = ("last", "prompt"), (0.15, 0.5)
# Of this nothing but the dose can be wrong.
ANYTHING = Guard(0.0, np.inf, np.inf)


@pytest.fixture(scope="module")
def candidates(study):
    """Contrast vectors by name of their site."""
    return {name: study.contrast_vectors(site) for name, site in SITES.items()}


def choose(study, candidates, guard=ANYTHING, **how):
    return choose_push(study, candidates, **({"positions": POSITIONS, "doses": DOSES} | how), guard=guard)


@pytest.fixture(scope="module")
def chosen(study, candidates):
    return choose(study, candidates)


@pytest.fixture(scope="module")
def one_by_one(study, candidates):
    """The effects of each push of the table, measured by itself."""
    found = []
    for where, name, dose in product(POSITIONS, candidates, DOSES):
        push = Push(SITES[name], dose, study.norms[SITES[name]], where)
        arms = push.arms("", candidates[name], POLES)
        rows = effects(evaluate(study.language_model, study.questionnaire, arms))
        found.append(rows[rows["group"] != ALL])
    return found


# The table


def test_a_push_under_which_a_vector_overflows_has_no_perplexity():
    rows = {"arm": [0, 1], "effect": [1.0, np.nan], "prompted": 1.0, "mass": [1.0, 0.0], "perplexity": [1.0, np.nan]}
    found = choices._row(Push(Site(1), 0.2, 1.0, "last"), pd.DataFrame(rows | {"collapsed": [False, True]}))
    assert np.isnan(found["perplexity"]) and found["mass"] == 0 and found["collapsed"] == 0.5


def test_each_row_is_what_a_push_does_by_itself(chosen, candidates, study, one_by_one):
    table, wanted = chosen.table, study.prompted.set_index(["key", "pole", "group"])["prompted"]
    named = list(zip(table["positions"], table["source"], table["dose"], strict=True))
    assert named == list(product(POSITIONS, candidates, DOSES))
    assert table["fidelity"].nunique() == len(table)
    for row, expected in zip(table.to_dict("records"), one_by_one, strict=True):
        assert (row["site"], row["layer"]) == (str(SITES[row["source"]]), SITES[row["source"]].layer)
        said = np.array([wanted[one.key, one.pole, one.group] for one in expected.itertuples()])
        missed = ((expected["effect"] - said) ** 2).sum() / (said**2).sum()
        assert row["fidelity"] == pytest.approx(1 - missed, abs=1e-3)
        assert row["effect"] == pytest.approx(np.sqrt((expected["effect"] ** 2).mean()), abs=1e-2)
        assert row["mass"] == pytest.approx(expected["mass"].min(), rel=1e-4)
        assert row["perplexity"] == pytest.approx(expected["perplexity"].max(), rel=1e-3)


# The choice


def test_the_best_of_what_has_not_collapsed_is_chosen(chosen, study):
    table = chosen.table
    assert (table["collapsed"] == 0).all()
    [best] = table[table["chosen"]].to_dict("records")
    assert best["fidelity"] == table["fidelity"].max()
    site = SITES[best["source"]]
    push = Push(site, best["dose"], study.norms[site], best["positions"])
    assert (chosen.source, chosen.push) == (best["source"], push)


def test_a_push_under_which_one_vector_collapses_is_out(study, candidates, chosen):
    """The guard is drawn so closely that the worst vector of the best push fails it, and not that of every other."""
    table = chosen.table
    [best] = table[table["chosen"]].to_dict("records")
    healthier = table[table["mass"] > best["mass"]]
    assert len(healthier)
    again = choose(study, candidates, Guard((best["mass"] + healthier["mass"].min()) / 2, np.inf, np.inf))
    [out] = again.table[table["chosen"].to_numpy()].to_dict("records")
    assert 0 < out["collapsed"] <= 1 and not out["chosen"]
    left = again.table[again.table["collapsed"] == 0]
    assert again.table.loc[again.table["chosen"], "fidelity"].tolist() == [left["fidelity"].max()]
    np.testing.assert_allclose(again.table["fidelity"], table["fidelity"], atol=1e-6)


def test_the_share_of_vectors_that_collapse_is_counted_by_their_perplexity_too(study, candidates, one_by_one):
    """One way up one vector is let through and the other is not."""
    worse = np.sort(one_by_one[-1].drop_duplicates("arm")["perplexity"])[::-1]
    assert worse[0] > 1 and worse[0] > worse[1]
    guard = Guard(0.0, max(1.0, (worse[0] + worse[1]) / 2), np.inf)
    late = {"late": candidates["late"]}
    found = choose(study, late, guard, positions=("prompt",), doses=(0.05, 0.5))
    assert found.table["collapsed"].tolist() == [0.0, 0.25]
    assert found.push.dose == 0.05


def costing(monkeypatch, points):
    """Facts cost so many points at each dose."""
    monkeypatch.setattr(
        choices,
        "facts_lost",
        lambda _, arms, **how: pd.DataFrame([(a.dose, points[abs(a.dose)]) for a in arms], columns=["dose", "facts"]),
    )


def test_a_push_that_costs_too_many_facts_is_out(study, candidates, chosen, monkeypatch):
    best = chosen.push.dose
    costing(monkeypatch, {dose: 6.0 if dose == best else 5.0 for dose in DOSES})
    again = choose(study, candidates, Guard(0.0, np.inf, 5.0))
    others = again.table[again.table["dose"] != best]
    assert again.table.loc[again.table["chosen"], "fidelity"].tolist() == [others["fidelity"].max()]
    asked = again.table[again.table["fidelity"] >= others["fidelity"].max()]
    assert asked["facts"].notna().all() and again.table["facts"].count() == len(asked)
    with pytest.raises(ValueError, match=r"more than 4 points of facts are lost; try doses below 0\.15"):
        choose(study, candidates, Guard(0.0, np.inf, 4.0))


def test_a_push_is_matched_between_the_doses_that_cost_less_and_more(study, candidates, monkeypatch):
    costing(monkeypatch, {0.1: 0.0, 0.2: 2.0, 0.4: 10.0})
    push, cost = matched_push(study, candidates["early"], Push(SITES["early"], 9.0, 8.0), (0.1, 0.2, 0.4), 5.0)
    assert push == Push(SITES["early"], pytest.approx(0.275), 8.0) and cost.to_dict() == {0.1: 0.0, 0.2: 2.0, 0.4: 10.0}


def test_facts_are_lost_by_arms_and_none_is_to_choose_by_and_to_measure_on(study, monkeypatch):
    asked = []
    monkeypatch.setattr(choices, "evaluate", lambda *given, **how: asked.append(given[1]) or evaluate(*given, **how))
    vector = study.contrast_vectors(SITES["early"])
    arms = [arm for dose in (1e-6, 30.0) for arm in Push(SITES["early"], dose, 10.0).arms("", vector)]
    found = {part: facts_lost(study, arms, part) for part in ("choose", "measure")}
    for rows in found.values():
        lost = rows.groupby("dose")["facts"].mean()
        assert len(rows) == len(arms) and lost[1e-6] == pytest.approx(0) and lost[30.0] > 20
    first, second = ({question.text for question in each.questions} for each in asked)
    assert first and second and not first & second


def test_only_told_poles_are_pushed_toward(study, candidates, one_by_one):
    up = study.prompted[study.prompted["pole"] == "positive"]
    found = choose(replace(study, prompted=up), {"early": candidates["early"]}, positions=("last",))
    for own, both in zip(found.table.to_dict("records"), one_by_one[: len(DOSES)], strict=True):
        expected = both[both["pole"] == "positive"]["effect"].to_numpy()
        missed = ((expected - up["prompted"]) ** 2).sum() / (up["prompted"] ** 2).sum()
        assert own["fidelity"] == pytest.approx(1 - missed, abs=1e-3)


def test_where_everything_collapses_there_is_one_error(study, candidates):
    """By the usual guard, where no other is given."""
    late = {"late": candidates["late"]}
    with pytest.raises(ValueError, match=r"some vector collapses under every push, or .*; try doses below 40"):
        choose(study, late, None, positions=("prompt",), doses=(40.0, 80.0))


def test_where_no_item_is_answered_even_without_a_push_there_is_one_clear_error(study, candidates):
    """A model of random weights gives each of thousands of tokens a little."""
    torch.manual_seed(0)
    organism = study.language_model
    network = AutoModelForCausalLM.from_config(deepcopy(organism.model.config)).eval()
    random = replace(organism, name="random weights", model=network)
    prompted = prompted_effects(random, study.questionnaire, study.contrasts)
    assert prompted["prompted"].isna().all()
    with pytest.raises(ValueError, match="random weights answers none of the items"):
        choose_push(replace(study, language_model=random, prompted=prompted), candidates, doses=(0.1,))


def test_a_choice_that_was_stopped_goes_on_where_it_was(study, candidates, tmp_path, monkeypatch):
    early = {"early": candidates["early"]}
    first = choose(study, early, store=tmp_path, positions=("last",))
    asked = []
    monkeypatch.setattr(Evaluation, "_asked", lambda self, known, *_: asked.append(len(known)) or iter(()))
    again = choose(study, early, store=tmp_path, positions=("last",))
    assert asked[0] > 0
    pd.testing.assert_frame_equal(again.table, first.table)


# On disk


def test_what_was_chosen_is_read_back(chosen, tmp_path):
    chosen.save(tmp_path / "s.json")
    assert load_push(tmp_path / "s.json") == chosen.push
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    written = json.loads((tmp_path / "s.json").read_text())
    pd.testing.assert_frame_equal(pd.DataFrame(written["table"]), chosen.table, check_dtype=False, rtol=1e-6)


def test_a_number_that_is_missing_is_null_in_the_file(tmp_path):
    table = pd.DataFrame({"fidelity": [1.0, np.nan], "chosen": [True, False]})
    PushChoice("early", Push(Site(1), 0.5, 8.0), table).save(tmp_path / "s.json")
    rows = json.loads((tmp_path / "s.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert rows["table"] == [{"fidelity": 1.0, "chosen": True}, {"fidelity": None, "chosen": False}]


GOOD = {"positions": "last", "site": "resid_post.1", "dose": 0.5, "norm": 8.0, "table": []}
WRONG = [
    *({"positions": "first"}, {"site": "mlp.1"}, {"dose": "much"}, {"dose": float("nan")}, {"norm": 0.0}),
    {"coefficient": 1.0},
]
LACKING = {name: value for name, value in GOOD.items() if name != "norm"}


def test_a_missing_file_is_named_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(DataError, match=r"s\.json: no such file; write it with `python -m personalib contrast choose`"):
        load_push(tmp_path / "s.json")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\x00", LACKING, *(GOOD | change for change in WRONG)])
def test_a_file_of_another_form_is_named(tmp_path, content):
    (tmp_path / "s.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DataError, match=r"s\.json: "):
        load_push(tmp_path / "s.json")


def test_what_is_kept_for_the_organism_follows_from_its_table(organism):
    push = load_push()
    table = pd.DataFrame(json.loads((data_dir() / "organism" / "steering.json").read_text())["table"])
    sites = [str(Site(layer)) for layer in range(len(blocks(organism.model)))]
    doses = sorted(set(table["dose"]))
    tried = list(zip(table["positions"], table["site"], table["dose"], strict=True))
    assert tried == list(product((*POSITIONS, "before_options"), sites, doses))
    [row] = table[table["chosen"]].to_dict("records")
    assert (row["positions"], Site.parse(row["site"]), row["dose"]) == (push.positions, push.site, push.dose)
    sound = table[table["collapsed"] == 0]
    assert (sound["mass"] >= 0.9).all() and (sound["perplexity"] <= 2).all()
    # Of pushes that cost too many facts, none is chosen.
    kept = sound[~(sound["facts"] > Guard().facts)] if "facts" in sound else sound
    assert row["collapsed"] == 0 and row["fidelity"] == kept["fidelity"].max()
