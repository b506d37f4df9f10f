"""The example that the README opens with runs as it stands, and prints what stands below it."""

import re

import numpy as np

from personalib.base.provenance import repository_root

README = (repository_root() / "README.md").read_text()


def numbers(text):
    return np.array([float(one) for one in re.findall(r"-?\d+\.\d+", text)])


def test_the_example_prints_what_is_told_of_it(capsys):
    example, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    exec(compile(example, "README.md", "exec"), {})
    found = capsys.readouterr().out
    assert len(example.splitlines()) <= 25
    assert re.findall("[a-z]+", found) == re.findall("[a-z]+", printed)
    # Other machines round otherwise, and the last digit that is shown may be another one.
    assert np.abs(numbers(found) - numbers(printed)).max() < 0.3
    told = re.search(
        r"move by (\d+) points.*length moves them by (\d+).*saying\* it moves them by (\d+)", README
    ).groups()
    assert np.abs(np.array(told, dtype=float) - np.abs(numbers(found).reshape(3, -1)[:, 0])).max() < 0.8
