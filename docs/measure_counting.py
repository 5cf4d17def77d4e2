"""Measures what the pictures of counting show, on the two texts that come with Plume, into docs/pictures/counting.json.

    python docs/measure_counting.py        some minutes; `python docs/pictures.py` then draws them

Perplexity a word of held-out text by Kneser-Ney models of order 1 to 5; and where Word2Vec puts some words, as the two
directions in which they differ most.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import plume
from plume.models.counts import Counts
from plume.models.ngrams import NGrams
from plume.models.smoothing import KneserNey
from plume.studies import corpora
from plume.text.tokens import TokenStore
from plume.training.counting import nats

ENGLISH = "love heart eyes hand king queen duke prince lord lady father brother daughter sister sword war blood death"
CHINESE = (
    "曹操 刘备 孙权 袁绍 关羽 张飞 赵云 吕布 玄德 孔明 洛阳 许昌 荆州 徐州 江东 大喜 大怒 大惊 兵 军 马 船"
)
WORDS = {"en": [*ENGLISH.split(), "day", "night", "sun", "moon"], "zh": CHINESE.split()}


def measure(language: str, folder: Path) -> dict[str, Any]:
    text = corpora.fallback(language, folder).text
    run = plume.pretrain(
        "word2vec:skipgram", "tokenizer.min_count=5", "model.d_model=50", "training.steps=300",
        "training.batch_size=100", "training.lr=0.05", "training.eval_every=null", "training.reduction=canonical",
        data=text, out=folder / language,
    )  # fmt: skip
    store, vocab = TokenStore.open(run.path / "tokens"), run.tokenizer.vocabulary
    train, held_out = store.split("train"), store.split("dev")
    ids, ends = np.asarray(train.ids[:]), np.asarray(train.documents, np.int64)
    perplexities = []
    for order in range(1, 6):
        counts = Counts.of_documents(ids, ends, order, vocab.size, eos=vocab.eos)
        loss = nats(NGrams.of(counts, KneserNey(), never=vocab.special - {vocab.eos}), held_out)
        perplexities.append(None if loss is None else round(float(np.exp(loss)), 1))
    words = [word for word in WORDS[language] if word in run.words.index]
    table = np.stack([run.words.unit[run.words.index[word]] for word in words])
    table = table - table.mean(0)
    places = table @ np.linalg.svd(table, full_matrices=False)[2][:2].T
    places /= np.abs(places).max(0)
    return {
        "perplexity": perplexities,
        "words": words,
        "places": [[round(value, 3) for value in place] for place in places.astype(float).tolist()],
        "tokens": int(train.num_tokens),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        found = {language: measure(language, Path(name)) for language in WORDS}
    path = Path(__file__).parent / "pictures" / "counting.json"
    path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
