"""The token store: what it holds, that it goes on after any end, and that damage is found (reliability D3)."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from plume.errors import UserError
from plume.text import batches, files, store
from plume.text.marks import PART, SENTENCE
from plume.text.readers import read
from plume.text.splits import SPLITS, split_of
from plume.text.store import Progress, Tokens, build
from plume.text.tokenizers import ByteLevelBPE, Characters, Tokenizer, WordPiece
from plume.text.tokens import TokenStore

ROOT = str(Path(__file__).parents[2])
TEXTS = [f"The quick brown fox number {i} jumps. Don't panic, Mr. Smith!" for i in range(150)] + [
    f"我们喜欢北京的天气{i}。他说：“好！”然后走了。" for i in range(150)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return WordPiece(300).train(TEXTS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    (folder / "a.jsonl").write_text("\n".join([*rows[:200], "broken", *rows[200:]]), encoding="utf-8")
    (folder / "b.txt").write_text("one line\n\nanother 文档。\n\n\x01\x02\n", encoding="utf-8")
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SHARD", 4_000)
    monkeypatch.setattr(batches, "_BATCH", 1_000)


def documents(tokens: Tokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(np.asarray(tokens.ids), tokens.documents[1:-1])]


@pytest.mark.parametrize("segmented", [False, True])
def test_it_holds_every_document_once(
    tmp_path: Path, data: Path, tokenizer: Tokenizer, small_shards: None, segmented: bool
) -> None:
    seen: list[Progress] = []
    made = build(data, tokenizer, tmp_path / "store", segment_words=segmented, progress=seen.append)
    texts = [d.text for d in read(data)]
    assert texts[-1] == "\x01\x02" and len(made.index["shards"]) > 4
    for name in SPLITS:
        tokens = made.split(name)
        mine = [t for t in texts if split_of(t) == name and t != texts[-1]]
        encoded = tokenizer.encode_batch(mine, segment_words=segmented)
        assert documents(tokens) == [e.ids.tolist() for e in encoded]
        assert np.asarray(tokens.marks).tolist() == [m for e in encoded for m in e.marks.tolist()]
        assert tokens.num_bytes == sum(len(t.encode()) for t in mine) and tokens.name == name
        assert tokens.num_tokens == len(tokens.ids) and tokens.num_documents == len(mine)
        assert (tokens.marks[tokens.documents[:-1]] & SENTENCE).all()
        assert isinstance(tokens.ids.base, np.memmap) and tokens.ids.dtype == np.uint16
    card = made.card
    assert card["documents"] == 302 and card["left_out"] == {
        "quarantined: not JSON": 1,
        "dropped: no tokens": 1,
    }
    rejected = [json.loads(line) for line in (tmp_path / "store" / "rejected.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rejected] == ["a.jsonl:201"]
    assert seen[-1].share == 1 and seen[-1].documents == 302 and seen[-1].tokens == card["tokens"]
    made.verify()


def test_the_fingerprint_is_of_the_content(tmp_path: Path, data: Path, tokenizer: Tokenizer) -> None:
    first = build(data, tokenizer, tmp_path / "one")
    data.rename(tmp_path / "elsewhere")
    assert build(tmp_path / "elsewhere", tokenizer, tmp_path / "two").fingerprint == first.fingerprint
    other = ByteLevelBPE(400).train(TEXTS)
    prints = {
        first.fingerprint,
        build(tmp_path / "elsewhere", other, tmp_path / "three").fingerprint,
        build(tmp_path / "elsewhere", tokenizer, tmp_path / "four", segment_words=True).fingerprint,
        build(tmp_path / "elsewhere" / "b.txt", tokenizer, tmp_path / "five").fingerprint,
    }
    assert len(prints) == 4


def test_a_finished_store_is_opened_as_it_is(tmp_path: Path, data: Path, tokenizer: Tokenizer) -> None:
    made = build(data, tokenizer, tmp_path / "store")
    before = (tmp_path / "store" / "train.ids.bin").stat().st_mtime_ns
    os.utime(data / "a.jsonl")  # touched, not changed
    again = build(data, tokenizer, tmp_path / "store", progress=lambda p: pytest.fail("it was built again"))
    assert again.fingerprint == made.fingerprint == TokenStore.open(tmp_path / "store").fingerprint
    assert (tmp_path / "store" / "train.ids.bin").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="token store of other data, or made with another tokenizer"):
        build(data, tokenizer, tmp_path / "store", segment_words=True)
    (data / "b.txt").write_text("something else")
    with pytest.raises(UserError, match="choose another folder, or delete it"):
        build(data, tokenizer, tmp_path / "store")
    again.verify()


@pytest.mark.parametrize(
    ("kills", "fulls", "cuts"),
    [(4, 1, 3), pytest.param(20, 10, 20, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_kill_and_rerun(tmp_path: Path, kills: int, fulls: int, cuts: int) -> None:
    """Kills with -9, full disks, damage behind a marker: always the same store in the end."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"text": t}) if i % 37 else "broken" for i, t in enumerate(TEXTS)]
    (data / "a.jsonl").write_text("\n".join(rows[:160]), encoding="utf-8")
    (data / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(rows[160:]).encode()))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("killing.py")), str(data), str(tmp_path),
         str(kills), str(fulls), str(cuts)],
        capture_output=True, text=True, timeout=300, env={"PYTHONPATH": ROOT, "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    result = json.loads(done.stdout)
    assert result["shards"] > 3 and (result["killed"], result["full"]) == (kills, fulls)
    assert result["same"] == kills + fulls + cuts
    assert result["markers"] > result["same"] / 2, "most ends came after some markers: the reruns did go on"


def test_a_mended_file_does_not_cost_what_was_done(
    tmp_path: Path, tokenizer: Tokenizer, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CHUNK", 4096)
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    packed = gzip.compress("\n".join(json.dumps({"text": t}) for t in TEXTS).encode())
    (data / "b.jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(UserError, match=r"b\.jsonl\.gz is cut off or damaged"):
        build(data, tokenizer, tmp_path / "store")
    with pytest.raises(UserError, match="half built"):
        TokenStore.open(tmp_path / "store")
    with pytest.raises(UserError, match="half built token store with another tokenizer"):
        build(data, tokenizer, tmp_path / "store", segment_words=True)
    (data / "b.jsonl.gz").write_bytes(packed)
    first: list[Progress] = []
    made = build(data, tokenizer, tmp_path / "store", progress=first.append)
    fresh = build(data, tokenizer, tmp_path / "fresh")
    assert first[0].documents > 200, "the first file was not read again"
    for name in SPLITS:
        assert documents(made.split(name)) == documents(fresh.split(name))
    assert made.card == fresh.card and made.fingerprint == fresh.fingerprint


def test_damage_is_found(tmp_path: Path, data: Path, tokenizer: Tokenizer, small_shards: None) -> None:
    build(data, tokenizer, tmp_path / "store")
    path = tmp_path / "store" / "train.ids.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"train\.ids\.bin is damaged: \d+ bytes instead of"):
        TokenStore.open(tmp_path / "store")
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(UserError, match="shard 1 differs from its SHA-256"):
        TokenStore.open(tmp_path / "store").verify()
    path.unlink()
    with pytest.raises(UserError, match=r"train\.ids\.bin is missing"):
        TokenStore.open(tmp_path / "store")
    (tmp_path / "store" / "index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        TokenStore.open(tmp_path / "store")
    with pytest.raises(UserError, match=r"holds no token store: index\.json is missing"):
        TokenStore.open(tmp_path)


def test_nothing_to_store(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(" \n\n")
    with pytest.raises(UserError, match="not one document with text in .*a.txt: "):
        build(tmp_path / "a.txt", tokenizer, tmp_path / "store")
    (tmp_path / "a.txt").write_text("now there is one\n")
    assert build(tmp_path / "a.txt", tokenizer, tmp_path / "store").card["documents"] == 1


def test_one_builder_at_a_time(tmp_path: Path, data: Path, tokenizer: Tokenizer) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(UserError, match="another process is building"):
            build(data, tokenizer, tmp_path / "store")

    build(data, tokenizer, tmp_path / "store", progress=second)


def test_big_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    text = "".join(chr(c) for c in range(0x4E00, 0x9FFF)) + "".join(chr(c) for c in range(0x20000, 0x2C000))
    tokenizer = Characters(2**17).train([text])
    assert tokenizer.vocabulary.size > 2**16
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    made = build(tmp_path / "a.txt", tokenizer, tmp_path / "store")
    tokens = made.split(split_of(text))
    assert tokens.ids.dtype == np.uint32 and tokenizer.decode(np.asarray(tokens.ids)) == text
    assert [made.split(name).num_tokens for name in SPLITS].count(0) == 2, "an empty split opens too"


def test_tokens_in_memory(tokenizer: Tokenizer) -> None:
    tokens = Tokens.of(tokenizer, ["the fox.", "", "  ", "我们。喜欢"])
    assert tokens.num_documents == 2 and tokens.documents.tolist() == [0, 3, 8]
    assert Tokens.of(tokenizer, []).num_tokens == 0


def test_a_row_of_two_columns_is_one_document_in_two_parts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"en": f"The quick fox {i}.", "zh": f"我们喜欢北京{i}。"} for i in range(60)]
    rows += [
        {"en": "The quick fox 3.", "zh": "另一句。"},
        {"en": "alone", "zh": " "},
        {"en": "half", "zh": "\x01"},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.insert(5, '{"en": "no translation"}')
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    made = build(tmp_path / "pairs.jsonl", tokenizer, tmp_path / "store", text_column="en", more=["zh"])
    assert made.card["documents"] == 61
    assert made.card["left_out"] == {
        "dropped: empty": 1,
        "quarantined: no column 'zh'": 1,
        "dropped: no tokens": 1,
    }
    for name in SPLITS:
        tokens = made.split(name)
        # The source alone decides, so that a source with two translations is in one split.
        mine = [row for row in rows[:61] if split_of(row["en"]) == name]
        assert tokens.num_documents == len(mine)
        for number, column in enumerate(("en", "zh")):
            part = tokens.part(number)
            assert documents(part) == [tokenizer.encode(row[column]).tolist() for row in mine]
        whole = [tokenizer.encode(row["en"]).tolist() + tokenizer.encode(row["zh"]).tolist() for row in mine]
        assert documents(tokens) == whole
        assert int((np.asarray(tokens.marks) & PART != 0).sum()) == len(mine)
    again = build(tmp_path / "pairs.jsonl", tokenizer, tmp_path / "store", text_column="en", more=["zh"])
    assert again.fingerprint == made.fingerprint
    with pytest.raises(UserError, match="other data, or made with another"):
        build(tmp_path / "pairs.jsonl", tokenizer, tmp_path / "store", text_column="en")
    with pytest.raises(UserError, match="no column 'fr'.*windows.source"):
        build(tmp_path / "pairs.jsonl", tokenizer, tmp_path / "other", text_column="en", more=["fr"])
    (tmp_path / "plain.txt").write_text("no columns here", encoding="utf-8")
    with pytest.raises(UserError, match="plain text, without columns"):
        build(tmp_path / "plain.txt", tokenizer, tmp_path / "other", text_column="en", more=["zh"])
