"""A plan put to another model keeps its questions and doses, and moves to the other model's sites and SAEs."""

import pytest

from personalib.base.data import DataError
from personalib.evaluation.plan import load_plan
from personalib.evaluation.plan_models import plan_on
from personalib.features.own_saes import Saes


def test_a_plan_on_no_other_model_is_the_plan():
    plan = load_plan("organism")
    assert plan_on(plan, "") is plan


def test_a_plan_on_its_own_model_asks_the_same():
    plan = load_plan("organism")
    moved = plan_on(plan, "organism")
    assert moved.arms == plan.arms and moved.questionnaires == plan.questionnaires
    assert moved.models == plan.models


def test_sites_and_saes_move_and_nothing_else():
    plan = load_plan("organism")
    saes = Saes("organism", ("resid_post.3/width_512",))
    moved = plan_on(plan, "organism", saes=saes)
    for old, new in zip(plan.arms, moved.arms, strict=True):
        changed = {name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)}
        assert changed == ({"sae"} if old.method == "sae" else {"site"} if old.site else set())
    assert (moved.site, moved.features.sae) == ("resid_post.3", "resid_post.3/width_512")


def test_an_sae_of_another_width_is_refused():
    with pytest.raises(DataError, match="the organism has no SAE"):
        plan_on(load_plan("organism"), "organism", saes=Saes("organism", ("resid_post.2/width_512",)))


def test_a_plan_without_pushes_has_no_site():
    plan = load_plan("organism").model_copy(update={"arms": ()})
    with pytest.raises(ValueError, match="no arm with a site; say where to push"):
        _ = plan.site
    with pytest.raises(ValueError, match="no arm of method 'sae'"):
        _ = plan.features
