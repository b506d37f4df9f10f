"""Progress bars on standard error, for terminals and for log files."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, unit: str, position: int = 0) -> "tqdm[Any]":
    """A progress bar to update by hand; in a log file it is plain and seldom redrawn.

    The unit is in the singular; a bar whose position is not the first line below the cursor goes away when it is done.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        position=position,
        leave=position == 0,
        file=sys.stderr,
        ascii=None if interactive else True,
        dynamic_ncols=interactive,
        ncols=None if interactive else 120,
        mininterval=0.1 if interactive else 10,
    )
