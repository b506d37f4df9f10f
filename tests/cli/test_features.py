"""What a user of ``python -m personalib features`` sees: with another model and SAE the same commands do the same."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from calls import assert_refused, printed
from sae_lens import SAE
from tiny_saes import tiny_llama

from personalib.features.report import HEADLINES
from personalib.features.saes import DEFAULT_SAE, load_sae
from personalib.models.load import load_model
from personalib.models.prompts import encode
from personalib.organism.corpus import held_out_documents
from personalib.stimuli.factors import elements, load_factors
from personalib.stimuli.paper_files import element_named, load_backgrounds, load_feature_patterns, save_feature_patterns
from personalib.stimuli.sentences import NEUTRAL, element_texts

LABELS = [(each.factor, each.key) for each in elements()]
TITLES = {(each.factor, each.key): (factor.title, each.title) for factor in load_factors() for each in factor.elements}
D_MODEL, WIDTH = 48, 64
FEW = ("--per-element", 6, "--shuffles", 59)


def told_by(tokenizer):
    """For each element the tokens that stand in its texts and in hardly any other."""
    counts, found = defaultdict(Counter), defaultdict(list)
    for texts in (element_texts(split, 10_000) for split in ("train", "held_out")):
        for text, label in zip(texts.texts, texts.labels, strict=True):
            for token in set(tokenizer.encode(text)[1:]):
                counts[token][label] += 1
    for token, own in counts.items():
        ((label, most),) = own.most_common(1)
        if label != NEUTRAL and most >= 0.9 * own.total():
            found[label].append(token)
    return found


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model with an SAE, each in a folder: in its stream each element's words have a coordinate of their own.

    Feature 40 stands for the first element, 41 for the second, and so on; the others say nothing.
    """
    folder = tmp_path_factory.mktemp("other")
    small = tiny_llama(str(folder / "model"), hidden_size=D_MODEL)
    metadata = {"hook_name": "blocks.0.hook_resid_pre", "model_name": "small-llama"}
    about = {"architecture": "jumprelu", "d_in": D_MODEL, "d_sae": WIDTH, "metadata": metadata}
    network, words = SAE.from_dict(about), small.model.get_input_embeddings().weight
    with torch.no_grad():
        words[:, : len(LABELS)] = 0
        network.W_enc[: len(LABELS)] = 0
        network.threshold.fill_(0.01)
        for number, label in enumerate(LABELS):
            words[told_by(small.tokenizer)[label], number] = 2
            network.W_enc[:, 40 + number] = torch.eye(D_MODEL)[number]
            network.threshold[40 + number] = 0.5
        network.threshold[:4] = 100  # dead
    small.model.save_pretrained(folder / "model")
    small.tokenizer.save_pretrained(folder / "model")
    network.save_model(folder / "sae")
    return small, ("--model", folder / "model", "--sae", folder / "sae")


@pytest.fixture(scope="module")
def searched(other, tmp_path_factory):
    """The pattern file that the search writes for the other model, and what it prints."""
    folder = tmp_path_factory.mktemp("searched")
    out = printed("features", "discover", *other[1], *FEW, "--work", folder / "work", "--out", folder / "pattern.json")
    return folder / "pattern.json", out


@pytest.fixture
def pattern(searched):
    return searched[0]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A file with four people and their life stories, and one of whom nothing is told."""
    folder = tmp_path_factory.mktemp("people")
    printed("backgrounds", "keywords", "--num", 4, "--seed", 3, "--out", folder / "people.json")
    printed("backgrounds", "generated", folder / "people.json", "--out", folder / "told.json")
    nobody = {"idx": 9, "attributes": {"Gender": ""}, "fixed_bg": {}, "generative_bg": "", "note": "kept"}
    entries = json.loads((folder / "told.json").read_text())
    (folder / "told.json").write_text(json.dumps([*entries, nobody]))
    return folder / "told.json"


def tokens(language_model, texts):
    """How many tokens of some texts count."""
    return sum(len(one.places) for one in encode(language_model.tokenizer, texts))


# Search


def test_another_model_and_sae_are_a_change_of_parameters_only(pattern, other):
    """All elements are found that were planted in a model of another architecture and size, with its own SAE."""
    (found,) = load_feature_patterns(pattern)
    assert (found.layer, found.size) == (0, WIDTH)
    for number, label in enumerate(LABELS):
        assert found.features(*TITLES[label]) == [40 + number]
    assert found.extra["model"]["digest"] == other[0].digest()
    assert found.extra["sae"] == load_sae(str(other[1][3])).record()
    assert found.extra["sae"]["model"] == "small-llama" and found.extra["sae"]["architecture"] == "jumprelu"
    assert all(scores["auroc"]["estimate"] > 0.95 for scores in found.extra["scores"])


def test_what_is_shown_has_a_line_for_each_element_with_the_words_of_its_feature(searched):
    path, out = searched
    lines = out.splitlines()
    assert len(lines) == 1 + len(LABELS) + 1
    assert lines[-1] == f"{path}: 23 of 23 elements have a feature of AUROC 0.95 or more"
    for number, (label, line) in enumerate(zip(LABELS, lines[1:], strict=False)):
        assert line.split()[0] == label[1] and f"[{40 + number}]" in line
        assert f"({label[1]} 1.00" in line, "the label says what texts it fires in"


def test_the_options_of_a_search_are_used(command_line, other, tmp_path):
    options = ("--criterion", "f1", "--max-features", 1, "--person", "third", "--pooling", "last", "--seed", 4)
    assert command_line("features", "discover", *other[1], *FEW, *options, "--out", "p.json")[0] == 0
    (found,) = load_feature_patterns(tmp_path / "p.json")
    search = found.extra["search"]
    assert (search["criterion"], search["max_features"], search["pooling"], search["seed"]) == ("f1", 1, "last", 4)
    texts = element_texts("train", 6, 4, "third").texts
    read = np.load(tmp_path / "results" / "features" / "elements" / "train" / "resid_pre.0.npy")
    assert len(read) == tokens(other[0], texts), "in the place where activations go by default"
    assert all(score["auroc"]["estimate"] < 0.95 for score in found.extra["scores"]), "the last token is a full stop"


# Features of backgrounds


def test_backgrounds_get_the_features_of_their_attributes_and_of_their_stories(
    command_line, pattern, people, other, tmp_path
):
    code, out, _ = command_line("features", "convert", pattern, people, *other[1], "--out", "with.json")
    assert code == 0 and out.splitlines()[-1] == (
        "with.json: 5 backgrounds, 4 of them with the features of a life story"
    )
    before, after = load_backgrounds(people), load_backgrounds(tmp_path / "with.json")
    numbers = {TITLES[label]: 40 + number for number, label in enumerate(LABELS)}
    right, read = 0, 0
    for entry, found in zip(before, after, strict=True):
        assert replace(found, features=entry.features) == entry
        titles = {title: element_named(title, value).title for title, value in entry.attributes.items() if value}
        own = {title: [numbers[title, element]] for title, element in titles.items()}
        assert found.features["fixed"] == own
        if entry.generative_bg:
            told = found.features["generative"]
            assert {number for each in told.values() for number in each} <= set(numbers.values())
            right, read = right + sum(own.get(title) == each for title, each in told.items()), read + len(told)
    assert after[-1].features == {"fixed": {}, "generative": None} and after[-1].extra == {"note": "kept"}
    assert read > 20 and right > 0.7 * read, "a story has the features of the element that it tells"


def test_backgrounds_without_stories_need_no_model(command_line, pattern, tmp_path):
    entry = {"idx": 3, "attributes": {"Gender": "female", "Age": ""}, "fixed_bg": {}, "generative_bg": ""}
    (tmp_path / "b.json").write_text(json.dumps([entry]))
    code, out, _ = command_line(
        "features", "convert", pattern, "b.json", "--model", "/no/such/model", "--out", "c.json"
    )
    assert code == 0 and "c.json: 1 backgrounds, 0 of them with the features of a life story" in out
    number = 40 + LABELS.index(("gender", "female"))
    assert json.loads((tmp_path / "c.json").read_text()) == [
        entry | {"features": {"fixed": {"Gender": [number]}, "generative": None}}
    ]


def test_a_file_with_several_patterns_is_refused(command_line, pattern, people, tmp_path):
    save_feature_patterns(load_feature_patterns(pattern) * 2, tmp_path / "two.json")
    code, _, err = command_line("features", "convert", "two.json", people, "--out", "c.json")
    assert code == 2 and "two.json holds 2 patterns; keep the one that is meant" in err
    assert not (tmp_path / "c.json").exists()


# Report


def test_a_report_on_another_model_has_the_headlines_and_the_bounds(command_line, other, tmp_path):
    code, out, _ = command_line("features", "report", *other[1], *FEW, "--json", "report.json")
    assert code == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(HEADLINES) < set(found)
    assert (found["elements_found"], found["elements_total"]) == (23, 23)
    assert list(found["auroc"]) == list(found["null_auroc"]) == [".".join(label) for label in LABELS]
    # Six sentences of an element, of few phrases: the best of sixty shuffles reaches what was planted in some only.
    assert min(found["auroc"].values()) > 0.95 > np.median(list(found["null_auroc"].values()))
    assert 0 < found["dead_fraction"] < 1 and found["l0"] > 1
    texts = element_texts("held_out", 6).texts
    assert found["saes"][found["sae"]]["tokens"] == tokens(other[0], texts), "the texts are its documents"
    assert found["baselines"]["resid_pre.0"].keys() == {"probe", "coordinate", "random"}
    assert found["baselines"]["resid_pre.0"]["coordinate"]["min"] > 0.95, "as planted"
    assert found["sae"] == str(other[1][3]) and list(found["saes"]) == [found["sae"]]
    assert "23 of 23 elements" in out and "resid_pre.0" in out
    assert found["saes"][found["sae"]]["disjoint"]["words"]["elements_total"] == 23
    assert "on fewer texts that share no words with those of the search" in out


def test_a_report_takes_all_of_the_organisms_saes_its_default_first_on_documents(command_line, organism_saes, tmp_path):
    organism_saes("resid_post.0/width_24", DEFAULT_SAE)
    options = ("--per-element", 2, "--shuffles", 19, "--documents", 2)
    code, out, _ = command_line("features", "report", *options, "--json", "report.json")
    assert code == 0 and DEFAULT_SAE in out
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["saes"]) == [f"organism/{DEFAULT_SAE}", "organism/resid_post.0/width_24"]
    assert found["sae"] == f"organism/{DEFAULT_SAE}" and len(found["baselines"]) == 2
    measures = found["saes"][found["sae"]]
    assert measures["sae"] == load_sae(sae_id=DEFAULT_SAE).record()
    assert measures["tokens"] == tokens(load_model(), held_out_documents(2))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--sae-id", "resid_post.99/width_1"), "the organism has no SAE 'resid_post.99/width_1'"),
        (("--sae", "."), ".: cannot be loaded as an SAE of sae-lens"),
        (("--max-features", 0), "search for at least one feature"),
        (("--shuffles", 0), "shuffle the labels at least once"),
        (("--per-element", 0), "there are no sites or no texts to capture"),
    ],
)
def test_what_cannot_be_searched_is_one_error(command_line, arguments, problem):
    assert_refused(command_line("features", "discover", *arguments, "--out", "p.json"), problem)


def test_an_sae_of_another_width_than_the_models_is_one_error(command_line, other):
    ended = command_line("features", "report", "--sae", other[1][3], *FEW)
    assert_refused(ended, "reads 48 coordinates and organism has 128; it was trained on small-llama")
