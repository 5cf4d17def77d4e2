"""The Transformer of 2017 on real English-Chinese pairs: BLEU and chrF by seed.

The pairs are the paragraphs of LibreOffice's help in two languages, matched by file and paragraph id. Fetch and unpack
the two Debian packages (MPL-2.0), then:

    apt-get download libreoffice-help-en-us libreoffice-help-zh-cn
    for f in libreoffice-help-*.deb; do dpkg-deb -x $f help; done
    python benchmarks/translation.py help --steps 4000 --seeds 0 1 2 --out runs/translation

``--pairs FILE`` takes a .jsonl with "en" and "zh" instead. Prints a line a seed and the mean with its spread.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import statistics
from pathlib import Path
from urllib.parse import unquote

import plume

PARAGRAPH = re.compile(r'<p[^>]*\bid="([^"]+)"[^>]*>(.*?)</p>', re.DOTALL)


def paragraphs(folder: Path, language: str) -> dict[tuple[str, str], str]:
    """(file within the help, paragraph id) -> its text without tags, of every page of one language."""
    found: dict[tuple[str, str], str] = {}
    for page in sorted(folder.rglob("*.html")):
        parts = page.parts
        if language not in parts:
            continue
        name = "/".join(parts[parts.index(language) + 1 :])
        for key, body in PARAGRAPH.findall(page.read_text("utf-8", errors="replace")):
            text = html.unescape(re.sub(r"<[^>]+>", "", body))
            found[name, unquote(key)] = " ".join(text.split())
    return found


def pairs(folder: Path, words: int = 6) -> list[dict[str, str]]:
    """Paragraphs of both languages, of ``words`` English words at least, each English text once."""
    english, chinese = paragraphs(folder, "en-US"), paragraphs(folder, "zh-CN")
    rows: dict[str, str] = {}
    for key, text in english.items():
        other = chinese.get(key, "")
        if len(text.split()) >= words and re.search(r"[\u4e00-\u9fff]", other):
            rows.setdefault(text, other)
    return [{"en": en, "zh": zh} for en, zh in rows.items()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "help", type=Path, nargs="?", help="the folder into which both packages were unpacked"
    )
    parser.add_argument("--pairs", type=Path, help="a .jsonl with en and zh instead")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="transformer:tiny")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backwards", action="store_true", help="Chinese to English")
    parser.add_argument("--limit", type=int, help="so many test pairs at most")
    parser.add_argument("settings", nargs="*", default=[], help="key=value words for the recipe")
    given, words = parser.parse_known_args()
    settings = [*given.settings, *words]
    if given.help is not None and "=" in str(given.help):
        settings, given.help = [str(given.help), *settings], None
    given.out.mkdir(parents=True, exist_ok=True)
    data = given.pairs
    if data is None:
        if given.help is None:
            parser.error("name the folder with the unpacked packages, or --pairs FILE")
        rows = pairs(given.help)
        if not rows:
            parser.error(f"{given.help} holds no paragraphs in both languages")
        data = given.out / "pairs.jsonl"
        data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
        print(f"{len(rows):,} pairs")
    source, target = ("zh", "en") if given.backwards else ("en", "zh")
    scores: dict[str, list[float]] = {"bleu": [], "chrf": []}
    for seed in given.seeds:
        seeds = [f"training.{name}_seed={seed}" for name in ("data", "init", "noise")]
        run = plume.pretrain(
            given.recipe, f"windows.source={source}", f"windows.target={target}", f"training.steps={given.steps}",
            "training.warmup_steps=null", *seeds, *settings, data=data, out=given.out / f"seed-{seed}",
        )  # fmt: skip
        found = plume.evaluate(run, data=data, limit=given.limit)
        for name, values in scores.items():
            values.append(found[name]["value"])
        print(f"seed {seed}: BLEU {found['bleu']['value']:.2f}  chrF {found['chrf']['value']:.2f}  "
              f"{found['pairs']} pairs  {found['bleu']['signature']}", flush=True)  # fmt: skip
    for name, values in scores.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: {statistics.mean(values):.2f} +- {spread:.2f} over {len(values)} seeds")


if __name__ == "__main__":
    main()
