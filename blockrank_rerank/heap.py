from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give the system back what glibc keeps of freed memory; other C libraries keep little.

    Between tensors of ever other sizes it would keep as much again as lives at one time (docs/LOG.md).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
