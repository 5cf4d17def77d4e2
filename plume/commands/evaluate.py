"""``plume evaluate``: perplexity of a language model, accuracy and F1 of a classifier, BLEU of a translator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from plume.commands.words import Json, Paths, TextColumn, TrustCode, paths_of, table, tell
from plume.errors import UserError

if TYPE_CHECKING:
    from plume.runs import Run

Part = Literal["test", "dev", "train", "all"]
FILES = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt", "analogies": "questions-words.txt"}


def evaluate(
    run: str | Path | Run,
    *,
    data: Paths | None = None,
    rank: str | Path | None = None,
    task: str | None = None,
    split: Part = "test",
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    num_beams: int = 4,
    limit: int | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """What a run (a folder or a loaded one) is worth on the ``split`` of ``data``.

    A classifier: accuracy, macro F1, micro F1 and Matthews, each with its 95 % interval. A model that predicts
    tokens: nats, perplexities and bits per byte (a masked one's are pseudo-perplexities). One that was trained on
    pairs of texts: BLEU and chrF of what beam search (``num_beams``, the Transformer's own length penalty of 0.6)
    writes for the sources, against their targets. Beside a model of the next token, as "counting", n-gram models
    of the run's own training text. ``limit``: so many documents at most.

    ``rank``, in place of ``data``: a file of alternative texts (``plume.evaluation.ranking``), of which the model
    says which is likeliest. ``task``: one that the run was trained on beside its text, put to the
    rows of ``data``: the share that it answers exactly, BLEU and chrF. Or, with or without ``data``: what a model of
    words knows of a published list, which ``data`` names; where gensim is installed its copy is taken.

    Raises:
        UserError: the data cannot be read, or nothing of it lies in that split.
    """
    from plume.runs import Run, load

    if split not in ("test", "dev", "train", "all"):
        raise UserError(f"there is no split {split!r}: choose test, dev, train or all")
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, got {limit}")
    if task is None and (data is None) == (rank is None):
        raise UserError("say --data with text to evaluate on, or --rank with a file of alternatives")
    loaded = run if isinstance(run, Run) else load(run, trust_code=trust_code)
    known = None if task is None or loaded.tasks is None else loaded.tasks.named(task)
    if task is not None and known is None:
        return {"run": str(loaded.path), **_words(loaded, task, data)}
    if rank is not None:
        return _ranked(loaded, Path(rank))
    if data is None:
        raise UserError(f"say --data with rows of the task {task} to evaluate on")
    files = paths_of(data)
    result: dict[str, Any] = {"run": str(loaded.path), "split": split}
    if loaded.labels:
        return result | _classification(loaded, files, split, text_column, label_column, pair_column, limit)
    if known is not None:
        columns = (known.source if text_column == "text" else text_column, pair_column or known.target)
        found = _overlap(loaded, files, split, columns, num_beams, limit, prefix=known.prefix)
        return result | {"task": known.name} | found
    if own := _columns(loaded, text_column, pair_column):
        return result | _overlap(loaded, files, split, own, num_beams, limit)
    texts = list(islice(_texts(files, split, text_column), limit))
    if not texts:
        raise UserError(_nothing(files, split, "documents"))
    result |= loaded.scorer.perplexity(texts).to_json()
    if (counting := _counting(loaded, texts)) is not None:
        result["counting"] = counting
    return result


def _ranked(run: Run, file: Path) -> dict[str, Any]:
    from plume.evaluation import ranking

    found = ranking.rank(run.scorer, ranking.read(file))
    groups = [{"texts": list(g.texts), "log_probs": list(g.log_probs), "correct": g.correct} for g in found]
    marked = [g.correct for g in found if g.correct is not None]
    result: dict[str, Any] = {"run": str(run.path), "groups": groups}
    return result | ({"accuracy": sum(marked) / len(marked), "marked": len(marked)} if marked else {})


def _counting(run: Run, texts: Sequence[str]) -> dict[str, Any] | None:
    """What n-gram models of the run's training text make of the same texts: "comparable" is False for a model that
    sees both sides of a token. None: the run keeps no text."""
    from plume.evaluation import answerers
    from plume.evaluation.scorer import Scorer
    from plume.text.tokens import TokenStore
    from plume.training import curves
    from plume.training.folder import RunFolder

    folder = RunFolder(run.path).tokens
    if not (folder / "index.json").is_file():
        return None
    if run.scorer.pseudo:
        return {"comparable": False}
    train = TokenStore.open(folder).split("train")
    models, counted = curves.counting_models(train, run.tokenizer.vocabulary)
    scores = {
        name: Scorer(answerers.counts(model), run.tokenizer).perplexity(texts).to_json()
        for name, model in models.items()
    }
    return {"comparable": True, "counted": counted, "models": scores}


def _words(run: Run, task: str, data: Paths | None) -> dict[str, Any]:
    from plume.evaluation import word_tasks

    if task not in FILES:
        raise UserError(f"there is no task {task!r}: choose {', '.join(FILES)}")
    vectors = run.words
    path = _published(task) if data is None else paths_of(data)[0]
    score = word_tasks.analogies if task == word_tasks.ANALOGIES else word_tasks.similarity
    return {"task": task, **score(vectors, path)}


def _published(task: str) -> Path:
    from importlib import resources

    try:
        path = Path(str(resources.files("gensim"))) / "test" / "test_data" / FILES[task]
    except ImportError:
        path = Path(FILES[task])
    if not path.is_file():
        raise UserError(
            f"{FILES[task]} is nowhere to be found: give it by --data, or pip install gensim, which brings it along"
        )
    return path


def _texts(files: Sequence[Path], split: Part, column: str) -> Iterator[str]:
    from plume.text.readers import read
    from plume.text.splits import split_of

    for document in read(files, text_column=column):
        if split == "all" or split_of(document.text) == split:
            yield document.text


def _columns(run: Run, text: str, pair: str | None) -> tuple[str, str] | None:
    """The columns of source and target, where the run was trained on such; what is named on the way comes first."""
    from plume.training.settings import Pretraining

    own = run.recipe.windows.columns if isinstance(run.recipe, Pretraining) else ()
    if len(own) != 2:
        return None
    return (own[0] if text == "text" else text, pair or own[1])


def _overlap(
    run: Run,
    files: Sequence[Path],
    split: Part,
    columns: tuple[str, str],
    num_beams: int,
    limit: int | None,
    *,
    prefix: str = "",
) -> dict[str, Any]:
    from plume.evaluation.metrics import wilson
    from plume.evaluation.overlap import overlap
    from plume.generation.beam import Beam
    from plume.generation.completion import best
    from plume.generation.sampling import Decoding
    from plume.text.readers import read
    from plume.text.splits import split_of

    rows = (
        (prefix + document.text, document.more[0])
        for document in read(files, text_column=columns[0], more=columns[1:])
        if split in ("all", split_of(document.text))
    )
    pairs = list(islice(rows, limit))
    if not pairs:
        raise UserError(_nothing(files, split, "pairs"))
    sources, targets = zip(*pairs, strict=True)
    model, longest = run.language_model, max(len(run.tokenizer.encode(source)) for source in sources)
    beam = Beam(num_beams=num_beams, length_penalty=0.6, length_norm="gnmt")
    written = best(model, run.tokenizer, run.answers, sources, Decoding(max_new_tokens=longest + 50), beam)
    texts = [completion.text for completion in written]
    scores = overlap(texts, targets)
    exact = sum(written.strip() == target.strip() for written, target in zip(texts, targets, strict=True))
    samples = [
        {"source": s, "target": t, "written": w} for s, t, w in zip(sources, targets, texts, strict=True)
    ]
    return {
        "pairs": len(pairs),
        "exact": {"value": exact / len(pairs), "ci95": list(wilson(exact, len(pairs)))},
        **{name: score.to_json() for name, score in scores.items()},
        "num_beams": num_beams,
        "samples": samples[:5],
    }


def _classification(
    run: Run, files: Sequence[Path], split: Part, text: str, label: str, pair: str | None, limit: int | None
) -> dict[str, Any]:
    from plume.evaluation.metrics import agreement, classification
    from plume.training.labelled import read_labelled
    from plume.training.sparse import Sparse

    if "tag" in run.can:
        return _tagging(run, files, split, text, label, limit)
    rows = read_labelled(files, text_column=text, label_column=label, pair_column=pair)
    rows = [row for row in rows if split in ("all", row.split)][:limit]
    if not rows:
        raise UserError(_nothing(files, split, "labelled texts"))
    segments = [
        row.segments[0] if len(row.segments) == 1 else (row.segments[0], row.segments[1]) for row in rows
    ]
    if isinstance(run.recipe, Sparse) and run.recipe.task == "clusters":
        found = [answer.label for answer in run.classify(segments)]
        sizes = {name: found.count(name) for name in run.labels}
        return {"texts": len(rows), "sizes": sizes, **agreement([row.label for row in rows], found)}
    if strange := sorted({row.label for row in rows} - set(run.labels)):
        raise UserError(
            f"the data has labels that {run.name} does not know: {', '.join(map(repr, strange[:5]))} "
            f"(it knows {', '.join(map(repr, run.labels[:10]))})"
        )
    number = {name: i for i, name in enumerate(run.labels)}
    answers = [number[answer.label] for answer in run.classify(segments)]
    scores = classification([number[row.label] for row in rows], answers, num_labels=len(run.labels))
    return {"texts": len(rows), **{name: estimate.to_json() for name, estimate in scores.items()}}


def _tagging(
    run: Run, files: Sequence[Path], split: Part, text: str, label: str, limit: int | None
) -> dict[str, Any]:
    from plume.evaluation import metrics
    from plume.training.labelled import read_tagged

    rows = read_tagged(files, text_column=text, label_column=label)
    rows = [row for row in rows if split in ("all", row.split)][:limit]
    if not rows:
        raise UserError(_nothing(files, split, "tagged sentences"))
    found = [[word.label for word in words] for words in run.tag_words([row.segments for row in rows])]
    # A label that was never trained is told from the others, and so is never right.
    names = {name: i for i, name in enumerate(sorted({*run.labels, *(n for row in rows for n in row.names)}))}
    gold = [names[name] for row in rows for name in row.names]
    scores = metrics.classification(gold, [names[n] for said in found for n in said], num_labels=len(names))
    if metrics.are_spans(run.labels):
        scores |= metrics.span_scores([row.names for row in rows], found)
    result = {name: estimate.to_json() for name, estimate in scores.items()}
    return {"sentences": len(rows), "words": len(gold), **result}


def _nothing(files: Sequence[Path], split: Part, what: str) -> str:
    return (
        f"no {what} of {', '.join(map(str, files))} lie in the {split} split, which is decided by their content: "
        f"bring more, or say --split all if nothing of this data was trained on"
    )


def command(
    run: Annotated[Path, Parameter(name="RUN")],
    /,
    *,
    data: list[Path] | None = None,
    rank: Path | None = None,
    task: str | None = None,
    split: Part = "test",
    text_column: TextColumn = "text",
    label_column: str = "label",
    pair_column: str | None = None,
    num_beams: int = 4,
    limit: int | None = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Perplexity of a language model; accuracy and F1 of a classifier; BLEU and chrF of a translator.

    Parameters
    ----------
    run
        A run, or a Hugging Face folder.
    data
        Files or folders. May be given again.
    rank
        In place of --data: a file of alternatives, one a line, with a blank line between groups. The model says
        which is likeliest; "* " before a line marks the right one.
    task
        One of the tasks that the run was trained on beside its text: the share of the rows of --data that it answers
        exactly, BLEU and chrF. For word vectors: wordsim353 and simlex999 compare them with what people said of pairs
        of words, analogies asks what is to c as b is to a.
    split
        The part of the data: by default the 5 % that no verb trains on. all: for data of another origin.
    label_column
        Column or key of the label.
    pair_column
        Column or key of a second text.
    num_beams
        How wide a model of pairs (a translator) searches.
    limit
        So many documents at most (a masked model reads a text once a token).
    """
    result = evaluate(
        run, data=data, rank=rank, task=task, split=split, text_column=text_column, label_column=label_column,
        pair_column=pair_column, num_beams=num_beams, limit=limit, trust_code=trust_code,
    )  # fmt: skip
    text = _rank_lines(result) if "groups" in result else table(_lines(result))
    tell(result, text, as_json=json)


def _rank_lines(result: dict[str, Any]) -> str:
    blocks = []
    for group in result["groups"]:
        verdict = {None: "", True: "  (right)", False: "  (wrong)"}[group["correct"]]
        rows = [f"{p:10.3f}  {t}" for p, t in zip(group["log_probs"], group["texts"], strict=True)]
        blocks.append("\n".join([rows[0] + verdict, *rows[1:]]))
    if "accuracy" in result:
        blocks.append(f"{result['accuracy']:.1%} of {result['marked']} marked groups are right")
    return "\n\n".join(blocks)


def _lines(result: dict[str, Any]) -> dict[str, str]:
    lines = {"run": result["run"]}
    if "bleu" in result:
        lines["pairs"] = f"{result['pairs']:,} ({result['split']})"
        value, (low, high) = result["exact"]["value"], result["exact"]["ci95"]
        lines["exact"] = f"{value:.1%}  (95 %: {low:.1%} to {high:.1%})"
        for key, name in (("bleu", "BLEU"), ("chrf", "chrF")):
            value, (low, high) = result[key]["value"], result[key]["ci95"]
            lines[name] = f"{value:.1f}  (95 %: {low:.1f} to {high:.1f})  {result[key]['signature']}"
        for number, sample in enumerate(result["samples"], 1):
            lines |= {f"source {number}": sample["source"], f"written {number}": sample["written"]}
            lines[f"meant {number}"] = sample["target"]
        return lines
    if result.get("task") == "analogies":
        lines["questions"] = f"{result['questions']:,} of {result['of']:,}, the others have unknown words"
        return lines | {n: f"{result[n]:.1%}" for n in ("accuracy", "semantic", "syntactic") if n in result}
    if "task" in result:
        lines["pairs"] = f"{result['pairs']:,} of {result['of']:,}, the others have unknown words"
        return lines | {n: f"{result[n]:.3f}" for n in ("spearman", "pearson") if result[n] is not None}
    if "purity" in result:
        lines["texts"] = f"{result['texts']:,} ({result['split']})"
        names = {
            "purity": "purity",
            "mutual_information": "mutual information",
            "adjusted_rand": "adjusted Rand",
        }
        return lines | {name: f"{result[key]:.3f}" for key, name in names.items()}
    if "accuracy" in result:
        unit = "texts" if "texts" in result else "words"
        lines[unit] = f"{result[unit]:,} ({result['split']})"
        names = {"accuracy": "accuracy", "macro_f1": "macro F1", "matthews": "Matthews"}
        if "f1" in result:
            names = {
                "accuracy": "accuracy",
                "precision": "precision of spans",
                "recall": "recall of spans",
                "f1": "F1 of spans",
            }
        for key, name in names.items():
            value, (low, high) = result[key]["value"], result[key]["ci95"]
            lines[name] = f"{value:.3f}  (95 %: {low:.3f} to {high:.3f})"
        return lines
    lines["text"] = (
        f"{result['documents']:,} documents, {result['tokens']:,} tokens, {result['bytes']:,} bytes ({result['split']})"
    )
    pseudo = "pseudo-" if result["pseudo"] else ""
    for key, name in [
        ("bits_per_byte", "bits per byte"), ("bits_per_character", "bits per character"),
        ("token_perplexity", f"{pseudo}perplexity a token"), ("word_perplexity", f"{pseudo}perplexity a word"),
    ]:  # fmt: skip
        spaced = result["bytes"] < 40 * result["words"]  # Chinese has no words between blanks to divide by
        if key in result and (spaced or key != "word_perplexity"):
            lines[name] = f"{result[key]:.4g}"
    lines |= _counting_lines(result.get("counting"))
    return lines


def _counting_lines(counting: dict[str, Any] | None) -> dict[str, str]:
    if counting is None:
        return {}
    if not counting["comparable"]:
        return {"counting models": "not comparable: this model sees both sides of what it is asked"}
    names = {
        "unigram": "  unigram",
        "bigram": "  bigram",
        "trigram": "  trigram",
        "kneser_ney5": "  Kneser-Ney 5",
    }
    lines = {
        "counting models": f"of {counting['counted']:,} training tokens, bits per byte and perplexity a token"
    }
    for name, row in counting["models"].items():
        lines[names[name]] = f"{row['bits_per_byte']:.4g}   {row['token_perplexity']:.4g}"
    return lines
