"""The command that lists models says what is here, and what to type for the rest."""

from functools import partial

from calls import printed
from hub import put

from personalib.models.registry import find_entry, load_registry

told = partial(printed, "models")


def test_every_model_of_the_table_is_listed_with_what_is_here(cache):
    entry = find_entry("gpt2")
    files = {name: name.encode() for name in ("config.json", "tokenizer_config.json", "model.safetensors")}
    put(cache, entry.hub, entry.revision, files)
    lines = {line.split()[0]: line for line in told().splitlines() if line}
    assert set(load_registry()) <= set(lines)
    assert " here " in lines["gpt2"] and "not here" not in lines["gpt2"]
    assert "18.5 GB" in lines["gemma-2-9b-it"] and "not here" in lines["gemma-2-9b-it"]
    assert "yes" in lines["gemma-2b-it"] and "yes" not in lines["qwen-2.5-7b-instruct"]


def test_a_model_that_is_not_here_comes_with_what_to_type(cache):
    text = told("google/gemma-2-9b-it", "gpt2")
    assert "accept the licence on https://huggingface.co/google/gemma-2-9b-it, then run: hf auth login &&" in text
    assert "hf download openai-community/gpt2 --revision 607a30d" in text
    assert "hf download google/gemma-scope-9b-it-res --include 'layer_31/width_131k/average_l0_109/*'" in text
    assert "9,241,705,984" in text and "as plain text" in text


def test_a_stranger_gets_what_can_be_said_of_it(tmp_path):
    text = told(str(tmp_path))
    assert "weights      here" in text and "one is trained when a chapter first needs it" in text


def test_a_model_of_pickles_is_said_to_have_no_safetensors(cache):
    entry = find_entry("gpt2")
    put(cache, entry.hub, entry.revision, {"config.json": b"{}", "pytorch_model.bin": b"x"})
    text = told("gpt2")
    assert "in part; it has no safetensors, only pytorch_model.bin" in text
    assert "hf download openai-community/gpt2" not in text


def test_the_organism_needs_nothing():
    text = told("organism")
    assert "download" not in text and "resid_post.1/width_1024" in text
