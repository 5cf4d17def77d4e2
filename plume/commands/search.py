"""``plume search``: the documents that answer a query, by counting words."""

from __future__ import annotations

import hashlib
import json as library
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from plume.commands.words import Json, Paths, TextColumn, note, paths_of, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.models.vectors import Index

Method = Literal["bm25", "tfidf"]
ROUND = 60  # characters of a snippet on each side of what was found


@dataclass(frozen=True)
class Found:
    """A document: where it stands ("file:line"), how well it answers, and the place in it."""

    id: str
    score: float
    snippet: str


def search(
    data: Paths,
    query: str,
    *,
    top: int = 10,
    method: Method = "bm25",
    out: str | Path | None = None,
    text_column: str = "text",
) -> list[Found]:
    """The ``top`` documents of ``data`` for ``query``, the best first; none where no word of it occurs.

    The index is made once and kept in ``out`` (default: beside the data); other data makes it anew.

    Raises:
        UserError: there is no text, or the index cannot be kept.
    """
    from plume.text.terms import analyzer

    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    if not query.strip():
        raise UserError("the query is empty: say what to look for")
    if method not in ("bm25", "tfidf"):
        raise UserError(f"there is no method {method!r}: choose bm25 or tfidf")
    terms = analyzer()(query)
    if not terms:
        raise UserError(f"there is no word in the query {query!r}, only symbols: say what to look for")
    files = paths_of(data)
    first = files[0].resolve()
    folder = Path(out) if out is not None else first.parent / f".{first.name}.plume-index"
    index = _index(files, folder / method, method, text_column)
    found = index.search(terms, top)
    return [Found(*_shown(folder / method, number, score, terms)) for number, score in found]


def _index(files: Sequence[Path], folder: Path, method: Method, column: str) -> Index:
    import numpy as np

    from plume.models.vectors import BM25, Bags, Index, TfIdf
    from plume.text.files import find
    from plume.text.readers import read
    from plume.text.terms import coded

    stamp = [[str(s.path.resolve()), s.path.stat().st_size, s.path.stat().st_mtime_ns] for s in find(files)]
    key = hashlib.sha256(library.dumps([stamp, method, column]).encode()).hexdigest()
    card = folder / "made_of.json"
    if card.is_file() and card.read_text(encoding="utf-8") == key:
        return Index.load(folder)
    note("making the index")
    ids, ends = [], [0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        card.unlink(missing_ok=True)
        with (folder / "texts.bin").open("wb") as texts:

            def documents() -> Iterator[str]:
                for document in read(files, text_column=column):
                    raw = document.text.encode("utf-8", "replace")
                    texts.write(raw)
                    ids.append(document.id)
                    ends.append(ends[-1] + len(raw))
                    yield document.text

            try:
                bags = Bags.of_codes(*coded(documents()))
            except ValueError:
                raise UserError(
                    f"{', '.join(map(str, files))}: there is no document with a word in it"
                ) from None
        index = Index.of(bags, BM25() if method == "bm25" else TfIdf())
        index.save(folder)
        np.save(folder / "ends.npy", np.array(ends, np.int64))
        (folder / "ids.json").write_text(library.dumps(ids, ensure_ascii=False), encoding="utf-8")
        card.write_text(key, encoding="utf-8")  # last, so that half an index is none
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): give --out FOLDER for the index"
        ) from None
    return index


def _shown(folder: Path, number: int, score: float, terms: Sequence[str]) -> tuple[str, float, str]:
    import numpy as np

    ends = np.load(folder / "ends.npy", mmap_mode="r")
    with (folder / "texts.bin").open("rb") as file:
        file.seek(int(ends[number]))
        text = file.read(int(ends[number + 1] - ends[number])).decode("utf-8", "replace")
    ids = library.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return ids[number], score, snippet(text, terms)


def _asked(query: str) -> list[str]:
    from plume.text.terms import analyzer

    return list(dict.fromkeys(analyzer()(query)))


def snippet(text: str, terms: Sequence[str]) -> str:
    """The place of ``text`` that has most of the ``terms``, each between asterisks.

    >>> snippet("A cat, and a dog.", ["dog"])
    'A cat, and a *dog*.'
    """
    words = sorted(set(terms), key=len, reverse=True)
    marked = [f"(?<!\\w){re.escape(w)}(?!\\w)" if w.isascii() else re.escape(w) for w in words]
    pattern = re.compile("|".join(marked) or "$^", re.IGNORECASE)
    places = [m.start() for m in pattern.finditer(text)]
    best = max(places, key=lambda p: sum(p <= q < p + ROUND for q in places), default=0)
    first, last = max(0, best - ROUND), min(len(text), best + 2 * ROUND)
    shown = pattern.sub(lambda m: f"*{m.group()}*", text[first:last])
    shown = " ".join(shown.split())
    return f"{'…' if first else ''}{shown}{'…' if last < len(text) else ''}"


def command(
    data: Annotated[Path, Parameter(name="DATA")],
    query: Annotated[str, Parameter(name="QUERY")],
    /,
    *,
    top: int = 10,
    method: Method = "bm25",
    out: Path | None = None,
    text_column: TextColumn = "text",
    json: Json = False,
) -> None:
    """Find the documents that answer a query, in English and Chinese, by the words they share with it.

    Parameters
    ----------
    data
        A file or a folder of text.
    query
        What is looked for.
    top
        So many documents at most.
    method
        bm25, or tfidf: the cosine of TF-IDF vectors.
    out
        Folder for the index, which is made once (default: beside the data).
    """
    found = search(data, query, top=top, method=method, out=out, text_column=text_column)
    rows = [{"id": f.id, "score": f.score, "snippet": f.snippet} for f in found]
    lines = [f"{f.score:8.3f}  {f.id}  {f.snippet}" for f in found] or [
        f"no document can match: not one word of the query ({', '.join(_asked(query))}) occurs in {data}"
    ]
    tell({"query": query, "method": method, "found": rows}, "\n".join(lines), as_json=json)
