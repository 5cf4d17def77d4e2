"""Phrases and entities: dictionaries, where their entries begin and end, and phrases found by statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plume.errors import UserError
from plume.objectives.masked import MaskedLM
from plume.seeding import rng
from plume.slots import IGNORE
from plume.text.marks import ENTITY, PHRASE
from plume.text.store import build
from plume.text.tokenizers import ByteLevelBPE, Tokenizer, WordPiece
from plume.text.tokens import Tokens
from plume.text.units import Lexicon, Units
from plume.text.windows import Reading, SegmentPairs, Window
from plume.vocabulary import Vocabulary

TEXTS = {
    "en": "We saw New York in the rain. The New Yorker wrote a New York Times review of art.",
    "zh": "哈尔滨是黑龙江的省会。我在黑龙江省会看冰雪文化。",
}
LEXICONS = {
    "en": Lexicon(("new york", "in the rain", "art"), ("New York", "New York Times")),
    "zh": Lexicon(("省会", "冰雪文化"), ("哈尔滨", "黑龙江")),
}
EXPECTED = {
    "en": ["New York", "New York Times"],
    "zh": ["哈尔滨", "黑龙江", "黑龙江"],
}


def tokenizer(kind: Any, language: str) -> Tokenizer:
    # Every character alone, so that no token reaches over the border of a unit.
    made: Tokenizer = kind.train([" ".join(TEXTS[language])])
    return made


def units(pieces: Tokenizer, text: str, marks: np.ndarray, flag: int) -> list[str]:
    ids = pieces.encode(text)
    cuts = np.flatnonzero(marks & flag)
    return [pieces.decode(part).strip().replace(" ", "") for part in np.split(ids, cuts[1:])]


@pytest.mark.parametrize(
    "kind", [WordPiece(vocab_size=200), ByteLevelBPE(vocab_size=300)], ids=["wordpiece", "bpe"]
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_entity_is_one_unit_and_the_longest_wins(kind: Any, language: str) -> None:
    pieces, text = tokenizer(kind, language), TEXTS[language]
    flat = Units(LEXICONS[language], pieces).encode([text])
    assert flat.ids.tolist() == pieces.encode(text).tolist()
    found = units(pieces, text, flat.marks, ENTITY)
    whole = [e.replace(" ", "").lower() for e in EXPECTED[language]]
    lowered = [unit.lower() for unit in found]
    assert [unit for unit in lowered if unit in whole] == whole
    if language == "en":
        assert "newyorker" not in lowered and "new" in lowered  # no match ends inside a word
        assert "intherain" in [u.lower() for u in units(pieces, text, flat.marks, PHRASE)]
    else:
        assert "省会" in found and "冰雪文化" in found  # outside of entities phrases are the units


def test_units_end_with_their_document() -> None:
    pieces = tokenizer(WordPiece(vocab_size=200), "zh")
    flat = Units(LEXICONS["zh"], pieces).encode(["我在黑龙", "江边"])
    assert flat.marks[4] & ENTITY and not (flat.marks & ENTITY == 0)[[0, 4]].any()


def test_a_store_keeps_them_and_says_so_in_its_fingerprint(tmp_path: Path) -> None:
    pieces = tokenizer(WordPiece(vocab_size=200), "zh")
    (tmp_path / "text.txt").write_text(TEXTS["zh"] * 3, encoding="utf-8")
    marked = build(tmp_path / "text.txt", pieces, tmp_path / "a", segment_words=True, lexicon=LEXICONS["zh"])
    plain = build(tmp_path / "text.txt", pieces, tmp_path / "b", segment_words=True)
    assert marked.fingerprint != plain.fingerprint
    [split] = [marked.split(name) for name in ("train", "dev", "test") if marked.split(name).num_tokens]
    assert (np.asarray(split.marks) & ENTITY).any() and (np.asarray(split.marks) & PHRASE).any()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("unit", ["word", "phrase", "entity"])
def test_units_are_masked_whole_in_pairs_too(language: str, unit: Any) -> None:
    """Each unit entirely or not at all, special tokens never, and each token of it draws its own 80/10/10."""
    pieces = tokenizer(WordPiece(vocab_size=200), language)
    tokens = Tokens.of(pieces, [TEXTS[language]] * 4, lexicon=LEXICONS[language])
    objective = MaskedLM(unit=unit, selection="bernoulli", noise_density=0.4, next_sentence=True)
    plan = SegmentPairs(length=48).plan(tokens, pieces.vocabulary, Reading(48))
    mixed = chosen = 0
    for index in range(len(plan)):
        source = plan[index]
        for seed in range(40):
            example = objective.example(source, pieces.vocabulary, rng(seed, "noise"))
            if example is None:
                continue
            asked = example.inputs.labels["masked_token"] != IGNORE
            assert not asked[source.special].any() and "next_sentence" in example.inputs.labels
            groups = source.units(unit)
            for group in np.unique(groups):
                assert len(set(asked[groups == group].tolist())) == 1
                shown = example.inputs.input_ids[(groups == group) & asked]
                mixed += len({bool(i == pieces.vocabulary.mask) for i in shown}) == 2
            chosen += int(asked.sum())
    assert chosen > 200 and mixed > 5


class Numbers:
    """The chance of the spec's golden: one uniform a token, and a random id of 100 + k at position k."""

    def __init__(self) -> None:
        self.ids = [103, 107]

    def random(self, size: int) -> np.ndarray:
        return np.array([0.9, 0.10, 0.50, 0.15, 0.40, 0.01, 0.02, 0.02, 0.14, 0.05, 0.95, 0.3])

    def integers(self, high: int) -> int:
        return self.ids.pop(0)


def test_the_released_algorithms_golden() -> None:
    """Spec 08 section 3, word level, read number by number."""
    ids = np.array([1, 11, 12, 13, 14, 15, 2, 21, 22, 23, 24, 2])
    seg = np.array([-1, 0, 1, 1, 0, 1, -1, 0, 0, 1, 1, -1])
    source = Window(ids, (seg == 0).astype(np.uint8), seg == -1, np.zeros(12, np.int64))
    objective = MaskedLM(unit="word", selection="bernoulli")
    vocab = Vocabulary(size=200, pad=0, cls=1, sep=2, mask=3)
    numbers = Numbers()
    example = objective.example(source, vocab, numbers)  # type: ignore[arg-type]
    assert example is not None and not numbers.ids
    assert example.inputs.input_ids.tolist() == [1, 3, 3, 103, 14, 15, 2, 107, 3, 23, 3, 2]
    labels = example.inputs.labels["masked_token"]
    assert np.flatnonzero(labels != IGNORE).tolist() == [1, 2, 3, 7, 8, 9, 10]
    assert labels[labels != IGNORE].tolist() == [11, 12, 13, 21, 22, 23, 24]


def test_unit_and_token_shares_are_those_of_the_paper() -> None:
    """15 % of the units and of the tokens, 80/10/10 of the chosen ones, within 4 sigma."""
    draw = np.random.default_rng(0)
    first = draw.random(400) < 0.5
    first[0] = True
    source = Window(
        draw.integers(5, 900, 400), first.astype(np.uint8), np.zeros(400, bool), np.zeros(400, np.int64)
    )
    objective, vocab = MaskedLM(unit="word", selection="bernoulli"), Vocabulary(size=900, mask=4)
    n = masked = same = units = 0
    for seed in range(2000):
        example = objective.example(source, vocab, rng(seed, "noise"))
        assert example is not None
        asked = example.inputs.labels["masked_token"] != IGNORE
        shown = example.inputs.input_ids
        units += int(asked[first].sum())
        n += int(asked.sum())
        masked += int((shown[asked] == 4).sum())
        same += int((shown[asked] == source.ids[asked]).sum())
    total = int(first.sum()) * 2000
    assert abs(units / total - 0.15) < 4 * (0.15 * 0.85 / total) ** 0.5
    assert abs(n / 800_000 - 0.15) < 0.005
    assert abs(masked / n - 0.8) < 4 * (0.8 * 0.2 / n) ** 0.5 + 0.001
    assert abs(same / n - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5 + 0.001


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("北京\tentity\n上海\n", "line 2: expected"), ("New York\tcity\n", "'phrase' or 'entity'"),
        ("\tentity\n", "line 1"), ("\n\n", "no entry"), ("a\n" * 9, "line 1, 2, 3, 4, 5 and 4 more"),
    ],
)  # fmt: skip
def test_a_broken_dictionary_is_one_clear_sentence(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "units.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=match) as caught:
        Lexicon.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_dictionary_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "units.tsv").write_bytes("北京\tentity\n".encode("gbk"))
    with pytest.raises(UserError, match="UTF-8"):
        Lexicon.read(tmp_path / "units.tsv")
    with pytest.raises(UserError, match="cannot be read"):
        Lexicon.read(tmp_path / "none.tsv")


def test_a_dictionary_comes_back_as_it_was(tmp_path: Path) -> None:
    lexicon = LEXICONS["en"]
    lexicon.save(tmp_path / "units.tsv")
    again = Lexicon.read(tmp_path / "units.tsv")
    assert set(again.phrases) == set(lexicon.phrases) and set(again.entities) == set(lexicon.entities)
    assert again.fingerprint != LEXICONS["zh"].fingerprint


def test_words_that_stand_together_are_a_phrase() -> None:
    draw = np.random.default_rng(0)
    names = [f"w{chr(97 + i)}" for i in range(26)]
    text = " ".join("solar panel" if i % 40 == 0 else names[draw.integers(26)] for i in range(4000))
    assert Lexicon.find([text]).phrases == ("solar panel",)
    assert Lexicon.find(["人工智能很好。" * 8, "智能电话。" * 3]).entities == ()
