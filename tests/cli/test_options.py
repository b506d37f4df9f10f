"""Options mean the same in all commands, and help comes at once."""

import resource
import subprocess
import sys

import click
import pytest
import torch
from calls import assert_refused
from click.testing import CliRunner

from personalib.__main__ import cli
from personalib.base.data import DataError
from personalib.base.provenance import repository_root
from personalib.cli import options
from personalib.cli.options import Finite, Source
from personalib.models.load import load_model


@click.command()
@options.model
def shown(**given):
    click.echo(str(given))


def test_the_organism_is_named_by_default():
    found = CliRunner().invoke(shown)
    expected = {"form": None, "source": Source("organism", None, "auto", None)}
    assert found.output.strip() == str(expected)


def test_the_named_model_is_loaded_in_its_number_format():
    loaded = Source("organism", None, "cpu", "bfloat16").load()
    assert loaded.name == "organism" and str(loaded.model.dtype) == "torch.bfloat16"


def test_a_model_is_loaded_as_the_table_or_its_weights_say(copied_organism):
    assert str(Source("organism", None, "auto", None).load().model.dtype) == "torch.float32"
    folder = copied_organism("half")
    load_model(folder, dtype=torch.bfloat16).model.save_pretrained(folder)
    loaded = Source(folder, None, "auto", None).load()
    assert str(loaded.model.dtype) == "torch.bfloat16"
    assert loaded.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_model_that_does_not_exist_is_one_error():
    with pytest.raises(DataError, match="/no/such/model: cannot be loaded"):
        Source("/no/such/model", None, "cpu", "float32").load()


@pytest.mark.parametrize(
    ("text", "problem"), [("nan", "nan is not a finite number"), ("inf", "inf is not"), ("2", "range")]
)
def test_a_number_of_an_option_is_finite_and_in_its_range(text, problem):
    @click.command()
    @click.option("--size", type=Finite(max=1e400 if text != "2" else 1))
    def sized(size):
        click.echo(size)

    assert CliRunner().invoke(sized, ["--size", "0.5"]).output == "0.5\n"
    done = CliRunner().invoke(sized, ["--size", text])
    assert done.exit_code == 2 and problem in done.output


def commands(group=cli, path=()):
    """All commands with the words that call them."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_no_option_of_a_command_takes_a_number_that_is_not_finite():
    every = [option for _, command in commands() for option in command.params]
    numbers = [one for one in every if isinstance(one.type, click.types.FloatParamType | click.FloatRange)]
    assert numbers and all(isinstance(one.type, Finite) for one in numbers)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        *(
            (call, "Missing option '--out'")
            for call in (("contrast", "choose"), ("contrast", "fit"), ("features", "discover"))
        ),
        (("contrast", "choose", "--out", "no/a.json"), "there is no folder no; make it first"),
        (("contrast", "report", "--json", "no/a.json"), "there is no folder no; make it first"),
        (("steering", "report", "--table", "no/a.csv"), "there is no folder no; make it first"),
        (("backgrounds", "keywords", "--out", "no/a.json"), "there is no folder no; make it first"),
        (("contrast", "report", "--shuffles", 0), "Invalid value for '--shuffles'"),
        (("steering", "ask", "What?"), "Missing option '--vector'"),
        *(
            (("contrast", "fit", option, "any"), f"Invalid value for '{option}'")
            for option in ("--family", "--position", "--form", "--method", "--dtype")
        ),
        *(
            (("features", "discover", option, "any"), f"Invalid value for '{option}'")
            for option in ("--criterion", "--pooling", "--person")
        ),
    ],
)
def test_what_is_wrong_is_noticed_before_anything_is_loaded(command_line, tmp_path, call, problem):
    assert_refused(command_line(*call, "--model", "/no/such/model"), problem)
    assert not [*tmp_path.iterdir()]


def test_help_comes_at_once_and_for_every_command_without_torch():
    """What takes seconds is torch, papermill or scikit-learn; no help text needs them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "personalib", "--help"]
    listed = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, check=True).stdout
    # seconds of the processor, which others that it works for do not change; about half a one
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2
    assert all(f"\n  {name} " in listed for name in cli.commands)
    paths = [path for path, _ in commands()]
    code = (
        "import sys\nfrom personalib.__main__ import cli\n"
        f"for path in {paths}:\n    cli([*path, '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'papermill', 'sklearn'} & set(sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=repository_root(), capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("Usage: ") == len(paths) > 25 and "--shuffles" in told.stdout
