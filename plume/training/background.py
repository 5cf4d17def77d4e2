"""Threads beside the training: what prepares batches, what writes checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch


def beside(work: Callable[[], None], name: str, *, daemon: bool = False) -> threading.Thread:
    """Start ``work`` in a thread of its own, which does all that it asks of torch by itself.

    Every thread that computes in parallel has helpers of its own, for good. With more of them than cores OpenMP no
    longer lets the training's helpers wait for the next kernel awake, and to wake them cost a seventh to a third of
    a step (2 cores, libgomp, 4 layers of 256), however little the other thread had to do.
    """
    threads = torch.get_num_threads()
    began = threading.Event()

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first look takes over what was set last, which is another number soon
        began.set()
        work()

    thread = threading.Thread(target=alone, name=name, daemon=daemon)
    thread.start()
    began.wait()
    torch.set_num_threads(threads)  # the first call also said how many every later thread may use
    return thread
