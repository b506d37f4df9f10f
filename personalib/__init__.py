"""Find, steer and measure the directions that carry a language model's personality."""

__version__ = "0.1.0"
