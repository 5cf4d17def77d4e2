"""Which documents train and which test: decided by their content, the same for every verb (DESIGN section 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def split_of(text: str) -> Split:
    """90 % train, 5 % dev, 5 % test, by the hash of the text without the blanks around it.

    A text is in the same split wherever it is met again, so nothing trains on what another verb tests on.
    """
    return split_of_bytes(text.strip().encode("utf-8", "surrogatepass"))


def split_of_bytes(data: bytes) -> Split:
    """The same for a stripped text that is UTF-8 already."""
    percent = _hash(data) % 100
    return "train" if percent < 90 else "dev" if percent < 95 else "test"


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"plume split").digest(), "little")


def sample(texts: Iterable[str], characters: int) -> list[str]:
    """An even sample of ``texts`` of at most ``characters`` characters in all, in their order.

    Texts are taken by the hash of their content, so the sample depends neither on their order nor on their
    number, and is drawn in one pass. Everything is kept where everything fits; at least one text is.
    """
    kept: list[tuple[int, str]] = []
    size, threshold = 0, 1 << 64
    for text in texts:
        rank = _hash(b"sample" + text.encode("utf-8", "surrogatepass"))
        if rank >= threshold:
            continue
        kept.append((rank, text))
        size += len(text)
        while size > characters and len(kept) > 1:
            threshold = max(threshold // 2, min(r for r, _ in kept) + 1)
            kept = [(r, t) for r, t in kept if r < threshold]
            before, size = size, sum(len(t) for _, t in kept)
            if size == before and threshold == min(r for r, _ in kept) + 1:
                break
    return [text for _, text in kept]
