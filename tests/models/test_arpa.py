"""ARPA files: as `lmplz` writes them, read from any tool; a bad one is one sentence that names the line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from plume.errors import UserError
from plume.models import arpa
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey, Laplace

WORDS = ["</s>", "<unk>", "a", "b", "c", "d"]
EOS, UNK, A, B, C, D = range(6)
TEXT = [[A, B, C], [A, B, D], [B, C], [A, B, C]]
QUIET = KneserNey((0.5, 1.0, 1.5))

# Spec 01 section 3: what the reference estimator writes for the same four sentences, to 5e-8.
GOLDEN = {
    1: {"<unk>": (-1.079181, 0), "a": (-0.8103359, -0.30103), "c": (-0.8103359, -0.30103), "d": (-0.8103359, -0.30103),
        "b": (-0.6455257, -0.30103), "</s>": (-0.6455257, 0), "<s>": (0, -0.30103)},
    2: {"<s> a": (-0.3444957, -0.30103), "<s> b": (-0.6232493, -0.30103), "a b": (-0.2124721, -0.30103),
        "c </s>": (-0.2124721, 0), "d </s>": (-0.2124721, 0), "b c": (-0.3864602, -0.30103),
        "b d": (-0.6125254, -0.30103)},
    3: {"<s> a b": (-0.0933700,), "b c </s>": (-0.0933700,), "b d </s>": (-0.0933700,), "<s> b c": (-0.1515909,),
        "a b c": (-0.2686607,), "a b d": (-0.5395675,)},
}  # fmt: skip

BY_HAND = """
# a comment

\\data\\
ngram 1 = 4
ngram 2=2

\\1-grams:
-99 <s>\t-0.5
-0.5 </s>
-0.25\t狗\t-0.125
-1 <unk>

\\2-grams:
-0.1 <s> 狗
-0.2 狗 </s>

\\end\\

"""


def sections(text: str) -> dict[int, dict[str, tuple[float, ...]]]:
    found: dict[int, dict[str, tuple[float, ...]]] = {}
    for line in text.split("\n"):
        if line.endswith("-grams:"):
            order = int(line[1])
            found[order] = {}
        elif "\t" in line:
            log, words, *back = line.split("\t")
            found[order][words] = (float(log), *map(float, back))
    return found


def test_the_golden_file(tmp_path: Path) -> None:
    arpa.write(NGrams.fit(TEXT, 3, 6, QUIET, eos=EOS), WORDS, tmp_path / "model.arpa")
    text = (tmp_path / "model.arpa").read_text(encoding="utf-8")
    assert text.startswith("\\data\\\nngram 1=7\nngram 2=7\nngram 3=6\n\n\\1-grams:\n")
    assert text.endswith("\n\n\\end\\\n")
    found = sections(text)
    assert {k: row.keys() for k, row in found.items()} == {k: row.keys() for k, row in GOLDEN.items()}
    for k, row in GOLDEN.items():
        for words, numbers in row.items():
            assert found[k][words] == pytest.approx(numbers, abs=5e-7), words


@pytest.mark.parametrize("name", ["model.arpa", "model.arpa.gz"])
@pytest.mark.parametrize(
    "smoothing", [QUIET, KneserNey((0.5, 1.0, 1.5), (0, 0, 1)), Laplace(0.5), Laplace((1.0, 0.0))]
)
def test_what_is_written_is_read(tmp_path: Path, smoothing: KneserNey | Laplace, name: str) -> None:
    model = NGrams.fit(TEXT, 3, 6, smoothing, eos=EOS)
    arpa.write(model, WORDS, tmp_path / name)
    ids = {word: id for id, word in enumerate(WORDS)}
    again = arpa.read(tmp_path / name).model(ids, 6, EOS)
    assert again.num_ngrams == model.num_ngrams and again.smoothing is None
    for text in ([A, B, C, EOS], [D, D, UNK, A, B, D, EOS], [EOS]):
        np.testing.assert_allclose(
            np.exp(again.log_probs(text)), np.exp(model.log_probs(text)), rtol=3e-6, atol=1e-90
        )
        np.testing.assert_allclose(
            np.exp(again.next_token_log_probs(text)), np.exp(model.next_token_log_probs(text)), atol=3e-6
        )
    again.save(tmp_path / "model.safetensors")
    mapped = NGrams.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(mapped.log_probs([A, B, C, EOS]), again.log_probs([A, B, C, EOS]))
    arpa.write(again, WORDS, tmp_path / "again.arpa")
    arpa.write(model, WORDS, tmp_path / "model.arpa")
    mine, theirs = (
        sections((tmp_path / n).read_text(encoding="utf-8")) for n in ("model.arpa", "again.arpa")
    )
    for k, row in mine.items():
        for words, numbers in row.items():
            assert theirs[k][words] == pytest.approx(numbers, abs=1e-5)


def test_a_file_by_hand(tmp_path: Path) -> None:
    for newline in ("\n", "\r\n"):
        path = tmp_path / "hand.arpa"
        path.write_bytes(BY_HAND.replace("\n", newline).encode())
        found = arpa.read(path)
        assert found.words == ("</s>", "狗", "<unk>")
        model = found.model({"</s>": 0, "狗": 1, "<unk>": 2}, 3, 0)
        logs = model.log_probs([1, 0]) / np.log(10)
        np.testing.assert_allclose(logs, [-0.1, -0.2], atol=1e-7)
        logs = model.log_probs([2, 1, 1, 0]) / np.log(10)
        np.testing.assert_allclose(logs, [-1.5, -0.25, -0.375, -0.2], atol=1e-7)


def test_separators_are_blank_tab_and_return_only(tmp_path: Path) -> None:
    text = BY_HAND.replace("狗", "全\u3000角\x0b词")
    (tmp_path / "a.arpa").write_text(text, encoding="utf-8", newline="")
    assert "全\u3000角\x0b词" in arpa.read(tmp_path / "a.arpa").words


def test_what_a_file_lacks_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.arpa"
    path.write_text(BY_HAND.replace("-1 <unk>\n", "").replace("= 4", "= 3"), encoding="utf-8")
    with pytest.warns(UserWarning, match="no <unk>"):
        found = arpa.read(path)
    assert found.words[-1] == "<unk>" and found.log_probs[0][-1] == -100
    path.write_text(BY_HAND.replace("-0.1 <s>", "0.1 <s>"), encoding="utf-8")
    with pytest.warns(UserWarning, match="line 15: positive"):
        assert arpa.read(path).log_probs[1][0] == 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\\data\\", "data", r"line 4: an ARPA file begins with \\data\\, not with 'data'"),
        ("ngram 2=2", "ngram 3=2", r"line 6: expected 'ngram 2=COUNT'"),
        ("ngram 2=2", "ngram 2=two", r"line 6: expected 'ngram 2=COUNT'"),
        ("ngram 2=2", "ngram 2=3", "line 17: expected n-gram 3 of the 3 of order 2"),
        ("ngram 2=2", "ngram 2=1", r"line 16: expected \\end\\, found '-0.2 狗 </s>'"),
        ("\\2-grams:", "\\3-grams:", r"line 14: expected \\2-grams:, found"),
        ("-0.1 <s> 狗", "-0.1 <s>", "line 15: expected n-gram 1 of the 2 of order 2"),
        ("-0.1 <s> 狗", "x <s> 狗", "line 15: expected a number before and after '<s> 狗'"),
        ("-0.1 <s> 狗", "nan <s> 狗", "line 15: a logarithm that is no finite number"),
        ("-0.1 <s> 狗", "-0.1 <s> 猫", "line 15: the word '猫' is not among the 1-grams"),
        ("-0.1 <s> 狗", "-0.1 <s> 狗 -0.3", "line 15: an n-gram of the highest order has a back-off weight"),
        ("-1 <unk>", "-1 狗", "line 12: the word '狗' stands here a second time"),
        ("\\end\\\n", "", "ends after line 18, before"),
        ("\\end\\\n", "\\end\\\nmore", r"there is text after \\end\\"),
        ("-0.5 </s>", "-0.5 x", "'</s>' is not among the 1-grams"),
    ],
)
def test_a_malformed_file_is_one_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "bad.arpa"
    assert old in BY_HAND
    path.write_text(BY_HAND.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        arpa.read(path)


def test_a_file_of_something_else_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.arpa.gz").write_bytes(b"no gzip")
    (tmp_path / "c.arpa.gz").write_bytes(gzip.compress(BY_HAND.encode())[:-20])
    (tmp_path / "d.arpa").write_bytes(b"")
    for name in ("a.arpa", "b.arpa.gz", "c.arpa.gz", "d.arpa", "missing.arpa"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            arpa.read(tmp_path / name)


def test_an_n_gram_without_its_context_is_one_sentence(tmp_path: Path) -> None:
    text = BY_HAND.replace("ngram 2=2\n", "ngram 2=2\nngram 3=1\n").replace(
        "\\end\\", "\\3-grams:\n-0.1 </s> 狗 狗\n\n\\end\\"
    )
    (tmp_path / "a.arpa").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="'</s> 狗 狗', but not its first 2 words"):
        arpa.read(tmp_path / "a.arpa").model({"</s>": 0, "狗": 1, "<unk>": 2}, 3, 0)


def test_what_no_arpa_file_can_hold_is_one_sentence(tmp_path: Path) -> None:
    straight = NGrams.fit(TEXT, 3, 6, Laplace(1.0, "unigram"), eos=EOS)
    with pytest.raises(UserError, match="export one of order 2"):
        arpa.write(straight, WORDS, tmp_path / "a.arpa")
    model = NGrams.fit(TEXT, 2, 6, QUIET, eos=EOS)
    for name, says in (("a b", "have no blanks"), ("", "have no blanks"), ("b", "written alike")):
        with pytest.raises(UserError, match=says):
            arpa.write(model, ["</s>", "<unk>", name, "b", "c", "d"], tmp_path / "a.arpa")
    assert not list(tmp_path.iterdir())
