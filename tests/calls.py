"""What tests of commands share: calls that have to succeed, and calls that have to be refused."""

import re

from click.testing import CliRunner

from personalib.__main__ import cli


def printed(*arguments: object) -> str:
    """What a command prints that has to succeed."""
    found = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def assert_refused(ended: tuple[int, str, str], problem: str) -> None:
    """A call ended with one error and no result; a progress bar may have been shown, and no traceback."""
    code, out, err = ended
    assert code == 2 and not out and "Traceback" not in err
    assert re.search(f"^[Ee]rror: .*{re.escape(problem)}", err, re.MULTILINE), err
    assert re.match("[Ee]rror: ", err.splitlines()[-1]), err
