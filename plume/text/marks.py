"""What one byte a token says: which units begin at that token. And what a span of tokens is called."""

from __future__ import annotations

from typing import Literal

WORD, PHRASE, ENTITY, SENTENCE = 1, 2, 4, 8
PART = 16  # the first token of a further column: where the target of a pair of texts begins

Grain = Literal["token", "word", "phrase", "entity"]

FLAGS: dict[Grain, int] = {"word": WORD, "phrase": PHRASE, "entity": ENTITY}
