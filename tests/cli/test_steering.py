"""What a user of ``python -m personalib steering`` sees: answers, files that others can read, or one error."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from calls import assert_refused, printed
from sae_lens import SAE

from personalib.evaluation.arms import prompted_arms
from personalib.evaluation.ask import evaluate
from personalib.evaluation.choice import choose_push
from personalib.evaluation.estimates import ALL
from personalib.evaluation.estimates import effects as effects_of
from personalib.evaluation.study import Study
from personalib.features.saes import load_sae
from personalib.models.parts import Site
from personalib.models.prompts import format_prompt
from personalib.models.sampling import Sampling
from personalib.questionnaires.items import load_trait, validation_split
from personalib.questionnaires.questions import trait_questionnaire
from personalib.steering.generation import generate
from personalib.steering.interventions import Add
from personalib.stimuli.contrast_pairs import contrasts
from personalib.stimuli.factors import TRAITS
from personalib.vectors.contrast import fit_vector, read_contrasts
from personalib.vectors.vector import SteeringVector, load_vectors, save_vectors

SAE_ID = "resid_post.1/width_512"
QUESTION = "What do you like to do?"
PAIRS, DOSE = 8, 0.2
# All pressures at all sites, and no more of anything than has to be.
TINY = ("--family", "pressures", "--sae-id", SAE_ID, "--choose-by", 1, "--per-trait", 2, "--pairs", PAIRS)
TINY += ("--position", "prompt", "--dose", DOSE, "--randoms", 10)


@pytest.fixture(scope="module")
def files(organism, tmp_path_factory):
    """A file of one vector, one of two at different sites, and one of another model."""
    folder = tmp_path_factory.mktemp("vectors")
    [one] = [one for one in contrasts("pressures") if one.key == "trust"]
    read = read_contrasts(organism, [one], [Site(1), Site(3)], folder / "read", count=PAIRS)
    two = [fit_vector(read["trust"]["train"], site) for site in (Site(1), Site(3))]
    save_vectors(two[1:], folder / "one.safetensors")
    save_vectors(two, folder / "two.safetensors")
    save_vectors([SteeringVector(torch.ones(8), Site(1), "ones", "by hand", "toy", "1")], folder / "other.safetensors")
    (folder / "broken.safetensors").write_text("no vector")
    return folder


@pytest.fixture(scope="module")
def items():
    """One item to choose by and two to measure on, of each of two traits."""
    halves = validation_split(load_trait())
    return tuple(
        [one for trait in TRAITS[:2] for one in [each for each in own if each.personality == trait][:count]]
        for own, count in zip(halves, (1, 2), strict=True)
    )


def bank(path, items):
    path.write_text("\n".join(json.dumps(vars(item)) for item in items))
    return path


@pytest.fixture(scope="module")
def source(items, work):
    """Both kinds of items in one file, those to measure on first."""
    return bank(work / "items.jsonl", [*items[1], *items[0]])


@pytest.fixture(scope="module")
def reported(source, work, tmp_path_factory):
    """The numbers and the effects that ``report`` writes, and what it prints."""
    folder = tmp_path_factory.mktemp("reported")
    numbers, effects = folder / "numbers.json", folder / "effects.csv"
    out = printed("steering", "report", *TINY, "--items", source, "--work", work, "--json", numbers, "--table", effects)
    read = json.loads(numbers.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return read, pd.read_csv(effects), out


# Ask


def test_a_question_is_answered_with_so_much_of_a_vector(organism, files):
    vector, model = SteeringVector.load(files / "one.safetensors"), organism
    out = printed("steering", "ask", QUESTION, "--vector", files / "one.safetensors", "--tokens", 12)
    prompt = format_prompt(model.tokenizer, QUESTION)
    sizes = (-2.0, -1.0, 0.0, 1.0, 2.0)
    expected = [generate(model, [prompt], [Add(vector, size, "all")], tokens=12)[0] for size in sizes]
    assert out.splitlines() == [f"{size:+g}  {answer}" for size, answer in zip(sizes, expected, strict=True)]
    assert expected[2] == generate(model, [prompt], tokens=12)[0] and len(set(expected)) > 1


def test_the_options_of_a_question_are_used(organism, files):
    """Two vectors are in the file, answers are sampled, and the prompt is plain text."""
    how = ("--temperature", 1.5, "--top-p", 0.95, "--frequency-penalty", 0.5, "--seed", 16, "--samples", 3)
    where = ("--vector", files / "two.safetensors", "--site", "resid_post.1", "--positions", "last", "--form", "base")
    sizes = ("--coefficient", 3, "--coefficient", -0.5)
    out = printed("steering", "ask", QUESTION, *where, *sizes, *how, "--tokens", 6)
    [vector] = [one for one in load_vectors(files / "two.safetensors") if one.site == Site(1)]
    sampling = Sampling(temperature=1.5, top_p=0.95, frequency_penalty=0.5, seed=16, samples=3)
    prompt = format_prompt(organism.tokenizer, QUESTION, form="base")
    for sign, size in (("+3", 3.0), ("-0.5", -0.5)):
        answers = generate(organism, [prompt], [Add(vector, size, "last")], tokens=6, sampling=sampling)
        assert len(set(answers)) == 3
        assert [line for line in out.splitlines() if line.startswith(sign)] == [
            f"{sign}  {answer}".rstrip("\n") for answer in answers
        ]


def test_an_answer_under_which_the_model_overflows_is_told_each_time(files):
    (SteeringVector.load(files / "one.safetensors") * 100.0).save(files / "long.safetensors")
    sizes = ("--coefficient", 3e38, "--coefficient", 0, "--coefficient", -3e38)
    with pytest.warns(UserWarning, match="organism: 1 of 1 answers are left empty") as warned:
        out = printed("steering", "ask", QUESTION, "--vector", files / "long.safetensors", *sizes, "--tokens", 3)
    first, middle, last = out.splitlines()
    assert (first, last) == ("+3e+38  (no answer)", "-3e+38  (no answer)") and len(warned) == 2
    assert middle.startswith("+0  ") and "no answer" not in middle


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("two", (), "has vectors at resid_post.1, resid_post.3; choose one with --site"),
        ("two", ("--site", "resid_post.2"), "has vectors at resid_post.1, resid_post.3; choose one with --site"),
        ("one", ("--site", "any"), "has vectors at resid_post.3; choose one with --site"),
        ("nothing", (), "nothing.safetensors: no such file; save vectors with save_vectors"),
        ("broken", (), "broken.safetensors: cannot be read as steering vectors"),
        ("other", (), "ones has 8 coordinates at resid_post.1, and organism has 128"),
        ("one", ("--model", "/no/such/model"), "/no/such/model: cannot be loaded"),
        ("one", ("--device", "abacus"), "device 'abacus'"),
        ("one", ("--positions", "first"), "Invalid value for '--positions': 'first' is not one of"),
        ("one", ("--temperature", 1, "--top-p", 0), "top_p: Input should be greater than 0"),
        ("one", ("--samples", 2), "do nothing at temperature 0; set a temperature"),
        ("one", ("--tokens", 0), "Invalid value for '--tokens'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_error(call, files, name, options, problem):
    assert_refused(call("ask", QUESTION, "--vector", files / f"{name}.safetensors", *options), problem)


# Report


def test_a_report_is_two_files(reported):
    numbers, effects, _ = reported
    methods = ["repe", "sae", "prompt", "random"]
    keys = [one.key for one in contrasts("pressures")]
    assert (numbers["family"], numbers["keys"], numbers["items"]) == ("pressures", len(keys), 4)
    assert list(numbers["truth_correlation"]) == methods
    assert {"repe", "sae", "random"} <= set(numbers["told_correlation"])
    assert numbers["push"]["sae"] == {"source": SAE_ID, "positions": "prompt", "dose": DOSE}
    assert effects["method"].unique().tolist() == methods and set(effects["group"]) == set(TRAITS[:2])
    assert {"arm", "key", "pole", "dose", "effect", "low", "high", "p", "p_fdr", "n", "missing"} <= set(effects)
    for method in methods[:3]:
        assert sorted(effects[effects["method"] == method]["key"].unique()) == sorted(keys)
    assert effects[effects["method"] == "random"]["key"].nunique() == 10
    assert numbers["collapsed"] == effects.groupby("method", sort=False)["collapsed"].mean().to_dict()


def test_correlations_and_pushes_are_shown(reported):
    numbers, _, out = reported
    expected = []
    for against in ("truth", "told"):
        for method, value in numbers[f"{against}_correlation"].items():
            low, high = numbers[f"{against}_interval"][method]
            expected.append(f"{method} against {against} {value:+.2f} [{low:+.2f}, {high:+.2f}]")
    for method, own in numbers["push"].items():
        expected.append(f"{method} source {own['source']}, positions {own['positions']}, dose {own['dose']}")
    assert [re.sub(" +", " ", line) for line in out.splitlines()] == expected


@pytest.fixture(scope="module")
def study(organism, items, work):
    return Study.read(organism, contrasts("pressures"), trait_questionnaire(items[0]), work, pairs=PAIRS)


def test_pushes_are_chosen_on_items_that_are_not_measured_on(reported, study):
    """The file holds other items first, so that the choice would fall on them if it could."""
    candidates = {SAE_ID: study.prompt_feature_vectors(load_sae(sae_id=SAE_ID))}
    own = choose_push(study, candidates, positions=("prompt",), doses=(DOSE,))
    assert reported[0]["push"]["sae"]["source"] == own.source
    vectors = {str(site): study.contrast_vectors(site) for site in study.norms}
    best = choose_push(study, vectors, positions=("prompt",), doses=(DOSE,))
    assert reported[0]["push"]["repe"]["source"] == best.source
    repe = reported[1][reported[1]["method"] == "repe"]
    assert (repe[repe["pole"] == "positive"]["dose"] == DOSE).all()
    assert (repe[repe["pole"] == "negative"]["dose"] == -DOSE).all()


def test_effects_are_measured_on_items_that_choose_nothing(reported, organism, items):
    """What telling does tells the items apart: it is another thing on those to choose by."""
    told = reported[1][reported[1]["method"] == "prompt"]
    arms = prompted_arms(contrasts("pressures"), "held_out", ("positive", "negative"))
    both = [effects_of(evaluate(organism, trait_questionnaire(own), arms, neutral=0)) for own in items]
    chosen_by, measured = (rows[rows["group"] != ALL]["effect"] for rows in both)
    np.testing.assert_allclose(told["effect"], measured, rtol=0, atol=1e-2)
    assert np.abs(told["effect"].to_numpy() - chosen_by.to_numpy()).max() > 1
    assert set(told["n"] + told["missing"]) == {2}


@pytest.mark.parametrize("which", [0, 1], ids=["to choose by", "to measure on"])
def test_without_items_on_either_side_there_is_one_error(call, items, work, tmp_path, which):
    own = bank(tmp_path / "half.jsonl", items[which])
    ended = call("report", *TINY, "--items", own, "--work", work, "--json", "out.json")
    assert_refused(ended, "there are no trait items to ask")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--sae-id", "resid_post.9/width_1"), "the organism has no SAE 'resid_post.9/width_1'; choose one of resid_"),
        (("--items", "nothing.jsonl"), "nothing.jsonl: No such file"),
        (("--template", "letter"), "unknown template 'letter'; did you mean 'letters'?"),
    ],
)
def test_a_report_that_cannot_be_made_is_one_error(call, work, options, problem):
    assert_refused(call("report", *TINY, "--work", work, *options), problem)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--position", "response"), "Invalid value for '--position': 'response' is not one of"),
        (("--choose-by", 0), "Invalid value for '--choose-by': 0 is not in the range x>=1"),
        (("--per-trait", 0), "Invalid value for '--per-trait': 0 is not in the range x>=1"),
        (("--dose", 0.0), "Invalid value for '--dose': 0.0 is not in the range x>0"),
        (("--family", "traits"), "Invalid value for '--family': 'traits' is not one of"),
        (("--randoms", 9), "Invalid value for '--randoms'"),
    ],
)
def test_what_is_wrong_is_noticed_before_anything_is_loaded(call, tmp_path, options, problem):
    assert_refused(call("report", "--model", "/no/such/model", *options), problem)
    assert not [*tmp_path.iterdir()]


def test_where_every_push_collapses_there_is_one_error(call, source, work):
    few = [*TINY[: TINY.index("--dose")], "--dose", 60]
    ended = call("report", *few, "--items", source, "--work", work, "--json", "out.json")
    problem = "some vector collapses under every push, or more than 5 points of facts are lost; try doses below 60"
    assert_refused(ended, problem)


def test_an_sae_of_any_site_can_be_reported_on(organism, source, work, tmp_path):
    """One that reads what a block reads, and not what one leaves."""
    width = organism.model.config.hidden_size
    metadata = {"hook_name": "blocks.2.hook_resid_pre", "model_name": "organism"}
    torch.manual_seed(0)
    made = SAE.from_dict({"architecture": "standard", "d_in": width, "d_sae": 32, "metadata": metadata})
    made.save_model(tmp_path / "sae")
    few = [*TINY[:2], *TINY[4:]]
    out = printed("steering", "report", *few, "--sae", tmp_path / "sae", "--items", source, "--work", work)
    assert re.search(r"^sae +source ", out, re.MULTILINE)
