"""A folder takes another's place in one step, so that no reader meets half of either."""

from __future__ import annotations

import ctypes
import os

from pipelines.storage.files import into_folder

_HERE = -100  # AT_FDCWD: paths as they are.
_EXCHANGE = 2  # RENAME_EXCHANGE, of Linux's renameat2(2).


def exchange_folders(prepared: str, folder: str) -> None:
    """Put `prepared` in the place of `folder`, and what was there in the place of `prepared`.

    One step where the system can exchange names, or there is no such folder yet. Elsewhere two:
    in between there is none, and a process killed there leaves it so. Raises OSError.
    """
    if not os.path.isdir(folder):
        into_folder(folder, lambda path: os.rename(prepared, path))
        return
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        renameat2 = None
    if renameat2 is not None:
        names = (os.fsencode(prepared), os.fsencode(folder))
        if renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0:
            return
    aside = f"{prepared}.old"
    os.rename(folder, aside)
    os.rename(prepared, folder)
    os.rename(aside, prepared)
