"""The library's readers of files, each with valid files to begin from and with what is done with what was read."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fuzz import Reader, _as_data

from personalib.base.data import DataError, data_dir, read_json, read_yaml

REPEATED = 6  # rows of a file to begin from are enough


def readers(folder: Path) -> list[Reader]:
    """All readers; the files that they begin from are made in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = (read for kind in (_plans, _items, _papers, _vectors, _runs) for read in kind(folder))
    return [*_plain(), *_stimuli(), *made]


def _plain() -> list[Reader]:
    data = data_dir()
    yaml_files = (data / "stimuli" / "templates.yaml", data / "grids" / "organism.yaml")
    json_files = (data / "organism" / "steering.json", data / "benchmarks" / "chapters.json")
    return [Reader("YAML", yaml_files, read_yaml), Reader("JSON", json_files, read_json)]


def _plans(folder: Path) -> list[Reader]:
    from personalib.book.named_inputs import named_inputs
    from personalib.book.sweeps import load_sweep
    from personalib.evaluation.plan import load_plan
    from personalib.features.training import load_recipe as load_sae_recipe
    from personalib.features.training import own_recipe
    from personalib.models.registry import find_entry, load_registry
    from personalib.organism.training import load_recipe
    from personalib.organism.world import Profile, load_world
    from personalib.paper.protocol import load_protocol

    data = data_dir()
    grids, sweeps = tuple((data / "grids").glob("*.yaml")), tuple((data / "sweeps").glob("*.yaml"))
    entry, prompts = folder / "entry.yaml", folder / "prompts.yaml"
    entry.write_text(
        "hub: google/gemma-2-2b\ntitle: Mine\nparameters: 3\ndtype: bfloat16\ncoefficients: [1.5]\n"
        "saes: {release: x, ids: [a]}\nparts: {blocks: model.layers, norm: model.norm}\ndevice_map: {a: 0, b: cpu}\n"
    )
    prompts.write_text(
        "templates:\n  own: {labels: [A, B], option: '{label}. {text}', text: '{question}\\n{options}'}\n"
        "contrasts:\n  trust: {positive: [Trust them.], negative: [Doubt them.]}\n"
        "questions: [Who?, What?, Why?, How?]\n"
    )
    return [
        Reader("plan", grids, lambda path: [load_plan(path), named_inputs({"plan": str(path)})]),
        Reader("protocol", tuple((data / "protocols").glob("*.yaml")), load_protocol),
        Reader("prompts of a protocol", (prompts,), _prompts),
        Reader("sweep", sweeps, lambda path: [point.name for point in load_sweep(path).points]),
        Reader("entry of a model", (entry,), lambda path: find_entry(str(path)).fetching()),
        Reader("table of models", (data / "models.yaml",), _as_data("models.yaml", lambda: load_registry())),
        Reader("recipe of the organism", (data / "organism" / "training.yaml",), load_recipe),
        Reader("recipe of SAEs", (data / "organism" / "saes.yaml",), load_sae_recipe),
        Reader("recipe of own SAEs", (data / "own_saes.yaml",), _as_data("own_saes.yaml", own_recipe)),
        Reader("world", (data / "organism" / "world.yaml",), lambda path: load_world(path).probability(Profile())),
    ]


def _prompts(path: Path) -> object:
    from personalib.paper.protocol import load_protocol
    from personalib.stimuli.contrast_files import supplied_contrasts, supplied_questions
    from personalib.stimuli.templates import load_templates

    for kept in (supplied_contrasts, supplied_questions, load_templates):
        kept.cache_clear()
    found = load_protocol("paper", path)
    return [one.render("Who?", ["I", "You"]) for one in load_templates(path).values() if len(one.labels) > 1] + [found]


def _stimuli() -> list[Reader]:
    from personalib.questionnaires import kinds
    from personalib.stimuli import assignments, contrast_pairs, factors, grammar, grammar_writer, templates
    from personalib.stimuli.backgrounds import load_constraints

    folder = data_dir() / "stimuli"
    own = (folder / "templates.yaml",)

    def told(read: Any, tell: Callable[[Any], object]) -> Callable[[Path], object]:
        return lambda path: [tell(one) for one in read.__wrapped__(path).values()]

    def judged(one: kinds.JudgementTemplate) -> str:
        return one.text.format(question="", answer="", knowledge="")

    def rated(one: kinds.Rating) -> tuple[str, str]:
        return one.text.format(statement=""), one.opening.format(statement="")

    def forms() -> list[str]:
        return [form.format(context="", text="") for form in templates.load_forms().values()]

    def inside(name: str, read: Callable[[], object]) -> Reader:
        return Reader(name, (folder / name,), _as_data(f"stimuli/{name}", read))

    return [
        Reader("templates", own, told(templates.load_templates, lambda one: one.render("Who?", ["I"]))),
        Reader("judgement templates", own, told(kinds.load_judgement_templates, judged)),
        Reader("ratings", own, told(kinds.load_ratings, rated)),
        Reader("word pairs", (folder / "word_pairs.yaml",), kinds.load_word_pairs.__wrapped__),
        Reader("openings", (folder / "word_pairs.yaml",), kinds.load_openings.__wrapped__),
        inside("templates.yaml", forms),
        inside("backgrounds.yaml", factors.load_factors),
        inside("pressures.yaml", factors.load_pressures),
        inside("facets.yaml", factors.load_facets),
        inside("carriers.yaml", contrast_pairs.load_carriers),
        inside("constraints.yaml", load_constraints),
        inside("stories.yaml", grammar_writer.load_stories),
        inside("assignments.yaml", assignments.load_giveaways),
        inside("wordings.yaml", grammar.load_wordings),
        inside("traits_big_five.yaml", grammar.load_traits),
        inside("traits_dark_triad.yaml", lambda: [grammar.load_traits(), grammar.load_queries()]),
        inside("asides.yaml", grammar.load_asides),
        inside("safety.yaml", grammar.load_safety_topics),
        inside("facts.yaml", grammar.load_relations),
    ]


def _items(folder: Path) -> list[Reader]:
    from personalib.questionnaires.items import load_facts, load_safety, load_trait
    from personalib.questionnaires.kinds import judgement_questions, load_judgements, load_scale, scale_questions

    def read(name: str) -> list[dict[str, Any]]:
        lines = (data_dir() / "items" / name).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[:REPEATED]]

    judged = [{"id": n, "question": f"Is {n}?", "right_answer": "Yes", "hallucinated_answer": "No"} for n in range(4)]

    def scale(path: Path) -> object:
        return scale_questions(load_scale(path))

    def judgements(path: Path) -> object:
        return judgement_questions(load_judgements(path))

    kinds = {"trait": load_trait, "safety": load_safety, "facts": load_facts, "scale": scale}
    banks = [Reader(kind, _written(folder, kind, read(f"{kind}.jsonl")), load) for kind, load in kinds.items()]
    return [*banks, Reader("judgements", _written(folder, "judged", judged), judgements)]


def _written(folder: Path, name: str, rows: list[dict[str, Any]]) -> tuple[Path, ...]:
    """Rows in each kind of file."""
    import pandas as pd

    paths = tuple(folder / f"{name}.{kind}" for kind in ("jsonl", "json", "csv", "parquet"))
    paths[0].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    paths[1].write_text(json.dumps(rows), encoding="utf-8")
    pd.DataFrame(
        [{key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in row.items()} for row in rows]
    ).to_csv(paths[2], index=False)
    pd.DataFrame(rows).to_parquet(paths[3])
    return paths


def _papers(folder: Path) -> list[Reader]:
    from personalib.features.patterns import _features
    from personalib.stimuli.backgrounds import draw_backgrounds
    from personalib.stimuli.paper_files import (
        load_backgrounds,
        load_feature_patterns,
        publish,
        save_backgrounds,
        with_fixed_text,
    )

    people, pattern = folder / "people.json", folder / "pattern.json"
    save_backgrounds([publish(one) for one in draw_backgrounds(4, 0)], people)
    scores = [{"factor": "Gender", "element": "Female", "features": [{"index": 3, "threshold": 0.5}]}]
    content = {"Layer": 1, "size": 64, "Details": {"Gender": {"Female": {"women": 3}}}, "scores": scores}
    pattern.write_text(json.dumps([content | {"search": {"pooling": "max"}, "sae": {"digest": "x"}}]))

    def told(path: Path) -> object:
        found = load_backgrounds(path)
        for one in found:
            one.background().paragraph()
        # What is told has to have a keyword, which is refused here, too.
        return [with_fixed_text(one, "third") for one in found]

    return [
        Reader("backgrounds", (people,), told),
        Reader("feature patterns", (pattern,), lambda path: [_features(one) for one in load_feature_patterns(path)]),
    ]


def _vectors(folder: Path) -> list[Reader]:
    from personalib.evaluation.choice import load_push
    from personalib.features.saes import load_sae
    from personalib.models.parts import Site
    from personalib.vectors.files import read_directions, write_directions
    from personalib.vectors.vector import SteeringVector, load_vectors, save_vectors

    vectors = [SteeringVector(torch.ones(8), Site(n), "v", "mean", "m", "r") for n in (1, 2)]
    own, gguf, pickled = (folder / f"v.{kind}" for kind in ("safetensors", "gguf", "pt"))
    save_vectors(vectors, own)
    write_directions(vectors, gguf, "gguf")
    torch.save({"layer_activations": {1: torch.ones(8)}, "layer_type": "decoder_block"}, pickled)
    [sae, *_] = (data_dir() / "organism" / "saes").glob("*/*")

    def with_config(path: Path) -> object:
        place = folder / "sae"
        place.mkdir(exist_ok=True)
        (place / "cfg.json").write_bytes(path.read_bytes())
        if not (place / "sae_weights.safetensors").exists():
            (place / "sae_weights.safetensors").symlink_to(sae / "sae_weights.safetensors")
        return load_sae(str(place)).record()

    return [
        Reader("steering vectors", (own,), load_vectors),
        Reader("directions", (own, gguf, pickled), read_directions),
        Reader("push", (data_dir() / "organism" / "steering.json",), load_push),
        Reader("SAE", (sae / "cfg.json",), with_config),
    ]


def _runs(folder: Path) -> list[Reader]:
    import numpy as np
    import pandas as pd

    from personalib.base.checkpoints import load_checkpoint
    from personalib.base.provenance import file_hash, repository_root
    from personalib.base.storage import Journal
    from personalib.book.chapters import Chapter, RunError
    from personalib.book.parameters import Parameter, ParameterError
    from personalib.evaluation.ask import NEUTRAL
    from personalib.evaluation.runs import read_run
    from personalib.features.training import Dictionary, SaeTraining, load_recipe
    from personalib.models.loaded import read_loaded
    from personalib.models.parts import Site
    from personalib.vectors.forms import concept_names, trained_on

    notebooks = tuple(sorted((repository_root() / "notebooks").glob("0[0-2]*.ipynb")))
    journal, config, concepts, manifest = (
        folder / name for name in ("journal.jsonl", "config.json", "concepts.jsonl", "manifest.json")
    )
    journal.write_text('{"key": "a", "draft": {"a": 1}}\n{"key": "b", "problems": []}\n')
    config.write_text('{"layer": 3, "model_name": "google/gemma-2-2b"}')
    concepts.write_text('{"concept_id": 0, "concept": "a"}\n{"concept_id": 1, "concept": "b"}\n')
    answers = folder / "answers.parquet"
    pd.DataFrame({"questionnaire": ["a"], "kind": ["trait"], "arm": [0]}).to_parquet(answers)
    about = {
        "plan": {"questionnaires": [{"name": "a", "kind": "trait"}]},
        "outputs": {f"{name}.parquet": file_hash(answers) for name in ("a", NEUTRAL)},
        "model": {"name": "m"},
        "left_out": {"a": [{"where": "row 2", "problem": "is empty"}]},
    }
    manifest.write_text(json.dumps(about))

    refused = DataError, ParameterError
    values = {"float | None": "-0.5", "list[float]": "[0.5, -3]", "dict[str, list[int]]": '{"a": [1, 2], "b": []}'}
    for number, text in enumerate(values.values()):
        (folder / f"value_{number}.json").write_text(text)

    def given(kind: str, path: Path) -> object:
        """Read a value as the command line has it."""
        return Parameter("a", kind, None).parse(os.fsdecode(path.read_bytes()))

    def written(path: Path) -> object:
        opened = Journal(path)
        opened.close()
        return opened.entries

    def run(path: Path) -> object:
        (path.parent / "run").mkdir(exist_ok=True)
        (path.parent / "run" / "manifest.json").write_bytes(path.read_bytes())
        for name in ("a", NEUTRAL):
            shutil.copy(answers, path.parent / "run" / f"{name}.parquet")
        return read_run(path.parent / "run").left_out

    made = SaeTraining(
        replace(load_recipe(data_dir() / "organism" / "saes.yaml"), samples=64, batch=8),
        Dictionary(Site(0), 4, 1),
        np.random.default_rng(0).normal(size=(32, 4)),
        folder / "sae_training",
        "m",
    )
    made.run()

    return [
        Reader(
            "notebook", notebooks, lambda path: Chapter.read(path).parameters, (DataError, RunError, ParameterError)
        ),
        *(
            Reader(f"value of {kind}", (folder / f"value_{number}.json",), partial(given, kind), refused)
            for number, kind in enumerate(values)
        ),
        Reader("journal", (journal,), written),
        Reader("loaded", (journal,), read_loaded),
        Reader("configuration of AxBench", (config,), trained_on),
        Reader("concepts of AxBench", (concepts,), concept_names),
        Reader("manifest of a run", (manifest,), run),
        Reader(
            "checkpoint", (made.folder / "checkpoint.safetensors",), lambda path: load_checkpoint(path, made._restore)
        ),
    ]
