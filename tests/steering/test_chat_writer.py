"""A chat model on this machine writes as an endpoint does."""

from dataclasses import replace

import pytest
import torch

from personalib.base.storage import Journal
from personalib.models.load import load_model
from personalib.models.prompts import encode_prompts, format_prompt
from personalib.steering.chat_writer import ChatWriter
from personalib.stimuli.assignments import LifeStory
from personalib.stimuli.backgrounds import draw_backgrounds
from personalib.stimuli.grammar_writer import GrammarWriter
from personalib.stimuli.writers import Unusable, WriterError, write_all

STORY = LifeStory()


@pytest.fixture(scope="module")
def learned(learned_folder):
    return load_model(str(learned_folder))


def test_a_model_that_knows_the_stories_writes_them(learned, learned_people, tmp_path):
    writer = ChatWriter(learned, temperature=0.0)
    written = write_all(STORY, learned_people, writer, Journal(tmp_path / "j.jsonl"), attempts=1)
    for one, before in zip(written, learned_people, strict=True):
        assert one.generated == STORY.text(GrammarWriter().write(STORY, before, 0, []))


def test_what_a_model_says_instead_is_kept(learned):
    """A request that it never saw: whatever comes is no draft, and is kept for reading."""
    stranger = draw_backgrounds(40, seed=77)[30]
    with pytest.raises(Unusable) as error:
        ChatWriter(learned, temperature=0.0, max_tokens=30).write(STORY, stranger, 0, ["it was dull"])
    assert error.value.written and "cut off after 30 tokens" in str(error.value)


def test_what_it_writes_ends_with_the_models_context(learned, monkeypatch):
    stranger = draw_backgrounds(40, seed=77)[30]
    request = format_prompt(learned.tokenizer, STORY.request(stranger, ["it was dull"]))
    [row] = encode_prompts(learned.tokenizer, [request])
    monkeypatch.setattr(learned.model.config, "max_position_embeddings", len(row) + 11)
    with pytest.raises(Unusable, match="cut off after 12 tokens"):
        ChatWriter(learned, temperature=0.0).write(STORY, stranger, 0, ["it was dull"])


def test_seed_and_attempt_decide_what_is_sampled_and_the_state_outside_stays(learned, learned_people):
    def sample(seed, attempt):
        writer = ChatWriter(learned, seed, temperature=2.0, max_tokens=40)
        with pytest.raises(Unusable) as error:
            writer.write(STORY, learned_people[0], attempt, [])
        return error.value.written

    before = torch.random.get_rng_state()
    assert sample(0, 0) == sample(0, 0)
    assert len({sample(0, 0), sample(0, 1), sample(1, 0)}) > 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_without_a_chat_template_is_refused(learned, learned_people, monkeypatch):
    monkeypatch.setattr(learned.tokenizer, "chat_template", None)
    with pytest.raises(WriterError, match="has no chat template; choose a model made for chats"):
        ChatWriter(learned).write(STORY, learned_people[0], 0, [])


def test_the_identity_names_what_decides(learned):
    identity = ChatWriter(learned, 3, 0.5).identity
    assert identity == f"{learned.name}@{learned.digest()}, temperature 0.5, seed 3"
    with torch.no_grad():
        weights = next(learned.model.parameters())
        before = weights.clone()
        weights[0, 0] += 1
        assert ChatWriter(learned, 3, 0.5).identity != identity, "other weights are another writer"
        weights.copy_(before)
    assert ChatWriter(replace(learned, revision="abc"), 3, 0.5).identity.startswith(f"{learned.name}@abc, ")
