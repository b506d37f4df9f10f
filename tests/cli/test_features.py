"""What a user of ``python -m personalib features`` sees: with another model and SAE the same commands do the same."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sae_lens import SAE
from transformers import AutoModelForCausalLM, GPT2Config

from personalib.__main__ import cli, main
from personalib.base.data import data_dir
from personalib.base.provenance import repository_root
from personalib.features.report import HEADLINES
from personalib.features.saes import DEFAULT_SAE, load_sae
from personalib.models.encoding import encode
from personalib.models.load import LanguageModel, load_model
from personalib.models.registry import ORGANISM
from personalib.organism.corpus import held_out_documents
from personalib.organism.tokenizer import load_tokenizer
from personalib.stimuli.factors import elements, load_factors
from personalib.stimuli.paper_files import element_named, load_backgrounds, load_feature_patterns, save_feature_patterns
from personalib.stimuli.sentences import NEUTRAL, element_texts

LABELS = [(each.factor, each.key) for each in elements()]
TITLES = {(each.factor, each.key): (factor.title, each.title) for factor in load_factors() for each in factor.elements}
D_MODEL, WIDTH = 48, 64
FEW = ("--per-element", 6, "--shuffles", 59)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process, in an empty folder; returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["personalib", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


def told_by(tokenizer):
    """For each element the tokens that stand in its texts and in hardly any other."""
    texts, counts = element_texts("train", 10_000), defaultdict(Counter)
    for text, label in zip(texts.texts, texts.labels, strict=True):
        for token in set(tokenizer.encode(text)[1:]):
            counts[token][label] += 1
    found = defaultdict(list)
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
    tokenizer = load_tokenizer(data_dir() / "organism")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=len(tokenizer), n_embd=D_MODEL, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=1)
    ).eval()
    network = SAE.from_dict(
        {
            "architecture": "jumprelu",
            "d_in": D_MODEL,
            "d_sae": WIDTH,
            "metadata": {"hook_name": "blocks.0.hook_resid_pre", "model_name": "small-gpt2"},
        }
    )
    words, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    with torch.no_grad():
        words[:, : len(LABELS)] = 0
        positions[:, : len(LABELS)] = 0
        network.W_enc[: len(LABELS)] = 0
        network.threshold.fill_(0.01)
        for number, label in enumerate(LABELS):
            words[told_by(tokenizer)[label], number] = 2
            network.W_enc[:, 40 + number] = torch.eye(D_MODEL)[number]
            network.threshold[40 + number] = 0.5
        network.threshold[:4] = 100  # dead
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    network.save_model(folder / "sae")
    return LanguageModel(str(folder / "model"), model, tokenizer), (
        "--model",
        folder / "model",
        "--sae",
        folder / "sae",
    )


def done(*arguments):
    """Runs a command that has to succeed, and returns what it prints."""
    found = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture(scope="module")
def searched(other, tmp_path_factory):
    """The pattern file that the search writes for the other model, and what it prints."""
    folder = tmp_path_factory.mktemp("searched")
    out = done("features", "discover", *other[1], *FEW, "--work", folder / "work", "--out", folder / "pattern.json")
    return folder / "pattern.json", out


@pytest.fixture
def pattern(searched):
    return searched[0]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A file with four people and their life stories, and one of whom nothing is told."""
    folder = tmp_path_factory.mktemp("people")
    done("backgrounds", "keywords", "--num", 4, "--seed", 3, "--out", folder / "people.json")
    done("backgrounds", "generated", folder / "people.json", "--out", folder / "told.json")
    nobody = {"idx": 9, "attributes": {"Gender": ""}, "fixed_bg": {}, "generative_bg": "", "note": "kept"}
    entries = json.loads((folder / "told.json").read_text())
    (folder / "told.json").write_text(json.dumps([*entries, nobody]))
    return folder / "told.json"


def tokens(language_model, texts):
    """How many tokens of some texts count."""
    return sum(len(one.places) for one in encode(language_model.tokenizer, texts))


def refused(ended, problem):
    """Whether a call ended with one error and nothing else, not even a traceback."""
    code, _, err = ended
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ") and problem in err.splitlines()[-1]


# Search


def test_another_model_and_sae_are_a_change_of_parameters_only(pattern, other):
    """All elements are found that were planted in a model of another architecture and size, with its own SAE."""
    (found,) = load_feature_patterns(pattern)
    assert (found.layer, found.size) == (0, WIDTH)
    for number, label in enumerate(LABELS):
        assert found.features(*TITLES[label]) == [40 + number]
    assert found.extra["model"]["digest"] == other[0].digest()
    assert found.extra["sae"] == load_sae(str(other[1][3])).record()
    assert found.extra["sae"]["model"] == "small-gpt2" and found.extra["sae"]["architecture"] == "jumprelu"
    assert all(scores["auroc"]["estimate"] > 0.95 for scores in found.extra["scores"])


def test_an_sae_of_the_models_own_entry_needs_no_option(pattern, other, tmp_path):
    entry, place = tmp_path / "mine.yaml", other[1][1].parent
    entry.write_text(f"hub: {place / 'model'}\nsaes: {{release: {place / 'sae'}}}\n")
    done("features", "discover", "--model", entry, *FEW, "--work", tmp_path / "work", "--out", tmp_path / "own.json")
    (first,), (own,) = load_feature_patterns(pattern), load_feature_patterns(tmp_path / "own.json")
    assert own.extra["sae"] == first.extra["sae"]
    assert all(own.features(*TITLES[label]) == first.features(*TITLES[label]) for label in LABELS)


def test_features_are_labelled_by_the_words_that_were_planted(pattern, other):
    tokenizer = other[0].tokenizer
    own = {
        label: {tokenizer.decode([token]).strip().lower() for token in ids} for label, ids in told_by(tokenizer).items()
    }
    for label, scores in zip(LABELS, load_feature_patterns(pattern)[0].extra["scores"], strict=True):
        (feature,) = scores["features"]
        assert feature["threshold"] == pytest.approx(2, abs=0.1)
        assert any(part in word for word in feature["words"] for part in own[label])


def test_the_search_on_the_organism_is_the_same_command(call, tmp_path):
    arguments = (
        "features",
        "discover",
        "--sae-id",
        DEFAULT_SAE,
        "--per-element",
        3,
        "--shuffles",
        19,
        "--out",
        "p.json",
    )
    code, out, _ = call(*arguments)
    assert code == 0 and "p.json: " in out.splitlines()[-1] and "of 23 elements have a feature of AUROC 0.95" in out
    (found,) = load_feature_patterns(tmp_path / "p.json")
    sae = load_sae(sae_id=DEFAULT_SAE)
    assert (found.layer, found.size) == (sae.site.layer, sae.width) and found.extra["sae"] == sae.record()
    assert {(factor, element) for factor, own in found.details.items() for element in own} == set(TITLES.values())
    assert found.extra["model"]["name"] == ORGANISM and found.extra["model"]["digest"] == load_model().digest()
    assert found.extra["search"]["shuffles"] == 19 and found.extra["search"]["pooling"] == "max"


def test_what_is_shown_has_a_line_for_each_element_with_the_words_of_its_feature(searched):
    path, out = searched
    lines = out.splitlines()
    assert len(lines) == 1 + len(LABELS) + 1
    assert lines[-1] == f"{path}: 23 of 23 elements have a feature of AUROC 0.95 or more"
    for number, (label, line) in enumerate(zip(LABELS, lines[1:], strict=False)):
        assert line.split()[0] == label[1] and f"[{40 + number}]" in line
        assert f"({label[1]} 1.00" in line, "the label says what texts it fires in"


def test_the_same_search_writes_the_same_bytes(call, pattern, other, tmp_path):
    assert call("features", "discover", *other[1], *FEW, "--out", "again.json")[0] == 0
    assert (tmp_path / "again.json").read_bytes() == pattern.read_bytes()


def test_the_options_of_a_search_are_used(call, other, tmp_path):
    options = ("--criterion", "f1", "--max-features", 1, "--person", "third", "--pooling", "last", "--seed", 4)
    assert call("features", "discover", *other[1], *FEW, *options, "--out", "p.json")[0] == 0
    (found,) = load_feature_patterns(tmp_path / "p.json")
    search = found.extra["search"]
    assert (search["criterion"], search["max_features"], search["pooling"], search["seed"]) == ("f1", 1, "last", 4)
    texts = element_texts("train", 6, 4, "third").texts
    read = np.load(tmp_path / "results" / "features" / "elements" / "train" / "resid_pre.0.npy")
    assert len(read) == tokens(other[0], texts), "in the place where activations go by default"
    assert all(score["auroc"]["estimate"] < 0.95 for score in found.extra["scores"]), "the last token is a full stop"


# Features of backgrounds


def test_backgrounds_get_the_features_of_their_attributes_and_of_their_stories(call, pattern, people, other, tmp_path):
    code, out, _ = call("features", "convert", pattern, people, *other[1], "--out", "with.json")
    assert code == 0 and out.splitlines()[-1] == (
        "with.json: 5 backgrounds, 4 of them with the features of a life story"
    )
    before, after = load_backgrounds(people), load_backgrounds(tmp_path / "with.json")
    numbers = {TITLES[label]: 40 + number for number, label in enumerate(LABELS)}
    right, read = 0, 0
    for entry, found in zip(before, after, strict=True):
        assert (found.attributes, found.fixed_bg, found.generative_bg, found.extra) == (
            entry.attributes,
            entry.fixed_bg,
            entry.generative_bg,
            entry.extra,
        )
        own = {
            title: [numbers[title, element_named(title, value).title]]
            for title, value in entry.attributes.items()
            if value
        }
        assert found.features["fixed"] == own
        if entry.generative_bg:
            told = found.features["generative"]
            assert {number for each in told.values() for number in each} <= set(numbers.values())
            right, read = right + sum(own.get(title) == each for title, each in told.items()), read + len(told)
    assert after[-1].features == {"fixed": {}, "generative": None} and after[-1].extra == {"note": "kept"}
    assert read > 20 and right > 0.7 * read, "a story has the features of the element that it tells"


def test_backgrounds_without_stories_need_no_model(call, pattern, tmp_path):
    entry = {"idx": 3, "attributes": {"Gender": "female", "Age": ""}, "fixed_bg": {}, "generative_bg": ""}
    (tmp_path / "b.json").write_text(json.dumps([entry]))
    code, out, _ = call("features", "convert", pattern, "b.json", "--model", "/no/such/model", "--out", "c.json")
    assert code == 0 and "c.json: 1 backgrounds, 0 of them with the features of a life story" in out
    number = 40 + LABELS.index(("gender", "female"))
    assert json.loads((tmp_path / "c.json").read_text()) == [
        entry | {"features": {"fixed": {"Gender": [number]}, "generative": None}}
    ]


def test_a_file_with_several_patterns_is_refused(call, pattern, people, tmp_path):
    save_feature_patterns(load_feature_patterns(pattern) * 2, tmp_path / "two.json")
    code, _, err = call("features", "convert", "two.json", people, "--out", "c.json")
    assert code == 2 and "two.json holds 2 patterns; keep the one that is meant" in err
    assert not (tmp_path / "c.json").exists()


def test_a_pattern_of_another_sae_is_one_error(call, pattern, people, other, tmp_path):
    path = tmp_path / "wide.json"
    path.write_text(pattern.read_text().replace(f'"size": {WIDTH}', f'"size": {4 * WIDTH}'))
    ended = call("features", "convert", path, people, *other[1], "--out", "c.json")
    refused(ended, f"the pattern is of an SAE with {4 * WIDTH} features")


# Report


def test_a_report_on_another_model_has_the_headlines_and_the_bounds(call, other, tmp_path):
    code, out, _ = call("features", "report", *other[1], *FEW, "--json", "report.json")
    assert code == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(HEADLINES) == {
        "elements_found",
        "elements_total",
        "auroc",
        "null_auroc",
        "explained_variance",
        "cross_entropy_recovered",
        "dead_fraction",
        "l0",
    }
    assert set(HEADLINES) < set(found)
    assert (found["elements_found"], found["elements_total"]) == (23, 23)
    assert list(found["auroc"]) == list(found["null_auroc"]) == [".".join(label) for label in LABELS]
    # Six sentences of an element: labels shuffled sixty times come close to what was planted, and do not reach it.
    assert min(found["auroc"].values()) > max(0.95, *found["null_auroc"].values())
    assert 0 < found["dead_fraction"] < 1 and found["l0"] > 1
    texts = element_texts("held_out", 6).texts
    assert found["saes"][found["sae"]]["tokens"] == tokens(other[0], texts), "the texts are its documents"
    assert found["baselines"]["resid_pre.0"].keys() == {"probe", "coordinate", "random"}
    assert found["baselines"]["resid_pre.0"]["coordinate"]["min"] > 0.95, "as planted"
    assert found["sae"] == str(other[1][3]) and list(found["saes"]) == [found["sae"]]
    assert "23 of 23 elements" in out and "resid_pre.0" in out


def test_a_report_on_the_organism_measures_its_sae_on_documents(call, tmp_path):
    options = ("--per-element", 3, "--shuffles", 19, "--documents", 2)
    code, out, _ = call("features", "report", "--sae-id", DEFAULT_SAE, *options, "--json", "report.json")
    assert code == 0 and DEFAULT_SAE in out
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(HEADLINES) < set(found) and found["elements_total"] == 23 and found["sae"] == f"organism/{DEFAULT_SAE}"
    sae = load_sae(sae_id=DEFAULT_SAE)
    own = found["saes"][found["sae"]]
    assert list(found["baselines"]) == [str(sae.site)] and own["sae"] == sae.record()
    assert own["tokens"] == tokens(load_model(), held_out_documents(2))
    assert 0 < found["cross_entropy_recovered"] <= 1.5 and 0 < found["explained_variance"] < 1


def test_a_report_takes_all_of_the_organisms_saes_and_its_default_first(call, tmp_path, monkeypatch):
    """With an organism beside which two tiny SAEs lie."""
    folder = tmp_path / "data"
    (folder / "organism" / "saes").mkdir(parents=True)
    for path in data_dir().iterdir():
        if path.name != "organism":
            (folder / path.name).symlink_to(path)
    for path in (data_dir() / "organism").iterdir():
        if path.name != "saes":
            (folder / "organism" / path.name).symlink_to(path)
    for sae_id in ("resid_post.0/width_24", DEFAULT_SAE):
        layer = sae_id.split("/")[0].split(".")[1]
        metadata = {"hook_name": f"blocks.{layer}.hook_resid_post"}
        torch.manual_seed(0)
        made = SAE.from_dict({"architecture": "standard", "d_in": 128, "d_sae": 24, "metadata": metadata})
        made.save_model(folder / "organism" / "saes" / sae_id)
    monkeypatch.setenv("PERSONALIB_DATA", str(folder))
    options = ("--per-element", 2, "--shuffles", 19, "--documents", 1)
    assert call("features", "report", *options, "--json", "report.json")[0] == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["saes"]) == [f"organism/{DEFAULT_SAE}", "organism/resid_post.0/width_24"]
    assert found["sae"] == f"organism/{DEFAULT_SAE}" and len(found["baselines"]) == 2


# What is refused


@pytest.mark.parametrize("command", ["discover", "report"])
def test_an_sae_of_another_width_than_the_models_is_one_error(call, other, command):
    out = ("--out", "p.json") if command == "discover" else ()
    ended = call("features", command, "--sae", other[1][3], *FEW, *out)
    refused(ended, "reads 48 coordinates and organism has 128; it was trained on small-gpt2")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--sae-id", "resid_post.99/width_1"), "the organism has no SAE 'resid_post.99/width_1'"),
        (("--sae", "."), ".: cannot be loaded as an SAE of sae-lens"),
        (("--sae-id", DEFAULT_SAE, "--model", "/no/such/model"), "/no/such/model: cannot be loaded"),
        (("--max-features", 0), "search for at least one feature"),
        (("--shuffles", 0), "shuffle the labels at least once"),
    ],
)
def test_what_cannot_be_searched_is_one_error(call, arguments, problem):
    refused(call("features", "discover", *arguments, "--out", "p.json"), problem)


def test_an_unknown_way_is_refused_before_anything_is_loaded(call):
    for option in ("--criterion", "--pooling", "--person", "--dtype"):
        code, _, err = call("features", "discover", option, "any", "--out", "p.json")
        assert code == 2 and f"Invalid value for '{option}'" in err
    code, _, err = call("features", "discover")
    assert code == 2 and "Missing option '--out'" in err


def test_a_pattern_that_is_none_is_named(call, people, tmp_path):
    (tmp_path / "p.json").write_text('[{"Layer": "two", "size": 3}]')
    refused(call("features", "convert", "p.json", people, "--out", "c.json"), "field 'Layer'")


def test_help_comes_without_loading_a_model():
    """What takes seconds is torch; none of the help texts needs it."""
    code = (
        "import sys\nfrom personalib.__main__ import cli\n"
        "for command in ('discover', 'convert', 'report'):\n"
        "    cli(['features', command, '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=repository_root(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r"^ +--sae-id", ended.stdout, re.MULTILINE)) == 3 and "--shuffles" in ended.stdout
