"""An answer is the likeliest word after word, by itself or in a batch, steered or not, up to where it ends."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from small_models import VOCABULARY, letters, small, small_sae, steered_alone, untouched, vector, words
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from personalib.base.records import ItemError
from personalib.models.chat_templates import chat_prompt
from personalib.models.hooks import Shortcuts
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.models.sampling import Sampling
from personalib.steering.generation import _Choice, generate
from personalib.steering.interventions import POSITIONS, Ablate, Add, Clamp

# Of one token, of more than a sliding window, and between, in no order; one of them twice.
PROMPTS = [
    "w3 ",
    "w1 w2 w4 w8 w16 w7 w14 w3 w6 w12 w24 w23 w21 w17 w9 w18 w11 w22 w19 w13 ",
    "",
    "w9 w9 w5 ",
    "w2 w4 w6 w8 w10 w12 w14 w16 w18 w20 ",
    "w3 ",
    "A w1 B ",
]
TOKENS = 12
every_model = pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2"])
CONDITIONS = {
    **{positions: (Add(vector(Site(1), 2), 1.0, positions),) for positions in POSITIONS},
    "several": (
        Add(vector(Site(0, "resid_pre"), 3), 0.5, "last"),
        Ablate(vector(Site(1), 4), 1.0, "all"),
        Clamp(small_sae(Site(1), 5), (3, 17), 2.0, "response"),
        Add(vector(Site(2), 6), -0.5, "prompt_except_last"),
    ),
}


def tiny(name):
    """A model that does not only say its last word again, as one does that writes with the weights it reads with."""
    return small(name, tie_word_embeddings=False)


def loop(language_model, prompt, condition=(), tokens=TOKENS, stops=(0,)):
    """The likeliest token, one after the other, of a prompt by itself and without a cache."""
    ids = language_model.tokenizer.encode(prompt)
    length = len(ids)
    while len(ids) < length + tokens:
        token = int(steered_alone(language_model.model, ids, length, condition)[-1].argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[length:]


def text(ids):
    """Words with a space between them; the first two are no words."""
    return " ".join(VOCABULARY[token] for token in ids if token > 1)


@cache
def expected(name, condition="none"):
    model = tiny(name)
    return [text(loop(model, prompt, CONDITIONS.get(condition, ()))) for prompt in PROMPTS]


# Words


@every_model
@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_an_answer_is_the_likeliest_token_after_token(name, batch_size):
    found = generate(tiny(name), PROMPTS, tokens=TOKENS, batch_size=batch_size)
    assert found == expected(name)
    assert len(set(found)) > 3 and max(len(answer.split()) for answer in found) > 4


@every_model
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_steered_answer_is_that_of_each_prompt_alone_steered_by_hand(name, condition):
    model = tiny(name)
    for batch_size in (1, 3, 64):
        found = generate(model, PROMPTS, CONDITIONS[condition], tokens=TOKENS, batch_size=batch_size)
        assert found == expected(name, condition)
    assert expected(name, condition) != expected(name)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_an_answer_has_so_many_tokens_at_the_most(llama, tokens):
    found = generate(llama, PROMPTS, tokens=tokens)
    assert found == [text(loop(llama, prompt, tokens=tokens)) for prompt in PROMPTS]
    assert max(len(answer.split()) for answer in found) == tokens


# Where an answer ends


def ending(language_model, prompt=PROMPTS[3]):
    """What a model that never ends writes, and a token of it that comes third or later for the first time."""
    written = loop(language_model, prompt, stops=())
    return written, next(token for token in written if written.index(token) > 1 and token > 1)


def renamed(language_model, token, name):
    """The model with another name for one of its tokens."""
    known = [name if place == token else word for place, word in enumerate(VOCABULARY)]
    return replace(language_model, tokenizer=words(known=known))


@every_model
@pytest.mark.parametrize("several", [False, True])
def test_an_answer_ends_where_the_model_ends_it(name, several):
    model = tiny(name)
    written, end = ending(model)
    model.model.generation_config.eos_token_id = [0, end] if several else end
    stops = (0, end) if several else (end,)
    found = generate(model, PROMPTS, tokens=TOKENS)
    assert found == [text(loop(model, prompt, stops=stops)) for prompt in PROMPTS]
    assert found[3] == text(written[: written.index(end)]) and len(found[3].split()) < TOKENS


def test_an_answer_ends_at_the_end_of_the_tokenizer(llama):
    written, end = ending(llama)
    llama.tokenizer.eos_token = VOCABULARY[end]
    [found] = generate(llama, PROMPTS[3:4], tokens=TOKENS)
    assert found == text(written[: written.index(end)])


@pytest.mark.parametrize("mark", ["<end_of_turn>", "<|im_end|>", "<|eot_id|>"])
@pytest.mark.parametrize("one_line", [True, False])
def test_an_answer_ends_with_its_turn(llama, mark, one_line):
    written, end = ending(llama)
    model = renamed(llama, end, mark)
    found = generate(model, PROMPTS, tokens=TOKENS, one_line=one_line)
    assert found == [text(loop(model, prompt, stops=(0, end))) for prompt in PROMPTS]
    assert found[3] == text(written[: written.index(end)]) and mark not in " ".join(found)


def test_an_answer_of_one_line_ends_with_its_line(llama):
    written, end = ending(llama)
    model = renamed(llama, end, "\n")
    until = written[: written.index(end)]
    model.model.generation_config.eos_token_id = None
    seen = passes(model.model)
    assert generate(model, PROMPTS[3:4], tokens=TOKENS) == [text(until)]
    # The prompt, and each token of the answer; the end is written and not read.
    assert len(seen) == 1 + len(until)
    [whole] = generate(model, PROMPTS[3:4], tokens=TOKENS, one_line=False)
    assert whole == " ".join("\n" if token == end else text([token]) for token in written if token > 1).strip()
    assert whole.startswith(f"{text(until)} \n") and len(seen) == 1 + len(until) + TOKENS


def passes(model):
    """Collects how many tokens each pass reads."""
    seen = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _, args, named: seen.append((args[0] if args else named["hidden_states"]).shape[1]), with_kwargs=True
    )
    # What is tried of a new model is no pass of an answer.
    Shortcuts.of(model)
    seen.clear()
    return seen


def test_a_line_that_ends_within_a_token_is_cut_there(llama):
    written, end = ending(llama)
    model = renamed(llama, end, "here\nthere")
    until = text(written[: written.index(end)])
    assert generate(model, PROMPTS[3:4], tokens=TOKENS) == [f"{until} here"]
    [whole] = generate(model, PROMPTS[3:4], tokens=TOKENS, one_line=False)
    assert whole.startswith(f"{until} here\nthere")


def test_a_row_that_has_ended_changes_nothing_of_the_others(llama):
    """Those that go on are filled up with padding, whatever token that is."""
    written, end = ending(llama)
    llama.model.generation_config.eos_token_id = end
    llama.tokenizer.pad_token = None
    found = generate(llama, PROMPTS, tokens=TOKENS)
    assert found == [text(loop(llama, prompt, stops=(end,))) for prompt in PROMPTS]
    assert len({len(answer.split()) for answer in found}) > 1 and len(found[3].split()) < len(written)


# What it does to the model, and what is refused


def test_the_model_is_left_as_it_was(llama):
    before = llama.digest()
    llama.model.train()
    generate(llama, PROMPTS, CONDITIONS["several"], tokens=3)
    assert llama.model.training and untouched(llama.model) and llama.digest() == before
    assert generate(llama, PROMPTS, tokens=TOKENS) == expected("llama")


def test_dropout_is_off_while_a_model_answers():
    model = small("gpt2", tie_word_embeddings=False, resid_pdrop=0.5, embd_pdrop=0.5)
    model.model.train()
    assert generate(model, PROMPTS, tokens=TOKENS) == expected("gpt2")
    assert model.model.training


@pytest.mark.parametrize(("choices", "named"), [({"tokens": 0}, "tokens=0"), ({"batch_size": 0}, "batch_size=0")])
def test_at_least_one_token_and_prompt_are_run(llama, choices, named):
    with pytest.raises(ValueError, match=f"{named}.*; take at least one of each"):
        generate(llama, PROMPTS, **choices)


def test_a_progress_bar_has_the_text_that_it_is_given(llama, capsys):
    generate(llama, PROMPTS, tokens=2)
    assert capsys.readouterr() == ("", "")
    generate(llama, PROMPTS, tokens=2, batch_size=3, progress="Open answers")
    shown = capsys.readouterr().err
    assert "Open answers" in shown and f"{len(PROMPTS)}/{len(PROMPTS)}" in shown


# Something that would change what is written, for each field of a configuration that has a say in it.
SETTINGS = {
    **{"do_sample": True, "temperature": 3.0, "top_k": 1, "top_p": 0.1, "typical_p": 0.1, "min_p": 0.9, "num_beams": 3},
    **{"repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0, "length_penalty": 9.0},
    **{"sequence_bias": [[[7], 50.0]], "bad_words_ids": [[7], [8], [9]], "suppress_tokens": list(range(3, 20))},
    **{"begin_suppress_tokens": list(range(3, 25)), "forced_bos_token_id": 9, "forced_eos_token_id": 0},
    **{"min_length": 40, "min_new_tokens": 12, "max_length": 3, "max_new_tokens": 2, "max_time": 0.0},
    **{"guidance_scale": 4.0, "penalty_alpha": 0.6, "dola_layers": "low", "prompt_lookup_num_tokens": 2},
    **{"cache_implementation": "static", "use_cache": False, "prefill_chunk_size": 2, "num_return_sequences": 2},
    **{"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "stop_strings": ["w"]},
    **{"epsilon_cutoff": 0.9, "eta_cutoff": 0.9, "exponential_decay_length_penalty": (1, 99.0), "top_h": 0.01},
    **{"watermarking_config": {"bias": 50.0}, "remove_invalid_values": True, "renormalize_logits": True},
    **{"pad_token_id": 9, "bos_token_id": 9, "decoder_start_token_id": 9, "early_stopping": True},
}


def test_a_models_own_configuration_of_generating_does_not_count():
    """No field of it is there while the model writes."""
    model = tiny("llama")
    for name, value in SETTINGS.items():
        setattr(model.model.generation_config, name, value)
    before, seen = model.model.generation_config, []
    # Before it is listened to, since what is tried of a new model runs with its own configuration.
    Shortcuts.of(model.model)
    model.model.register_forward_pre_hook(lambda model, _: seen.append(model.generation_config.to_dict()))
    assert generate(model, PROMPTS, CONDITIONS["several"], tokens=TOKENS) == expected("llama", "several")
    sampled = Sampling(temperature=1.0, seed=1)
    assert generate(model, PROMPTS, tokens=TOKENS, sampling=sampled) == drawn("llama", sampled)
    assert model.model.generation_config is before and len(seen) > 2
    assert all(each == GenerationConfig().to_dict() for each in seen)


# Samples


def draw(language_model, prompt, sampling, sample, condition=(), tokens=TOKENS):
    """A sampled answer to a prompt by itself, without a cache, with a random number a token."""
    ids = language_model.tokenizer.encode(prompt)
    length, stream = len(ids), sampling.stream(ids, sample)
    while len(ids) < length + tokens:
        logits = steered_alone(language_model.model, ids, length, condition)[-1:].double() / sampling.temperature
        logits -= sampling.frequency_penalty * torch.bincount(torch.tensor(ids), minlength=logits.shape[1])
        left, chosen = stream.random(), -1
        while left >= 0:
            chosen += 1
            left -= float(logits.softmax(-1)[0, chosen])
        if chosen == 0:
            break
        ids.append(chosen)
    return text(ids[length:])


@cache
def drawn(name, sampling, condition="none"):
    model, steered = tiny(name), CONDITIONS.get(condition, ())
    return [draw(model, one, sampling, number, steered) for one in PROMPTS for number in range(sampling.samples)]


SAMPLED = Sampling(temperature=1.3, frequency_penalty=0.4, seed=3, samples=2)


@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2", "qwen2", "falcon"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_sampled_answer_is_drawn_by_hand_at_any_batch_size(name, batch_size):
    found = generate(tiny(name), PROMPTS, tokens=TOKENS, sampling=SAMPLED, batch_size=batch_size)
    assert found == drawn(name, SAMPLED)
    assert len(set(found)) > 8 and found[::2] != found[1::2] and found[:2] == found[10:12]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_sampled_answer_is_steered(llama, condition):
    found = generate(tiny("llama"), PROMPTS, CONDITIONS[condition], tokens=TOKENS, sampling=SAMPLED, batch_size=4)
    assert found == drawn("llama", SAMPLED, condition) != drawn("llama", SAMPLED)


def test_neither_order_nor_company_changes_a_sample():
    whole = drawn("llama", SAMPLED)
    order = [4, 2, 6, 0]
    found = generate(tiny("llama"), [PROMPTS[place] for place in order], tokens=TOKENS, sampling=SAMPLED, batch_size=3)
    assert found == [whole[2 * place + sample] for place in order for sample in (0, 1)]
    more = generate(tiny("llama"), PROMPTS, tokens=TOKENS, sampling=SAMPLED.model_copy(update={"samples": 4}))
    assert [more[4 * place + sample] for place in range(len(PROMPTS)) for sample in (0, 1)] == whole


def test_another_seed_draws_another_answer_and_no_state_outside_counts():
    model, before = tiny("llama"), torch.random.get_rng_state()
    texts = [generate(model, PROMPTS, tokens=TOKENS, sampling=Sampling(temperature=1.0, seed=seed)) for seed in (0, 1)]
    torch.manual_seed(9)
    assert texts[0] != texts[1]
    assert generate(model, PROMPTS, tokens=TOKENS, sampling=Sampling(temperature=1.0)) == texts[0]
    torch.random.set_rng_state(before)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    model, count = tiny("llama"), 4000
    sampling = Sampling(temperature=0.8, seed=5, samples=count)
    found = generate(model, PROMPTS[3:4], tokens=1, sampling=sampling, batch_size=1000)
    logits = steered_alone(model.model, model.tokenizer.encode(PROMPTS[3]), 4, ())[-1].double()
    for token, chance in enumerate((logits / 0.8).softmax(-1).tolist()):
        if token > 2:
            share = found.count(VOCABULARY[token]) / count
            assert abs(share - chance) < 4.5 * (chance * (1 - chance) / count) ** 0.5 + 1e-9


def test_a_token_of_padding_that_the_model_does_not_embed_is_not_read():
    """What stands after an answer that has ended in a batch."""
    model = tiny("llama")
    wanted = generate(model, PROMPTS, tokens=TOKENS)
    longest = max(wanted, key=lambda text: len(text.split()))
    model.model.generation_config.eos_token_id = VOCABULARY.index(longest.split()[2])
    ended = generate(model, PROMPTS, tokens=TOKENS)
    assert len({len(text.split()) for text in ended}) > 1
    model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert model.tokenizer.pad_token_id >= model.model.get_input_embeddings().num_embeddings
    assert generate(model, PROMPTS, tokens=TOKENS) == ended


def test_tokens_are_counted_for_a_penalty_alone(monkeypatch):
    monkeypatch.setattr(_Choice, "_seen", lambda *_: pytest.fail("tokens were counted"))
    assert generate(tiny("llama"), PROMPTS, tokens=2, sampling=Sampling(temperature=1.0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, samples=2)], ids=str)
def test_a_model_that_overflows_by_itself_is_refused_and_under_a_push_left_unanswered(sampling, value):
    model, count = tiny("llama"), len(PROMPTS) * sampling.samples
    model.model.lm_head.weight.data.fill_(value)
    with pytest.raises(ItemError, match=r"text \d of 7 .*LlamaForCausalLM gives is NaN or infinite; .*float32"):
        generate(model, PROMPTS, sampling=sampling)
    with pytest.warns(UserWarning, match=f"llama: {count} of {count} answers are left empty.* float32; push less"):
        assert generate(model, PROMPTS, CONDITIONS["all"], sampling=sampling, tokens=2) == [""] * count


def test_an_answer_that_ends_before_it_overflows_is_kept():
    """The push is on the answer's tokens, of which the first is chosen before any is read."""
    model, prompts = tiny("llama"), [PROMPTS[0], PROMPTS[4]]
    condition = [Add(vector(Site(1)), 3e38, "response")]
    first = generate(model, prompts, tokens=1)
    assert generate(model, prompts, condition, tokens=1) == first and "" not in first and len(set(first)) == 2
    with pytest.warns(UserWarning, match="llama: 2 of 2 answers are left empty"):
        assert generate(model, prompts, condition, tokens=3) == ["", ""]
    model.model.generation_config.eos_token_id = VOCABULARY.index(first[0])
    with pytest.warns(UserWarning, match="llama: 1 of 2 answers are left empty"):
        assert generate(model, prompts, condition, tokens=3) == ["", ""]


def test_a_prompt_without_a_token_is_refused():
    bare = replace(tiny("llama"), tokenizer=words(bos=False))
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        generate(bare, ["w3 ", ""], tokens=2)


# Reasoning


def reasoner():
    """A model that answers every request with a thought of two lines, and then with a word."""
    tokenizer, generator = letters(), torch.Generator().manual_seed(0)
    written = ["<|assistant|>", "<think>", "Ċ", "O", "k", "</think>", "Y", "e", "!", "<eos>"]
    chain = tokenizer.convert_tokens_to_ids(written)
    shape = {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    with torch.no_grad():
        for one in model.model.layers.parameters():
            one.zero_()
        known = torch.nn.functional.normalize(torch.randn(len(tokenizer), 64, generator=generator))
        model.model.embed_tokens.weight.copy_(known)
        model.lm_head.weight.zero_()
        for before, after in pairwise(chain):
            model.lm_head.weight[after] += known[before]
    return LanguageModel("reasoner", model.eval(), tokenizer)


def test_reasoning_comes_off_an_answer_and_is_never_an_answer_by_itself():
    model = reasoner()
    prompt = chat_prompt(model.tokenizer, "Is it so?")
    assert generate(model, [prompt], tokens=12) == ["Ye!"]
    with pytest.warns(UserWarning, match=r"reasoner: 2 of 2 answers are reasoning that does not end in 4 tokens"):
        assert generate(model, [prompt, prompt], tokens=4) == ["", ""]
