"""Progress bars on standard error, for terminals and for log files."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, unit: str) -> "tqdm[Any]":
    """A progress bar to update by hand; in a log file it is plain and seldom redrawn.

    The unit is in the singular. A bar stands on the first line that no other has; when it is done, it stays only if
    that was the first below the cursor.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        leave=None,
        file=sys.stderr,
        ascii=None if interactive else True,
        dynamic_ncols=interactive,
        ncols=None if interactive else 120,
        mininterval=0.1 if interactive else 10,
    )
