"""A tokenizer grows: old ids keep their meaning, what the domain writes often becomes one token."""

from __future__ import annotations

from pathlib import Path

import pytest

from plume.errors import UserError
from plume.text.extending import Extension, extend
from plume.text.tokenizers import ByteLevelBPE, Characters, Tokenizer, TokenizerConfig, Unigram, WordPiece
from tests.conftest import documents

DOMAIN = {
    "en": [
        "The electroencephalography showed spikes in the hippocampus, and hippocampal sclerosis.",
        "hippocampus",
    ]
    * 20,
    "zh": ["脑电图显示海马体有癫痫样放电，海马硬化。", "癫痫与海马体"] * 20,
}
KINDS: dict[str, TokenizerConfig] = {
    "wordpiece": WordPiece(400), "bpe": ByteLevelBPE(400), "unigram": Unigram(200), "characters": Characters(200),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_new_pieces_come_after_the_old_ones_and_shorten_the_domain(kind: str, language: str) -> None:
    old = KINDS[kind].train(documents(language, 60))
    new, made = extend(old, DOMAIN[language], 30)
    size = old.vocabulary.size
    assert made.size == size and made.fingerprint == old.fingerprint != new.fingerprint
    assert new.vocabulary.size == size + len(made.pieces) and 0 < len(made.pieces) <= 30
    assert new.vocabulary.special == old.vocabulary.special and new.kind == old.kind
    assert new.pieces(range(size)) == old.pieces(range(size)), "an old id is what it was"
    text = DOMAIN[language][0]
    before, after = old.encode(text), new.encode(text)
    unknown = old.vocabulary.unk
    gain = len(after) < len(before) or (after == unknown).sum() < (before == unknown).sum()
    assert gain and max(after) >= size
    plain = documents(language, 5, seed=9)[0]
    assert new.decode(new.encode(plain)) == old.decode(old.encode(plain))
    for number, pieces in enumerate(made.pieces):
        if unknown not in pieces:
            whole, *parts = (new._inner.id_to_token(i).removeprefix("##") for i in (size + number, *pieces))
            assert whole == "".join(parts), "it is made of its old pieces"


def test_the_same_text_gives_the_same_pieces_and_they_survive_the_folder(tmp_path: Path) -> None:
    old = WordPiece(400).train(documents("en", 60))
    (a, made), (b, _) = (extend(old, DOMAIN["en"], 20) for _ in range(2))
    assert a.fingerprint == b.fingerprint
    a.save(tmp_path)
    made.save(tmp_path)
    assert Extension.load(tmp_path) == made and Tokenizer.load(tmp_path).fingerprint == a.fingerprint
    (tmp_path / "extends.json").write_text('{"from": "x", "size": 3, "pieces": [[7]]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"extends\.json is damaged"):
        Extension.load(tmp_path)


def test_what_cannot_grow_is_said() -> None:
    old = WordPiece(400).train(documents("en", 60))
    for texts, count, said in (
        (["", " "], 5, "there is no text"),
        (["the city"], 5, "nothing to add"),
        (DOMAIN["en"], 0, "must be more than"),
    ):
        with pytest.raises(UserError, match=said):
            extend(old, texts, count)
