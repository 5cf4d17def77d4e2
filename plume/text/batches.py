"""Batches of documents, read by a thread while the batch before is encoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from plume.text.files import SourceFile
from plume.text.readers import Document, Rejected, read_file
from plume.text.splits import SPLITS, split_of_bytes

Array = np.ndarray[Any, np.dtype[Any]]

_BATCH = 2 * 2**20  # bytes of text encoded at a time


class Batch(NamedTuple):
    """What the reading thread hands over. After the batch, ``rows`` rows of file ``file`` are done."""

    texts: list[str]  # [D * columns], a document's columns one after the other
    splits: Array  # [D], numbers of SPLITS
    sizes: Array  # [D], bytes
    rejected: list[Rejected]
    file: int
    rows: int
    share: float


def batches(
    sources: list[SourceFile], column: str, more: Sequence[str], first: int, skip: int
) -> Iterator[Batch]:
    """Documents in batches of about two megabytes, from row ``skip`` of file ``first`` on.

    The first column alone decides a document's split: a text with two translations is in one split.
    """
    texts: list[str] = []
    splits: list[int] = []
    sizes: list[int] = []
    rejected: list[Rejected] = []
    held = 0
    whole = [source.path.stat().st_size for source in sources]
    everything = max(sum(whole), 1)
    numbers = {split: n for n, split in enumerate(SPLITS)}
    for file in range(first, len(sources)):
        rows = 0
        share = sum(whole[:file]) / everything
        for item in read_file(sources[file], text_column=column, more=more):
            rows += 1
            if file == first and rows <= skip:
                continue
            if isinstance(item, Document):
                data, stripped = item.text.encode(), item.text.strip()
                size = len(data) + sum(len(text.encode()) for text in item.more)
                texts += (item.text, *item.more)
                sizes.append(size)
                whole_text = len(stripped) == len(item.text)
                splits.append(numbers[split_of_bytes(data if whole_text else stripped.encode())])
                held += size
            else:
                rejected.append(item)
                held += 64
            if held >= _BATCH:
                yield Batch(texts, np.array(splits), np.array(sizes), rejected, file, rows, share)
                texts, splits, sizes, rejected, held = [], [], [], [], 0
    yield Batch(texts, np.array(splits, int), np.array(sizes, int), rejected, len(sources), 0, 1.0)


def ahead(source: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, read by a thread while the last ones are encoded."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(2)
    over = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not over.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def run() -> None:
        try:
            for batch in source:
                put(batch)
                if over.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=run, name="reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
        thread.join()
