"""What test modules of evaluations share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from personalib.evaluation.store import AnswerStore
from personalib.evaluation.study import Study
from personalib.models.load import LanguageModel
from personalib.models.parts import Site
from personalib.questionnaires.items import load_trait, some_of_each, validation_split
from personalib.questionnaires.questions import Questionnaire, trait_questionnaire
from personalib.stimuli.contrast_pairs import contrasts


@pytest.fixture(scope="session")
def few() -> Questionnaire:
    """One item of each trait, to choose by."""
    return trait_questionnaire(some_of_each(validation_split(load_trait())[0], 1))


@pytest.fixture(scope="session")
def study(organism: LanguageModel, few: Questionnaire, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two pressures, read at two sites, and the items to choose by."""
    pressures = [one for one in contrasts("pressures") if one.key in ("trust", "activity")]
    how = {"sites": [Site(1), Site(3)], "pairs": 16, "seed": 2}
    return Study.read(organism, pressures, few, tmp_path_factory.mktemp("study"), **how)


@pytest.fixture
def stopped_after() -> Callable[[int], AbstractContextManager[None]]:
    """While this is open, a run stops, as if it were killed, when it has kept so many batches."""

    @contextmanager
    def stopped(count: int) -> Iterator[None]:
        written, add = [], AnswerStore.add

        def stop(self, replies):
            if len(written) == count:
                raise KeyboardInterrupt
            written.append(1)
            add(self, replies)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AnswerStore, "add", stop)
            with pytest.raises(KeyboardInterrupt):
                yield

    return stopped
