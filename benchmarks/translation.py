"""The Transformer of 2017 on real English-Chinese pairs: BLEU and chrF by seed, greedy beside beam, beside baselines.

The pairs are the paragraphs and headings of LibreOffice's help in two languages, matched by page and paragraph id, and
the strings of its menus and dialogs (all MPL-2.0). Fetch and unpack three Debian packages of 6 MB together, then:

    apt-get download libreoffice-help-en-us libreoffice-help-zh-cn libreoffice-l10n-zh-cn
    for f in libreoffice-*.deb; do dpkg-deb -x $f help; done
    python benchmarks/translation.py help --steps 4000 --seeds 3 model.d_model=128 model.d_ff=512

Words with "=" change the recipe. A .jsonl with "en" and "zh" in place of the folder is taken as it is. ``--only-pairs``
writes that file and stops. It trains on all pairs of its training part; judged are those of the test part whose source
has six English words or more. No source and no target stands in the file twice, be it with other figures or marks, so
nothing of the test part was met in training. Beside the network stand three ways to do without one: to copy the
source, to say the commonest target every time, and to take the target of the likest training source (TF-IDF), which
is a translator's memory.
"""

from __future__ import annotations

import argparse
import gettext
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import plume
from plume.evaluation.overlap import overlap
from plume.text.readers import read
from plume.text.splits import split_of

HAN = re.compile(r"[\u3400-\u9fff]")
WORDS = 6  # of a judged pair's English side
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5 % of Student's t, by the number of seeds


class Page(HTMLParser):
    """``texts``: id -> text of each paragraph and heading. What a page shows only under another system or in another
    program (``<span hidden class="MAC">``) is left out; the default beside it, without a class, is kept."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self._spans: list[bool] = []  # the open spans, True: not shown
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"p", "h1", "h2", "h3", "h4", "h5", "h6"}:
            self._id, self._text, self._spans = given.get("id"), [], []
        elif tag == "span":
            self._spans.append("hidden" in given and "class" in given)
        elif tag == "br":
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._spans:
            self._spans.pop()
        elif self._id is not None and tag in {"p", "h1", "h2", "h3", "h4", "h5", "h6"}:
            self.texts.setdefault(self._id, " ".join("".join(self._text).split()))
            self._id = None

    def handle_data(self, data: str) -> None:
        if not any(self._spans):
            self._text.append(data)


def paragraphs(folder: Path, language: str) -> dict[tuple[str, str], str]:
    """(page within the help, id) -> text, of every page of one language ("en-US", "zh-CN") anywhere in ``folder``."""
    found: dict[tuple[str, str], str] = {}
    for file in sorted(folder.rglob("*.html")):
        if language in file.parts:
            name = "/".join(file.parts[file.parts.index(language) + 1 :])
            page = Page()
            page.feed(file.read_text("utf-8", errors="replace"))
            page.close()
            found.update({(name, key): text for key, text in page.texts.items()})
    return found


def messages(folder: Path, language: str) -> list[tuple[str, str]]:
    """The strings of gettext's .mo files in ``language``'s folders ("zh_CN"), without marks for keys and parameters."""
    found = []
    for file in sorted(folder.rglob("*.mo")):
        if language in file.parts:
            with file.open("rb") as opened:
                catalog = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
            for key, text in catalog.items():
                if key and isinstance(key, str) and not re.search(r"%\w|\$\(|<\w", key + text):
                    source = key.rpartition("\x04")[2]  # before it stands the context
                    found.append((_plain(source), _plain(re.sub(r"\([_~]?\w\)", "", text))))
    return found


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[_~](?=\w)", "", text).split())


def aligned(folder: Path) -> list[tuple[str, str]]:
    """Every English text with its Chinese one, as often as it comes: the help's pages first, then the messages."""
    english, chinese = paragraphs(folder, "en-US"), paragraphs(folder, "zh-CN")
    both = [(text, chinese[key]) for key, text in english.items() if key in chinese]
    return [*both, *messages(folder, "zh_CN")]


def distinct(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Pairs that are translated (Chinese in the target alone), no source and no target twice. Texts that differ only
    in figures and marks count as the same: "page 1 of the wizard" tells what "page 2 of the wizard" is."""
    seen_sources, seen_targets, rows = set(), set(), []
    for source, target in pairs:
        if HAN.search(source) or not HAN.search(target):
            continue
        keys = [re.sub(r"[\W\d_]+", " ", text.lower()).strip() for text in (source, target)]
        if not all(keys) or keys[0] in seen_sources or keys[1] in seen_targets:
            continue
        seen_sources.add(keys[0])
        seen_targets.add(keys[1])
        rows.append({"en": source, "zh": target})
    return rows


def baselines(train: Sequence[tuple[str, str]], sources: Sequence[str]) -> dict[str, list[str]]:
    """What can be written without a network."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), lowercase=True)
    known = vectors.fit_transform([source for source, _ in train])
    likest = (vectors.transform(sources) @ known.T).argmax(axis=1)
    commonest = Counter(target for _, target in train).most_common(1)[0][0]
    return {
        "copy": list(sources),
        "commonest": [commonest] * len(sources),
        "memory": [train[int(i)][1] for i in likest.A1],
    }


def mean(values: Sequence[float]) -> str:
    """The mean over seeds with its 95 % interval."""
    middle = statistics.mean(values)
    if len(values) not in STUDENT:
        return f"{middle:.2f}"
    wide = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{middle:.2f} +- {wide:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="the folder with the packages, or a .jsonl; key=value words")
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    parser.add_argument("--recipe", default="transformer:tiny")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--backwards", action="store_true", help="Chinese to English")
    parser.add_argument("--limit", type=int, help="so many test pairs at most")
    parser.add_argument("--only-pairs", action="store_true", help="write the pairs and stop")
    given = parser.parse_intermixed_args()
    settings = [word for word in given.words if "=" in word]
    places = [Path(word) for word in given.words if "=" not in word]
    if len(places) != 1 or not places[0].exists():
        print("translation: name the folder of the unpacked packages, or a .jsonl with en and zh; see --help")
        sys.exit(0 if not places else 2)  # without data there is nothing to measure, which is no failure
    given.out.mkdir(parents=True, exist_ok=True)
    data = places[0]
    if data.is_dir():
        data = given.out / "pairs.jsonl"
        rows = distinct(aligned(places[0]))
        if not rows:
            parser.error(f"{places[0]} holds no text in both languages")
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    source, target = ("zh", "en") if given.backwards else ("en", "zh")
    pairs = [(row.text, row.more[0]) for row in read(data, text_column=source, more=(target,))]
    train = [pair for pair in pairs if split_of(pair[0]) == "train"]
    english = int(given.backwards)
    judged = [p for p in pairs if split_of(p[0]) == "test" and len(p[english].split()) >= WORDS][
        : given.limit
    ]
    assert not {t for _, t in judged} & {t for _, t in train} and not {s for s, _ in judged} & {
        s for s, _ in train
    }, f"{data}: a judged text stands in the training part too"
    print(f"{len(pairs):,} pairs, {len(train):,} train; judged {len(judged):,} of {WORDS} words or more")
    if given.only_pairs:
        return
    held_out = given.out / "judged.jsonl"
    held_out.write_text(
        "".join(json.dumps({source: s, target: t}, ensure_ascii=False) + "\n" for s, t in judged), "utf-8"
    )
    lines = []
    for name, texts in baselines(train, [s for s, _ in judged]).items():
        found = overlap(texts, [t for _, t in judged])
        lines.append(f"{name:<20} BLEU {found['bleu'].value:6.2f}   chrF {found['chrf'].value:6.2f}")
    print("\n".join(lines), flush=True)
    scores: dict[tuple[int, str], list[float]] = {}
    for seed in range(given.seeds):
        seeds = [f"training.{name}_seed={seed}" for name in ("data", "init", "noise")]
        run = plume.pretrain(
            given.recipe, f"windows.source={source}", f"windows.target={target}", f"training.steps={given.steps}",
            *seeds, *settings, data=data, out=given.out / f"seed-{seed}",
        )  # fmt: skip
        for beams in (1, 4):
            found = plume.evaluate(run, data=held_out, split="all", num_beams=beams)
            for name in ("bleu", "chrf"):
                scores.setdefault((beams, name), []).append(found[name]["value"])
            low, high = found["bleu"]["ci95"]
            print(
                f"seed {seed}, {beams} beam{'s' * (beams > 1)}: BLEU {found['bleu']['value']:.2f} "
                f"(95 % over texts {low:.2f} to {high:.2f})  chrF {found['chrf']['value']:.2f}",
                flush=True,
            )
        samples, signature = found["samples"], found["bleu"]["signature"]
    for beams in (1, 4):
        what = "greedy" if beams == 1 else f"beam search, {beams}"
        bleu, chrf = (mean(scores[beams, name]) for name in ("bleu", "chrf"))
        lines.append(
            f"{what:<20} BLEU {bleu}   chrF {chrf}   (95 % over {given.seeds} seeds)".replace(
                "(95 % over 1 seeds)", "(one seed)"
            )
        )
    print("\n" + "\n".join(lines) + f"\n{signature}\n")
    for sample in samples:
        print(f"  {sample['source']}\n  > {sample['written']}\n  = {sample['target']}\n")


if __name__ == "__main__":
    main()
