"""What test modules of evaluations share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from personalib.evaluation.store import AnswerStore


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
