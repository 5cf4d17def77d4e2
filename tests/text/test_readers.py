"""Readers: every format, every packing, and nothing lost without a word (reliability D1, D2, D6)."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from plume.errors import UserError
from plume.text import readers
from plume.text.files import find, lines
from plume.text.readers import Report, check, clean, read, read_rows

ROOT = str(Path(__file__).parents[2])
ENGLISH, CHINESE = "The heron stood in the reeds.", "她走进图书馆，选了一本书。"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts(path: Path, **options: str) -> list[str]:
    return [d.text for d in read(path, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", f"{ENGLISH}\n{CHINESE}\n"),
        ("a.txt", f"\ufeff{ENGLISH}\r\n{CHINESE}"),
        ("a.txt", f"\n\n{ENGLISH}\n\n\n{CHINESE}\n\n"),
        ("a.jsonl", f'{{"text": "{ENGLISH}"}}\n\n{{"n": 1, "text": "{CHINESE}"}}\n'),
        ("a.ndjson", json.dumps({"text": ENGLISH}) + "\n" + json.dumps({"text": CHINESE})),
        ("a.json", json.dumps([{"text": ENGLISH}, {"text": CHINESE}], indent=1)),
        ("a.json", json.dumps([ENGLISH, CHINESE])),
        ("a.json", f'{{"text": "{ENGLISH}"}}\n{{"text": "{CHINESE}"}}\n'),
        ("a.csv", f"id,text\n1,{ENGLISH}\n2,{CHINESE}\n"),
        ("a.csv", f'text;n\n"{ENGLISH}";1\n{CHINESE};2\n'),
        ("a.tsv", f"text\tn\n{ENGLISH}\t1\n{CHINESE}\t2\n"),
    ],
)
def test_formats(tmp_path: Path, name: str, data: str, packed: str) -> None:
    write(tmp_path / (name + packed), PACK[packed](data.encode()))
    assert texts(tmp_path) == texts(tmp_path / (name + packed)) == [ENGLISH, CHINESE]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [ENGLISH, None, CHINESE], "label": [1, 0, 1]}), tmp_path / "a.parquet")
    report = Report()
    assert [d.id for d in read(tmp_path, report=report)] == ["a.parquet:1", "a.parquet:3"]
    assert report.dropped == 1
    assert [r["label"] for r in read_rows(tmp_path, ["label", "text"])] == ["1", "0", "1"]


def test_a_document_of_lines_and_a_line_with_commas(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", f"{ENGLISH}\n{CHINESE}\n \nlast\n")
    assert texts(tmp_path / "a.txt") == [f"{ENGLISH}\n{CHINESE}", "last"]
    write(tmp_path / "b.csv", 'text,n\n"two\nlines, ""quoted""",1\n')
    assert texts(tmp_path / "b.csv") == ['two\nlines, "quoted"']
    write(tmp_path / "c.jsonl", '{"text": ["one", "two"]}')
    assert texts(tmp_path / "c.jsonl") == ["one\ntwo"]


def test_folders_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / "b" / "2.txt", "two")
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "c.txt", "three")
    write(tmp_path / ".hidden" / "x.txt", "never")
    write(tmp_path / ".DS_Store", b"\0\0\0\1Bud1")
    write(tmp_path / "picture.png", b"\x89PNG")
    assert [(d.id, d.text) for d in read(tmp_path)] == [
        ("a.txt:1", "one"),
        ("b/2.txt:1", "two"),
        ("c.txt:1", "three"),
    ]


def test_ids_differ_where_names_do_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.txt", name)
    ids = [d.id for d in read([tmp_path / "a", tmp_path / "b"])]
    assert len(set(ids)) == 2 and all(i.endswith("x.txt:1") for i in ids)


def test_a_file_without_an_ending_is_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "enwik8", f"{ENGLISH}\n")) == [ENGLISH]


# Damage: what it costs

GOOD = "a good line, 好的"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("a.jsonl", b'{"text": "x"', "not JSON"),
        ("a.jsonl", b"{'text': 'x'}", "not JSON"),
        ("a.jsonl", b"[" * 100_000, "not JSON"),
        ("a.jsonl", b"[1, 2]", "not a JSON object"),
        ("a.jsonl", b"17", "not a JSON object"),
        ("a.jsonl", b'{"title": "x"}', "no column 'text'"),
        ("a.jsonl", b'{"text": "\xff\xfe"}', "not UTF-8"),
        ("a.jsonl", b'{"text": "' + "中文".encode("gb18030") + b'"}', "not UTF-8"),
        ("a.jsonl", b'{"text": ""}', "empty"),
        ("a.jsonl", b'{"text": null}', "empty"),
        ("a.jsonl", b'{"text": "\\u0000 \\n"}', "empty"),
        ("a.jsonl", b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
        ("a.jsonl", b'{"text": "' + b"x" * 17_000_000 + b'"}', "line too long"),
        ("a.csv", b"1,2,3", "wrong number of fields"),
        ("a.csv", b"\xff\xfe,1", "not UTF-8"),
        ("a.csv", b'"never closed', "unclosed quote"),
        ("a.csv", b",1", "empty"),
        ("a.tsv", b"1\t2\t3", "wrong number of fields"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b"\x00", "empty"),
        ("a.json", b'{"title": "x"},', "no column 'text'"),
        ("a.json", b"17,", "not a JSON object"),
        ("a.json", b'"",', "empty"),
    ],
)
def test_one_bad_line_costs_that_line(tmp_path: Path, name: str, damage: bytes, reason: str) -> None:
    good = {
        "jsonl": b'{"text": "%s"}', "json": b'{"text": "%s"},', "csv": b'"%s",1', "tsv": b"%s\t1", "txt": b"%s",
    }[name[2:]]  # fmt: skip
    head = {"csv": [b"text,n"], "tsv": [b"text\tn"], "json": [b"["]}.get(name[2:], [])
    body = [good % f"{GOOD} {i}".encode() for i in range(12)]
    tail = [b'"end"]'] if name.endswith("json") else []
    write(tmp_path / name, b"\n".join([*head, *body, damage, *body, *tail]))
    report = Report()
    kept = [d.text for d in read(tmp_path, report=report)]
    assert [t for t in kept if t != "end"] == [f"{GOOD} {i}" for i in range(12)] * 2
    assert report.read == report.kept + 1 and report.kept == len(kept)
    ((status, why),) = report.reasons
    assert why == reason and status == ("dropped" if reason == "empty" else "quarantined")
    line = 13 + len(head)
    assert report.rows[0].id == f"{name}:{13 if name.endswith('json') else line}"


def test_all_ids_are_accounted_for(tmp_path: Path) -> None:
    """in = kept + dropped + quarantined, by id, over every format at once."""
    rows = [b'{"text": "%d"}' % i if i % 7 else b"broken" if i % 2 else b'{"text": " "}' for i in range(2000)]
    write(tmp_path / "a.jsonl.zst", PACK[".zst"](b"\n".join(rows)))
    write(
        tmp_path / "b.txt.gz",
        PACK[".gz"](b"\n".join(b"line %d" % i if i % 13 else b"\xff" for i in range(500))),
    )
    write(
        tmp_path / "c.csv", b"text,n\n" + b"\n".join(b"%d,1" % i if i % 9 else b"%d" % i for i in range(300))
    )
    seen: list[str] = []
    report = Report(sink=lambda row: seen.append(row.id))
    seen += [d.id for d in read(tmp_path, report=report)]
    assert len(seen) == len(set(seen)) == report.read
    for name, count, first in (("a.jsonl.zst", 2000, 1), ("c.csv", 300, 2)):
        assert {i for i in seen if i.startswith(name)} == {f"{name}:{n + first}" for n in range(count)}
    assert len(report.rows) <= 1000


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_cut_off_archive_is_a_sentence(tmp_path: Path, packed: str) -> None:
    whole = PACK[packed](("line\n" * 5000).encode())
    path = write(tmp_path / f"a.txt{packed}", whole[:-9])
    with pytest.raises(UserError, match=r"a\.txt\.(gz|zst) is cut off or damaged.*fetch or pack it again"):
        list(read(path))
    write(path, whole[: len(whole) // 2] + b"\x00garbage" + whole[len(whole) // 2 :])
    with pytest.raises(UserError, match="cut off or damaged"):
        list(read(path))
    write(path, whole + whole)  # two archives in one file are one file
    assert len(texts(path)) == 10_000


def test_zstandard_in_many_frames(tmp_path: Path) -> None:
    frames = b"".join(PACK[".zst"](f"line {i}\n".encode()) for i in range(300))
    assert len(texts(write(tmp_path / "a.txt.zst", frames))) == 300


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(100), "is a PNG picture, not text"),
        ("a.txt", b"%PDF-1.7\n", "PDF"),
        ("a.jsonl", b"PK\x03\x04" + bytes(50), "zip archive"),
        ("a.txt", bytes(range(256)) * 9, "control bytes"),
        ("a.txt", "no mark at all, 文".encode("utf-16-le"), "UTF-16 needs its byte order mark"),
        (
            "a.txt",
            "中文文本，没有标记。".encode("gb18030"),
            "not UTF-8: byte 0xd6 at offset 0.*iconv -f GB18030 -t UTF-8 .*a.txt > .*a.utf8.txt ",
        ),
        ("a.csv", "text\n简体中文\n".encode("gb18030"), r"a\.csv is not UTF-8: byte 0xbc at offset 5"),
        ("a.txt", "繁體中文測試".encode("big5"), "not UTF-8"),
        ("a.txt", "naïve café".encode("latin-1"), "byte 0xef at offset 2"),
        ("a.jsonl", b'{"body": "x", "n": 1}', "no column 'text'; there are: 'body', 'n'.*--text-column"),
        ("a.csv", b"body,n\nx,1", "no column 'text'; there are: 'body', 'n'"),
        ("a.parquet", b"PAR1 not really", "cut off or damaged"),
        ("a.txt.gz", b"not gzip", "cut off or damaged"),
        ("a.txt.zst", b"not zstandard", "cut off or damaged"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = write(tmp_path / name, data)
    with pytest.raises(UserError, match=words) as error:
        list(read(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=words):
        check(find(path))


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no text to read \(it is empty\)"):
        list(read(tmp_path))
    write(tmp_path / "a.pdf", "x")
    with pytest.raises(UserError, match=r"there are files ending in \.pdf"):
        list(read(tmp_path))
    with pytest.raises(UserError, match="nowhere does not exist"):
        list(read(tmp_path / "nowhere"))


def test_the_first_look_names_all_bad_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"%PDF-1.7\n")
    write(tmp_path / "b.txt", "fine")
    write(tmp_path / "c.csv", "x\n1")
    with pytest.raises(UserError) as error:
        check(find(tmp_path))
    assert "a.txt" in str(error.value) and "c.csv" in str(error.value) and "b.txt" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_known(tmp_path: Path, encoding: str) -> None:
    assert texts(write(tmp_path / "a.txt", f"{ENGLISH}\r\n{CHINESE}\r\n".encode(encoding))) == [
        ENGLISH,
        CHINESE,
    ]


@given(st.text(alphabet=st.characters() | st.characters(categories=["Cs"])))
def test_cleaned_text_is_utf8(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert "\0" not in cleaned and "\r" not in cleaned
    assert clean(cleaned) == cleaned or cleaned.startswith("\ufeff")


def test_lone_halves_of_characters_and_nul(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", r'{"text": "x\ud800y\u0000z\r\nw \ud83d\ude00"}')
    assert texts(tmp_path / "a.jsonl") == ["x\ufffdyz\nw 😀"]


def test_a_quote_that_never_closes_costs_its_line(tmp_path: Path) -> None:
    body = "\n".join(f"line {i},{i}" for i in range(50))
    write(tmp_path / "a.csv", f'text,n\n{body}\n"never closed,7\n{body}\n')
    report = Report()
    kept = [d.text for d in read(tmp_path / "a.csv", report=report)]
    assert kept == [f"line {i}" for i in range(50)] + ['"never closed'] + [f"line {i}" for i in range(50)]


# Labelled rows


def test_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", f"text,label,extra\n{ENGLISH},pos,1\n{CHINESE},neg,2\n")
    want = [{"text": ENGLISH, "label": "pos"}, {"text": CHINESE, "label": "neg"}]
    assert list(read_rows(tmp_path / "a.csv", ["text", "label"])) == want
    write(tmp_path / "b.jsonl", json.dumps({"text": ENGLISH, "label": 1}) + "\n" + json.dumps({"text": "x"}))
    report = Report()
    assert list(read_rows(tmp_path / "b.jsonl", ["text", "label"], report=report)) == [
        {"text": ENGLISH, "label": "1"}
    ]
    assert report.quarantined == 1
    with pytest.raises(UserError, match="no column 'mood'; there are: 'text', 'label', 'extra'"):
        list(read_rows(tmp_path / "a.csv", ["text", "mood"]))
    write(tmp_path / "c.txt", "x")
    with pytest.raises(UserError, match="plain text, without columns"):
        list(read_rows(tmp_path / "c.txt", ["text", "label"]))


# Size


PIECES = [
    b"a",
    b" ",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\xff",
    "\u4e2d\u6587".encode(),
    b"\0",
    b"\t",
    b"b c\n",
    b"\xe4\xb8",
    b"\x0b",
    b"\x85",
]


@settings(deadline=None)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=12), chunk=st.integers(1, 9))
def test_many_lines_at_once_are_the_lines_one_by_one(
    parts: list[bytes], chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes(b"".join(parts))
    [source] = find(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plume.text.files._CHUNK", chunk)
        found = list(readers._text_lines(source))
        assert found == list(readers._text_line_by_line([path.read_bytes()], 1, 0))
        shown = [line.strip() != b"" for line in path.read_bytes().split(b"\n")]
        text = [n for n, full in enumerate(shown) if full]
        assert readers._has_blank_lines(source) == (not all(shown[text[0] : text[-1]]) if text else False)


def test_long_lines_of_plain_text_are_cut_not_lost(tmp_path: Path) -> None:
    text = "字word " * 5_000
    path = write(tmp_path / "a.txt", text)
    parts = list(lines(find(path)[0], limit=1000, pieces=True))
    assert len(parts) > 1 and [p.number for p in parts] == [1] * len(parts)
    assert b"".join(p.data or b"" for p in parts).decode() == text


BOMB = """
import resource, sys, time
from plume.text.readers import Report, read
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1e3
before, start, report = peak(), time.perf_counter(), Report()
kept = sum(1 for _ in read(sys.argv[1], report=report))
print(kept, report.quarantined, peak() - before)
"""


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_megabyte_that_unpacks_to_a_gigabyte(tmp_path: Path, packed: str) -> None:
    """128 MB here: one line of it, then a good one; memory stays bounded and the good line is read."""
    if packed == ".zst":
        data = zstandard.ZstdCompressor().compress(b'{"text": "' + b"x" * 2**27 + b'"}\n{"text": "good"}\n')
    else:
        data = gzip.compress(b'{"text": "' + b"x" * 2**27 + b'"}\n{"text": "good"}\n', 1)
    path = write(tmp_path / f"a.jsonl{packed}", PACK[packed](b'{"text": "first"}\n') + data)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ROOT},
    )
    kept, quarantined, grown = done.stdout.split()
    assert (kept, quarantined) == ("2", "1") and float(grown) < 200
