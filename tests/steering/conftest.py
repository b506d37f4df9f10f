"""What test modules of steering share."""

import pytest
from small_models import small


@pytest.fixture
def llama():
    """A small model with random weights that a test may change."""
    return small("llama")
