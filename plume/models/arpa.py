"""ARPA files, the exchange format of n-gram models: written as ``lmplz`` writes them, read from any tool (spec 01).

Base-10 logarithms; words are what stands between blanks, so that a token with a blank in it cannot be written.
A name that ends in .gz is compressed.
"""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from plume.errors import UserError
from plume.models.ngrams import NGrams, Order, packed

Ints = NDArray[Any]
Floats = NDArray[np.float64]
BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NOTHING = -99.0  # what tools write for a probability of zero


def write(model: NGrams, words: Sequence[str], path: str | Path) -> None:
    """Write ``model``; ``words[id]`` is what each id is called, ``</s>`` for its ``eos``.

    Ids that cannot occur are left out.

    Raises:
        UserError: a word is empty, doubled or has a blank in it, or the model is none that ARPA can hold.
    """
    if model.straight and model.order > 2:
        raise UserError(
            "an ARPA file's orders fall back to the order below, this model's to the unigram (the lecture notes' "
            "formulas): export one of order 2, or of ngram:laplace"
        )
    path = Path(path)
    can = model.unigram > 0
    if model.eos is not None:
        can[model.eos] = True
    _check_words([words[i] for i in np.flatnonzero(can).tolist()])
    aside = path.with_name(f".part.{path.name}")  # its ending says whether it is compressed
    with _opened(aside, "w") as file:
        sizes = (int(can.sum()) + 1 + (model.eos is None), *map(len, model.orders))
        file.write("\\data\\\n" + "".join(f"ngram {k}={n}\n" for k, n in enumerate(sizes, 1)))
        names = np.array([*words, BEGIN], object)
        grams = np.append(np.flatnonzero(can), [] if model.eos is None else [model.vocab_size]).astype(
            np.int64
        )
        prob = np.append(model.unigram, 1.0)
        text = names
        for k in range(1, model.order + 1):
            weight = _weights(model, k)
            file.write(f"\n\\{k}-grams:\n")
            rows = grams if k == 1 else range(len(text))
            logs, backs = _log10(prob), None if weight is None else _log10(weight)
            for i in rows:
                back = "" if backs is None else f"\t{backs[i]:.7g}"
                file.write(f"{logs[i]:.7g}\t{text[i]}{back}\n")
            if k == 1 and model.eos is None:  # other tools want to see one
                file.write(f"{NOTHING:g}\t{END}\n")
            if k < model.order:
                text, prob = _next(model, k, text, names, prob)
        file.write("\n\\end\\\n")
    aside.replace(path)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if not word or re.search(r"[\0\t\n\r ]", word):
            raise UserError(
                f"the token {word!r} cannot stand in an ARPA file, whose words have no blanks: use a tokenizer of "
                f"words or characters"
            )
    if len(set(words)) < len(words):
        raise UserError("two tokens are written alike, which an ARPA file cannot tell apart")


def _log10(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        found: Floats = np.maximum(np.log10(values), NOTHING)
    return np.minimum(found, 0.0) + 0.0


def _weights(model: NGrams, k: int) -> Floats | None:
    """The back-off weight of each k-gram; None for the highest order, which is no context."""
    if k == model.order:
        return None
    order = model.orders[k - 1]
    weights: Floats = order.table[order.code, 1]
    return weights


def _next(model: NGrams, k: int, text: Any, names: Any, prob: Floats) -> tuple[Any, Floats]:
    """Text and probability of each (k+1)-gram."""
    order = model.orders[k - 1]
    contexts = np.repeat(np.arange(len(order.start) - 1), np.diff(order.start))
    joined = text[contexts] + " " + names[order.token] if len(order) else np.zeros(0, object)
    if len(order.listed):
        return joined, np.power(10.0, order.listed.astype(np.float64))
    seen = order.counts(slice(0, len(order)))
    total, weight = order.table[order.code[contexts]].T
    share = (seen - order.discount[np.minimum(seen, 3)]) / total
    return joined, share + weight * prob[_suffixes(model, k + 1)]


def _suffixes(model: NGrams, k: int) -> Ints:
    """Where each k-gram lies in the order below without its first token."""
    from plume.models import ngram_kernels as kernels

    suffix = np.arange(model.vocab_size + 1)
    for number, order in enumerate(model.orders[: k - 1]):
        token = order.token.astype(np.int64)
        if number == 0:
            suffix = token
            continue
        contexts = np.repeat(np.arange(len(order.start) - 1), np.diff(order.start))
        below = model.orders[number - 1]
        suffix = kernels.follow(below.start, below.token.astype(np.int64), suffix[contexts], token)
    return suffix


@dataclass(frozen=True)
class Arpa:
    """What an ARPA file says: its words in order (without ``<s>``) and, an order each, the n-grams as word numbers
    [N_k, k] (``<s>`` is ``len(words)``), log10 p and log10 of the back-off weight [N_k]."""

    words: tuple[str, ...]
    grams: tuple[Ints, ...]
    log_probs: tuple[Floats, ...]
    backs: tuple[Floats, ...]

    def model(self, ids: Mapping[str, int], vocab_size: int, eos: int) -> NGrams:
        """The model over a vocabulary in which each word has an id; ids that are no words cannot occur.

        Raises:
            UserError: an n-gram's context is missing.
        """
        number = np.array([*(ids[word] for word in self.words), vocab_size])
        unigram = np.zeros(vocab_size)
        back = np.zeros(vocab_size + 1)
        first = number[self.grams[0][:, 0]]
        back[first] = self.backs[0]
        real = first < vocab_size
        unigram[first[real]] = _power(self.log_probs[0][real])
        contexts = np.arange(vocab_size + 1)
        orders: list[Order] = []
        for grams, log_probs, own in zip(self.grams[1:], self.log_probs[1:], self.backs[1:], strict=True):
            named = number[grams]
            context = _contexts(named[:, :-1], orders, contexts, vocab_size, self.words, grams)
            key = context * vocab_size + named[:, -1]
            by_key = np.argsort(key, kind="stable")
            key = key[by_key]
            if (key[1:] == key[:-1]).any():
                raise UserError(f"an n-gram of order {named.shape[1]} stands in the ARPA file twice")
            start = np.searchsorted(key, np.arange(len(back) + 1) * vocab_size)
            orders.append(packed(start, key % vocab_size, vocab_size, total=np.ones(len(back)),
                                 weight=_power(back), listed=log_probs[by_key]))  # fmt: skip
            back = own[by_key]
        return NGrams(vocab_size, eos, unigram, tuple(orders), None)


def _power(logs: Floats) -> Floats:
    found: Floats = np.power(10.0, logs)
    return found


def _contexts(
    named: Ints, orders: Sequence[Order], first: Ints, size: int, words: Sequence[str], grams: Ints
) -> Ints:
    from plume.models import ngram_kernels as kernels

    at = first[named[:, 0]]
    for order, column in zip(orders, named.T[1:], strict=True):
        at = kernels.follow(order.start, order.token.astype(np.int64), at, np.ascontiguousarray(column))
    if (lost := np.flatnonzero(at < 0)).size:
        gram = " ".join([*words, BEGIN][i] for i in grams[lost[0]])
        raise UserError(
            f"the ARPA file has the n-gram {gram!r}, but not its first {named.shape[1]} words: the file is not whole"
        )
    return at


def read(path: str | Path) -> Arpa:
    """Read an ARPA file. Missing back-off weights are 0; a missing ``<unk>`` gets log10 p = -100, with a warning;
    positive logarithms become 0, with a warning.

    Raises:
        UserError: the file cannot be read; the sentence names the line.
    """
    path = Path(path)
    try:
        with _opened(path, "r") as file:
            return _Reader(path, file).read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}), so it is no ARPA file") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an ARPA file ({error})") from None


class _Reader:
    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self.number = path, 0
        self._lines = self._counted(file)
        self._warned = False

    def _counted(self, file: IO[str]) -> Iterator[str]:
        for line in file:
            self.number += 1
            yield line.strip(" \t\r\n")

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.path}, line {self.number}: {what}")

    def line(self, expected: str) -> str:
        found = next(self._lines, None)
        if found is None:
            raise UserError(f"{self.path} ends after line {self.number}, before {expected}: it is not whole")
        return found

    def read(self) -> Arpa:
        line = self.line("\\data\\")
        while not line or line.startswith("#"):
            line = self.line("\\data\\")
        if line != "\\data\\":
            raise self.fail(f"an ARPA file begins with \\data\\, not with {line[:40]!r}")
        sizes: list[int] = []
        while line := self.line("the blank line after the counts"):
            found = re.fullmatch(r"ngram (\d+)\s*=\s*(\d+)", line)
            if found is None or int(found[1]) != len(sizes) + 1:
                raise self.fail(
                    f"expected 'ngram {len(sizes) + 1}=COUNT' or a blank line, found {line[:40]!r}"
                )
            sizes.append(int(found[2]))
        if not sizes or not sizes[0]:
            raise self.fail("the file announces no 1-grams")
        numbers: dict[str, int] = {}
        orders = []
        for k, size in enumerate(sizes, 1):
            while not (line := self.line(f"\\{k}-grams:")):
                pass
            if line != f"\\{k}-grams:":
                raise self.fail(f"expected \\{k}-grams:, found {line[:40]!r}")
            orders.append(self._order(k, size, numbers, last=k == len(sizes)))
        while not (line := self.line("\\end\\")):
            pass
        if line != "\\end\\":
            raise self.fail(f"expected \\end\\, found {line[:40]!r}; are there more n-grams than announced?")
        if any(self._lines):
            raise self.fail("there is text after \\end\\")
        return self._finish(numbers, orders)

    def _order(
        self, k: int, size: int, numbers: dict[str, int], *, last: bool
    ) -> tuple[list[int], list[float], list[float]]:
        grams: list[int] = []
        logs: list[float] = []
        backs: list[float] = []
        for done in range(size):
            line = self.line(f"all {size:,} n-grams of order {k} are there ({done:,} were found)")
            parts = re.split("[ \t]+", line)
            if not len(parts) - 1 <= k + 1 or len(parts) <= k:
                raise self.fail(
                    f"expected n-gram {done + 1:,} of the {size:,} of order {k} (a logarithm, {k} words and perhaps "
                    f"a back-off weight), found {line[:60]!r}"
                )
            words = parts[1 : k + 1]
            try:
                log, back = float(parts[0]), float(parts[k + 1]) if len(parts) > k + 1 else 0.0
            except ValueError:
                raise self.fail(f"expected a number before and after {' '.join(words)!r}") from None
            if not (log < np.inf and back < np.inf):  # NaN is neither
                raise self.fail("a logarithm that is no finite number")
            if last and back:
                raise self.fail("an n-gram of the highest order has a back-off weight")
            if log > 0:
                if not self._warned:
                    warnings.warn(
                        f"{self.path}, line {self.number}: positive logarithms are read as 0", stacklevel=5
                    )
                log, self._warned = 0.0, True
            if k == 1:
                if words[0] in numbers:
                    raise self.fail(f"the word {words[0]!r} stands here a second time")
                numbers[words[0]] = len(numbers)
            try:
                grams += [numbers[word] for word in words]
            except KeyError as error:
                raise self.fail(f"the word {error} is not among the 1-grams") from None
            logs.append(log)
            backs.append(back)
        if k == 1 and UNKNOWN not in numbers:
            warnings.warn(
                f"{self.path} has no <unk>: words it does not know get log10 p = -100", stacklevel=5
            )
            grams.append(len(numbers))
            numbers[UNKNOWN] = len(numbers)
            logs.append(-100.0)
            backs.append(0.0)
        return grams, logs, backs

    def _finish(
        self, numbers: dict[str, int], orders: Sequence[tuple[list[int], list[float], list[float]]]
    ) -> Arpa:
        for word in (BEGIN, END):
            if word not in numbers:
                raise UserError(f"{self.path} has no {word}, so it does not say how sentences begin and end")
        words = tuple(word for word in numbers if word != BEGIN)
        # The begin mark is numbered after all words.
        place = np.array([len(words) if w == BEGIN else i - (i > numbers[BEGIN]) for w, i in numbers.items()])
        kept = []
        for k, (grams, logs, backs) in enumerate(orders, 1):
            named = place[np.array(grams, np.int64).reshape(-1, k)]
            # What predicts <s> is never asked for.
            fine = np.ones(len(named), bool) if k == 1 else (named[:, 1:] < len(words)).all(1)
            kept.append((named[fine], np.array(logs)[fine], np.array(backs)[fine]))
        grams_, logs_, backs_ = zip(*kept, strict=True)
        return Arpa(words, tuple(grams_), tuple(logs_), tuple(backs_))


def _opened(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, mode + "t", encoding="utf-8", newline="\n"))
    return open(path, mode, encoding="utf-8", newline="\n")
