"""How the process treats memory that it has freed."""

from __future__ import annotations

import ctypes
import functools
import logging
import os

logger = logging.getLogger(__name__)

SWITCH = "OPENMM_LES_KEEP_MEMORY"
# Where glibc is told the same from outside, which goes first.
OUTSIDE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
# Parameters of mallopt(3), of glibc.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT = 2**30
"""Bytes"""


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next force call; whether it does so now.

    On a CPU a force call takes tens or hundreds of MB and frees all of them at its end. glibc gives them
    back to the system, and each page of them then faults at the next call: a quarter to a third of its
    time in boxes of 64 to 1000 waters. Kept, the process stays as large as its largest call made it.
    ``OPENMM_LES_KEEP_MEMORY=0`` leaves the C library as it is, as do glibc's own environment variables.
    """
    told = (os.environ.get(name, "") for name in OUTSIDE[:2])
    if os.environ.get(SWITCH, "1") == "0" or any(told) or "malloc" in os.environ.get(OUTSIDE[2], ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function here
        return False
    kept = mallopt(M_TRIM_THRESHOLD, KEPT) == mallopt(M_MMAP_THRESHOLD, KEPT) == 1
    logger.debug("freed memory is kept for the next force call" if kept else "mallopt refused")
    return kept
