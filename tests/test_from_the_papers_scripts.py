"""Every command on the page about the paper's scripts runs, and every option of theirs is on it."""

import re
import shlex

import pandas as pd
import pytest
from click.testing import CliRunner

from personalib.__main__ import cli
from personalib.base.provenance import repository_root

PAGE = (repository_root() / "book" / "from_the_papers_scripts.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|yaml)\n(.*?)```", PAGE, flags=re.DOTALL)
SAE = ("model_name", "sae_name", "sae_id", "tokenizer_name", "layer", "coeff", "bg_type", "steer_file_path")
SAMPLED = ("temperature", "freq_penalty", "seed")
# The options of each script of the release.
OPTIONS = {
    "processing_keywords.py": ("json_file", "num"),
    "processing_bg.py": ("json_file", "bg_type"),
    "convert_to_features.py": ("save_path", "background", "pattern_path", "layer"),
    "sae_run.py": (*SAE, *SAMPLED, "steer_mode", "save_dir_path", "testset", "prompt_type", "inference_type"),
    "safety_sae_run.py": (*SAE, *SAMPLED, "save_dir_path", "zero_shot"),
    "safety_eval.py": (*SAE, *SAMPLED, "eva_set"),
    "hallu_sae_run.py": (*SAE, *SAMPLED, "save_dir_path"),
    "bias_sae_run.py": (*SAE, "save_dir_path", "file_path", "steer_mode", "inference_type", "seed"),
    "RepE/run.py": (
        *("model_name", "model_name_short", "inference_type", "prompt_type", "save_interval", "paraphrase"),
        "task_name",
    ),
    "Steering.py": (),
    "analysis.py": ("save_path", "model_name", "prompt_type", "bg_features"),
    "RepE/analysis.py": ("model_name", "prompt_type", "task_name"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all commands of the page were run, one after the other."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, text in BLOCKS:
            if language == "yaml":
                name = re.match(r"# (\S+\.yaml)\n", text)
                (folder / name[1]).write_text(text, encoding="utf-8")
                continue
            for line in text.splitlines():
                program, arguments = shlex.split(line)[:3], shlex.split(line)[3:]
                assert program == ["python", "-m", "personalib"]
                done = CliRunner().invoke(cli, arguments)
                assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return folder


def test_every_command_runs_and_writes_what_it_says(folder):
    for name in ("background.json", "told.json", "stories.json", "patterns.json", "people.json"):
        assert (folder / name).stat().st_size
    assert (folder / "vectors" / "grandiosity.safetensors").is_file()
    for name in ("trait", "words", "bias", "pressure"):
        assert (folder / name / "plan.yaml").is_file()
    assert (folder / "trait" / "report" / "organism" / "trait_effects_published.csv").is_file()


@pytest.mark.parametrize(
    ("name", "samples", "about"),
    [
        ("safety", 1, "temperature 0.2, frequency penalty 1, seed 16"),
        ("safety_five_shot", 2, "temperature 0.2, frequency penalty 1, samples 2, seed 16"),
        ("hallucination", 1, "temperature 0.2, frequency penalty 1, seed 16"),
    ],
)
def test_answers_in_words_are_sampled_and_the_report_says_so(folder, name, samples, about):
    read = pd.read_csv(folder / "words" / "report" / "organism" / f"{name}_reading.csv")
    assert set(read["sampling"]) == {about} and len(read) == 2
    answers = pd.read_parquet(folder / "words" / "organism" / f"{name}.parquet")
    assert set(answers["sample"]) == set(range(samples)) and answers["text"].notna().all()


@pytest.mark.parametrize("script", OPTIONS)
def test_every_option_of_a_script_is_on_the_page(script):
    assert f"`{script}`" in PAGE
    assert not [one for one in OPTIONS[script] if f"`--{one}" not in PAGE]
