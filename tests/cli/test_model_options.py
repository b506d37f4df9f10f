"""A command that takes a model takes it in the same words as all others."""

import click
import pytest
import torch
from click.testing import CliRunner

from personalib.__main__ import cli
from personalib.base.data import DataError
from personalib.cli.model_options import Finite, model_options, named_model
from personalib.models.load import load_model

NAMES = ["model", "revision", "device", "dtype", "form"]


@click.command()
@model_options
def shown(**given):
    click.echo(str(given))


def test_the_organism_is_named_by_default():
    found = CliRunner().invoke(shown)
    expected = {"model": "organism", "revision": None, "device": "auto", "dtype": None, "form": None}
    assert found.output.strip() == str(expected)


@pytest.mark.parametrize(
    "command", [("contrast", "fit"), ("contrast", "choose"), ("steering", "ask"), ("steering", "report")]
)
def test_commands_have_the_options_in_their_order(command):
    group, name = command
    options = [one.name for one in cli.commands[group].commands[name].params]
    assert [one for one in options if one in NAMES] == NAMES


def test_the_named_model_is_loaded_in_its_number_format():
    loaded = named_model("organism", None, "cpu", "bfloat16")
    assert loaded.name == "organism" and str(loaded.model.dtype) == "torch.bfloat16"


def test_a_model_is_loaded_as_the_table_or_its_weights_say(copied_organism):
    assert str(named_model("organism", None, "auto", None).model.dtype) == "torch.float32"
    folder = copied_organism("half")
    load_model(folder, dtype=torch.bfloat16).model.save_pretrained(folder)
    loaded = named_model(folder, None, "auto", None)
    assert str(loaded.model.dtype) == "torch.bfloat16"
    assert loaded.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_model_that_does_not_exist_is_one_error():
    with pytest.raises(DataError, match="/no/such/model: cannot be loaded"):
        named_model("/no/such/model", None, "cpu", "float32")


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


def test_no_option_of_a_command_takes_a_number_that_is_not_finite():
    def options(command):
        for below in getattr(command, "commands", {}).values():
            yield from options(below)
        yield from command.params

    numbers = [one for one in options(cli) if isinstance(one.type, click.types.FloatParamType | click.FloatRange)]
    assert numbers and all(isinstance(one.type, Finite) for one in numbers)
