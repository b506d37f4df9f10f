"""Arms from plans push what the plan says, as hard as it says, and tell what it says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import SAE

from personalib.base.data import data_dir
from personalib.evaluation import planned_arms as arm_plans
from personalib.evaluation.plan import ArmsPlan, load_plan
from personalib.evaluation.planned_arms import ArmMaker
from personalib.features.published import published_features
from personalib.features.saes import SparseAutoencoder, load_sae
from personalib.features.vectors import prompt_features
from personalib.models.parts import Site
from personalib.models.prompts import format_prompt
from personalib.steering.doses import combined, random_directions, site_norms
from personalib.steering.interventions import POSITIONS, Add
from personalib.stimuli.contrast_pairs import contrast_set, contrasts
from personalib.stimuli.factors import load_factors
from personalib.vectors.contrast import fit_vector, read_pairs
from personalib.vectors.vector import SteeringVector

SITE, SAE_ID, PAIRS = Site(1), "resid_post.1/width_512", 4
KEYS = ("trust", "gregariousness")
PERSONA = {"both": KEYS, "one": KEYS[:1]}


@pytest.fixture(scope="module")
def prompts(organism):
    return [format_prompt(organism.tokenizer, text) for text in ("Do you like maps?", "What now?")]


@pytest.fixture(scope="module")
def maker(organism, prompts, tmp_path_factory):
    return ArmMaker(organism, prompts, tmp_path_factory.mktemp("work"), pairs=PAIRS)


@pytest.fixture(scope="module")
def norm(organism, prompts, tmp_path_factory):
    return site_norms(organism, prompts, [SITE], tmp_path_factory.mktemp("norms"))[SITE]


@pytest.fixture(scope="module")
def reads(organism, tmp_path_factory):
    """What the model has at the end of the pairs, of some pressures."""
    known = {one.key: one for one in contrasts("pressures")}
    pairs = {key: contrast_set(known[key], PAIRS, 0, "train") for key in KEYS}
    return {key: read_pairs(organism, known[key], pairs[key], [SITE], tmp_path_factory.mktemp(key)) for key in KEYS}


@pytest.fixture(scope="module")
def sae():
    return load_sae("organism", SAE_ID)


def repe(**choices):
    return ArmsPlan(**{"method": "repe", "family": "pressures", "keys": KEYS, "site": str(SITE)} | choices)


def features(**choices):
    return ArmsPlan(**{"method": "sae", "family": "pressures", "keys": KEYS, "sae": SAE_ID} | choices)


def pushed(arm):
    """What an arm adds to the residual stream, all in all."""
    [one] = arm.condition
    assert isinstance(one, Add)
    return one.coefficient * one.vector.direction.double()


def names(arms):
    return [(arm.method, arm.key, arm.pole) for arm in arms]


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# Contrast vectors


@pytest.mark.parametrize("how", ["doses", "coefficients"])
def test_a_dose_is_a_share_of_the_norm_and_a_coefficient_the_length_of_what_is_added(maker, norm, reads, how):
    arms = maker.arms([repe(**{how: (0.4, -0.2)})])
    assert names(arms) == [("repe", key, pole) for pole in ("positive", "negative") for key in KEYS]
    for arm, size in zip(arms, (0.4, 0.4, -0.2, -0.2), strict=True):
        length = size * norm if how == "doses" else size
        close(pushed(arm), length * fit_vector(reads[arm.key], SITE).unit().direction)
        assert arm.dose == pytest.approx(length / norm) and pushed(arm).norm() == pytest.approx(abs(length), rel=1e-5)


@pytest.mark.parametrize(("dose", "poles"), [(0.4, ["positive", "negative"]), (-0.4, ["negative", "positive"])])
def test_each_pole_is_pushed_toward_and_a_negative_dose_turns_it(maker, dose, poles):
    arms = maker.arms([repe(keys=KEYS[:1], doses=(dose,), poles=("positive", "negative"))])
    assert [arm.pole for arm in arms] == poles and [arm.dose for arm in arms] == pytest.approx([dose, -dose])
    close(pushed(arms[0]), -pushed(arms[1]))


def test_arms_come_by_plan_then_dose_then_pole_then_key(maker):
    plans = [repe(doses=(0.1, 0.2), poles=("positive", "negative")), ArmsPlan(method="prompt", family="pressures")]
    arms = maker.arms(plans)
    found = [(round(arm.dose, 3), arm.pole, arm.key) for arm in arms[:8]]
    assert found == [
        (sign * dose, pole, key)
        for dose in (0.1, 0.2)
        for pole, sign in (("positive", 1), ("negative", -1))
        for key in KEYS
    ]
    assert {arm.method for arm in arms[8:]} == {"prompt"} and len(arms) == 8 + len(contrasts("pressures"))


@pytest.mark.parametrize("positions", [one for one in POSITIONS if one != "response"])
def test_positions_and_label_are_passed_on(maker, positions):
    plans = [
        repe(doses=(0.1,), positions=positions, label="mine"),
        features(coefficients=(2.0,), positions=positions, label="mine"),
        ArmsPlan(method="random", site=str(SITE), doses=(0.1,), positions=positions, label="mine"),
    ]
    arms = maker.arms(plans)
    assert {arm.condition[0].positions for arm in arms} == {positions} and {arm.method for arm in arms} == {"mine"}


@pytest.mark.parametrize("site", ["resid_post.0", "resid_pre.2", "resid_post.3"])
def test_the_site_is_passed_on(maker, site):
    plans = [repe(site=site, doses=(0.1,)), ArmsPlan(method="random", site=site, doses=(0.1,))]
    assert {str(arm.condition[0].site) for arm in maker.arms(plans)} == {site}


# Features


def test_a_coefficient_multiplies_rows_of_the_decoder_as_they_are(maker, sae, norm):
    scaled = replace(sae, network=doubled(sae))
    chosen = {"trust": (3,), "gregariousness": (5, 17, 40)}
    [one, three] = maker.arms([features(features=chosen, coefficients=(200.0,))])
    close(pushed(one), 200 * sae.directions[3].double())
    close(pushed(three), 200 * sae.directions[[5, 17, 40]].sum(0).double())
    assert three.dose == pytest.approx(float(pushed(three).norm()) / norm, rel=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm_plans, "load_sae", lambda *_: scaled)
        [twice, _] = maker.arms([features(features=chosen, coefficients=(200.0,))])
        [dosed, _] = maker.arms([features(features=chosen, doses=(0.2,))])
    close(pushed(twice), 2 * pushed(one))
    assert pushed(dosed).norm() == pytest.approx(0.2 * norm, rel=1e-5)


def doubled(sae):
    """The SAE with a decoder of twice the length, whose rows are no unit vectors."""
    made = SAE.from_dict(sae.network.cfg.to_dict())
    made.load_state_dict(sae.network.state_dict())
    made.W_dec.data *= 2
    return made.requires_grad_(False)


def test_a_dose_of_features_is_their_sums_length(maker, sae, norm):
    [arm] = maker.arms([features(keys=KEYS[:1], features={"trust": (5, 17, 40)}, doses=(-0.2,))])
    assert pushed(arm).norm() == pytest.approx(0.2 * norm, rel=1e-5) and arm.pole == "negative"
    total = sae.directions[[5, 17, 40]].sum(0).double()
    close(pushed(arm) / pushed(arm).norm(), -total / total.norm())


def test_the_feature_of_a_prompt_is_the_one_that_poles_differ_most_in(maker, sae, reads):
    for arm in maker.arms([features(coefficients=(1.0,))]):
        close(pushed(arm), sae.directions[prompt_features(sae, reads[arm.key])[0]].double())
        assert arm.condition[0].site == sae.site


def test_named_features_need_no_pairs(maker, monkeypatch):
    monkeypatch.setattr(arm_plans, "read_pairs", lambda *_, **__: pytest.fail("pairs were read"))
    assert len(maker.arms([features(features={"trust": (1,), "gregariousness": (2,)}, doses=(0.1,))])) == 2


# Random directions


@pytest.mark.parametrize("how", ["doses", "coefficients"])
def test_random_directions_have_the_length_that_is_asked_for(maker, organism, norm, how):
    arms = maker.arms([ArmsPlan(method="random", site=str(SITE), count=5, **{how: (0.4,)})])
    like = SteeringVector(torch.ones(organism.model.config.hidden_size), SITE, "", "", "", "")
    length = 0.4 * (norm if how == "doses" else 1)
    for arm, one in zip(arms, random_directions(like, 5, 0), strict=True):
        close(pushed(arm), length * one.unit().direction)
        assert arm.dose == pytest.approx(length / norm)
    assert [arm.key for arm in arms] == [f"random {number}" for number in range(5)]


def test_the_seed_draws_random_directions_and_pairs(maker, tmp_path):
    plans = [ArmsPlan(method="random", site=str(SITE), doses=(0.4,), count=1), repe(doses=(0.4,), keys=KEYS[:1])]
    one, same, other = (
        replace(maker, seed=seed, folder=tmp_path / name).arms(plans) for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    for first, again, different in zip(one, same, other, strict=True):
        close(pushed(first), pushed(again))
        assert abs(pushed(first) - pushed(different)).max() > 1e-3


# Personas


def test_a_persona_is_its_vectors_in_one(maker, norm, reads):
    parts = [fit_vector(reads[key], SITE) for key in KEYS]
    for how in ("norm_matched", "sum"):
        [both, one] = maker.arms([repe(keys=(), personas=PERSONA, combine=how, doses=(0.4,))])
        assert (both.key, one.key) == ("both", "one")
        close(pushed(both), 0.4 * norm * combined(parts, how).unit().direction)
        close(pushed(one), 0.4 * norm * parts[0].unit().direction)


def test_a_persona_of_features_is_their_sum_or_as_long_as_one_of_them(maker, sae):
    chosen = {"trust": (3,), "gregariousness": (5, 17)}
    plan = features(keys=(), personas=PERSONA, features=chosen, coefficients=(100.0,), combine="sum")
    [both, _] = maker.arms([plan])
    close(pushed(both), 100 * sae.directions[[3, 5, 17]].sum(0).double())
    [matched, _] = maker.arms([plan.model_copy(update={"combine": "norm_matched"})])
    lengths = [float(sae.directions[list(own)].sum(0).norm()) for own in chosen.values()]
    assert pushed(matched).norm() == pytest.approx(100 * np.mean(lengths), rel=1e-4)
    close(pushed(matched) / pushed(matched).norm(), pushed(both) / pushed(both).norm())


@pytest.mark.parametrize("split", ["held_out", "train"])
def test_a_persona_in_words_tells_every_member_each_time(maker, split):
    personas = load_plan("organism").arms[4].personas
    known = {one.key: one for one in contrasts("elements")}
    arms = maker.arms([ArmsPlan(method="prompt", personas=personas, split=split)])
    assert [arm.key for arm in arms] == ["N", "P"]
    for arm in arms:
        assert not arm.condition and len(arm.contexts) == 24 and np.isnan(arm.dose)
        for key in personas[arm.key]:
            told = {one.text for one in known[key].wordings["positive", split]}
            found = [[text for text in told if text in context] for context in arm.contexts]
            assert all(found), f"{key} is told every time"
            assert len({text for own in found for text in own}) >= min(len(told), 24) / 2, "in its own words"
        lengths = {len(context.split()) for context in arm.contexts}
        assert len(set(arm.contexts)) == 24 and max(lengths) > len(personas[arm.key])


# Words


@pytest.mark.parametrize("pole", ["positive", "negative"])
@pytest.mark.parametrize("split", ["held_out", "train"])
def test_words_are_all_phrasings_of_one_pole_and_split(maker, pole, split):
    known = {one.key: one for one in contrasts("pressures")}
    arms = maker.arms([ArmsPlan(method="prompt", family="pressures", poles=(pole,), split=split)])
    assert names(arms) == [("prompt", key, pole) for key in known]
    for arm in arms:
        assert sorted(arm.contexts) == sorted(one.text for one in known[arm.key].wordings[pole, split])


def test_words_alone_read_nothing(maker, monkeypatch):
    for name in ("read_pairs", "site_norms", "load_sae"):
        monkeypatch.setattr(arm_plans, name, lambda *_, **__: pytest.fail("the model was run"))
    assert len(maker.arms([ArmsPlan(method="prompt", keys=("gender.female",))])) == 1
    assert maker.arms([]) == []


# What the paper published


@pytest.mark.parametrize("model", ["gemma-2b-it", "gemma-2-9b-it"])
def test_published_features_are_those_of_the_reference_table(model):
    table = pd.read_csv(data_dir() / "reference" / "sae_features.csv")
    own = table[table["model"] == model]
    found = published_features(f"google/{model}")
    assert found == published_features(model)
    assert len(found) == 22 and sum(map(len, found.values())) == len(own)
    titles = {
        f"{element.factor}.{element.key}": (factor.title.lower(), element.title.lower())
        for factor in load_factors()
        for element in factor.elements
    }
    assert found.keys() <= titles.keys()
    renamed = {"ai familiar degree": "ai familiarity"}
    for (factor, name), rows in own.groupby(["factor", "element"]):
        factor = factor.lower()
        [key] = [
            key
            for key, (title, element) in titles.items()
            if title == renamed.get(factor, factor) and element.startswith(name.lower()[:12])
        ]
        assert found[key] == rows["feature_index"].tolist()


@pytest.mark.parametrize("name", ["gemma-2b-it", "gemma-2-9b-it"])
def test_the_papers_grids_name_features_that_were_published(name):
    plan = load_plan(name)
    known = published_features(plan.models[0].name)
    own = [one for one in plan.arms if one.features == "published"]
    assert own and all(one.method == "sae" and one.family == "elements" for one in own)
    for one in own:
        named = {key for members in one.personas.values() for key in members} or set(one.keys)
        assert named <= known.keys()
        assert one.personas or named == known.keys()


def published_maker(organism, prompts, folder, monkeypatch):
    """A maker for a model called as the paper's, with an SAE that is wide enough."""
    made = SAE.from_dict({"architecture": "standard", "d_in": organism.model.config.hidden_size, "d_sae": 16384}).eval()
    made.W_dec.data.normal_(generator=torch.Generator().manual_seed(0))
    sae = SparseAutoencoder(made.requires_grad_(False), "own", "", SITE, None, None, "none", False, None)
    monkeypatch.setattr(arm_plans, "load_sae", lambda *_: sae)
    return ArmMaker(replace(organism, name="google/gemma-2b-it"), prompts, folder, pairs=PAIRS), sae


def test_published_features_are_summed_as_they_are(organism, prompts, tmp_path, monkeypatch):
    maker, sae = published_maker(organism, prompts, tmp_path, monkeypatch)
    plan = ArmsPlan(method="sae", features="published", keys=("gender.female",), coefficients=(200,))
    [arm] = maker.arms([plan])
    close(pushed(arm), 200 * sae.directions[[12813, 6221, 4448]].sum(0).double())


# What is refused


def test_an_element_without_published_features_is_one_error(organism, prompts, tmp_path, monkeypatch):
    maker, _ = published_maker(organism, prompts, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"ai_familiarity\.unfamiliar"):
        maker.arms([ArmsPlan(method="sae", features="published", coefficients=(200,))])


@pytest.mark.parametrize(
    "plan", [ArmsPlan(method="prompt", family="pressures"), repe(doses=(0.1,)), features(doses=(0.1,))]
)
def test_an_unknown_key_is_one_error_that_names_those_there_are(maker, plan):
    for change in ({"keys": ("trusst",)}, {"personas": {"N": ("trust", "trusst")}}):
        with pytest.raises(ValueError, match=r"pressures have no 'trusst'; choose among .*trust"):
            maker.arms([plan.model_copy(update=change)])


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (repe(site="resid_post.9", doses=(0.1,)), "resid_post.9"),
        (repe(site="middle", doses=(0.1,)), "middle"),
        (features(sae="resid_post.1/width_3", doses=(0.1,)), "the organism has no SAE"),
        (features(release="nowhere", doses=(0.1,)), "neither a folder nor a release"),
        (features(keys=("trust",), features={"trust": (512,)}, doses=(0.1,)), "has features 0 to 511"),
        (features(features={"trust": (3,)}, doses=(0.1,)), "gregariousness"),
        # the paper does not have the organism
        (
            features(family="elements", keys=("gender.female",), features="published", doses=(0.1,)),
            "organism: the paper has features for gemma-2b-it, gemma-2-9b-it alone",
        ),
    ],
)
def test_a_direction_that_cannot_be_had_is_one_error(maker, plan, problem):
    with pytest.raises(ValueError, match=problem):
        maker.arms([plan])
