"""The next token is drawn from what TransformerLens would draw from, with random numbers of each sample's own."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformer_lens.utilities import logits_utils

from personalib.models.sampling import GREEDY, Sampling

ROWS = torch.tensor([[3, 3, 0, 5, 3, 1], [2, 2, 2, 2, 2, 2]])


def theirs(monkeypatch, logits, **options):
    """What TransformerLens hands to its random draw, as probabilities."""
    seen = []
    real = torch.distributions.categorical.Categorical

    def categorical(logits):
        seen.append(real(logits=logits).probs)
        return real(logits=logits)

    monkeypatch.setattr(torch.distributions.categorical, "Categorical", categorical)
    logits_utils.sample_logits(logits.clone(), tokens=ROWS, **options)
    return seen[0]


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.01])
def test_probabilities_are_those_of_transformer_lens(monkeypatch, temperature, penalty, top_p):
    logits = 3 * torch.randn(2, 40, generator=torch.Generator().manual_seed(5))
    counts = torch.stack([torch.bincount(row, minlength=40) for row in ROWS])
    sampling = Sampling(temperature=temperature, frequency_penalty=penalty, top_p=top_p)
    found = sampling.probabilities(logits, counts)
    expected = theirs(monkeypatch, logits, temperature=temperature, freq_penalty=penalty, top_p=top_p)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-6)
    assert ((found > 0) == (expected > 0)).all()


def test_a_penalty_counts_each_time_and_comes_after_the_temperature():
    found = Sampling(temperature=0.5, frequency_penalty=2.0).probabilities(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[3, 0]])
    )
    assert math.log(found[0, 1] / found[0, 0]) == pytest.approx(6.0)


def test_random_numbers_hang_on_seed_prompt_and_sample_alone():
    def numbers(seed, tokens, sample):
        stream = Sampling(temperature=1.0, seed=seed).stream(tokens, sample)
        return tuple(stream.random(4))

    assert numbers(1, [2, 3], 0) == numbers(1, [2, 3], 0)
    others = [numbers(2, [2, 3], 0), numbers(1, [23], 0), numbers(1, [2, 3], 1), numbers(1, [3, 2], 0)]
    assert len({numbers(1, [2, 3], 0), *others}) == 5


@pytest.mark.parametrize("name", ["temperature", "top_p", "frequency_penalty", "seed", "samples"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, True, "1", None])
def test_what_is_no_number_in_range_is_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        Sampling(**{"temperature": 1.0, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_p", 0.0), ("top_p", 1.1), ("samples", 0), ("samples", 1.5), ("seed", 0.5), ("freq_penalty", 1.0)],
)
def test_what_is_beyond_the_borders_or_misspelt_is_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        Sampling(temperature=1.0, **{name: value})


def test_a_temperature_that_is_almost_zero_is_refused():
    with pytest.raises(ValidationError, match="temperature 1e-07 is below 1e-06; take 0 for the likeliest token"):
        Sampling(temperature=1e-7)
    assert Sampling(temperature=1e-6).probabilities(torch.tensor([[1e38, 0.0]])).isfinite().all()


@pytest.mark.parametrize("what", [{"top_p": 0.5}, {"frequency_penalty": 1.0}, {"samples": 2}])
def test_what_does_nothing_without_a_temperature_is_refused(what):
    with pytest.raises(ValidationError, match="do nothing at temperature 0; set a temperature"):
        Sampling(**what)
    assert Sampling(temperature=0.1, **what)


def test_it_says_what_it_is():
    assert str(GREEDY) == str(Sampling(seed=3)) == "greedy" and GREEDY.greedy
    assert str(Sampling(temperature=1)) == "temperature 1, seed 0"
    whole = Sampling(temperature=0.2, top_p=0.9, frequency_penalty=0.5, samples=3, seed=16)
    assert str(whole) == "temperature 0.2, top-p 0.9, frequency penalty 0.5, samples 3, seed 16"
