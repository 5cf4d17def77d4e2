"""The table of paradigms: recipe, lines of code, parity as measured, speed, and the picture that `plume show` draws.

    python -m pytest tests/parity tests/models/test_bands.py tests/models/test_convolution.py \\
        tests/models/test_vectors.py -m "" --junitxml=parity.xml
    python benchmarks/objectives.py > speed.md
    python benchmarks/paradigms.py --parity parity.xml --speed speed.md

It writes docs/paradigms.md and docs/show/*.html. Nothing in the table is typed in: lines are counted in the files,
parity errors are what the tests recorded (the largest of each kind), speeds are rows of the other program. What was
not measured is a dash. tests/test_docs.py counts the lines again.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from plume import config
from plume.commands.show import show
from plume.models import counts, ngram_kernels, ngrams, smoothing, sparse, vector_kernels, vectors
from plume.models.transformer import TransformerConfig
from plume.objectives.base import Objective
from plume.training import stages
from plume.training.settings import Pretraining

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("hidden", "logits", "loss", "gradients", "p", "log10 p", "counts", "weights")
# What counts has no objective: these modules are all there is of it.
COUNTED = {
    "ngram": (counts, smoothing, ngrams, ngram_kernels),
    "bow": (vectors, vector_kernels, sparse),
    "tfidf": (vectors, vector_kernels, sparse),
}
TABLES = {"gpt": "gpt2", "transformer": "marian"}  # families whose name table has another name


@dataclass(frozen=True)
class Paradigm:
    """A row: what people call it, its recipe, and the tests that compare it with a reference.

    ``tests``: a file of tests (test_NAME.py), and a pattern that the names of those which count must contain.
    ``also``: of which of the family's other recipes it is the row.
    """

    title: str
    recipe: str
    tests: tuple[tuple[str, str], ...]
    also: str = ""

    @property
    def family(self) -> str:
        return self.recipe.partition(":")[0]


PARADIGMS = (
    Paradigm("n-gram", "ngram:kneser_ney", (("kenlm", ""), ("nltk", ""))),
    Paradigm("bag of words", "bow:words", (("vectors", "counts_are"),)),
    Paradigm("TF-IDF", "tfidf:words", (("vectors", "tfidf_is"),)),
    Paradigm("Word2Vec", "word2vec:tiny", (("word2vec", ""),)),
    Paradigm("LSTM language model", "lstm:tiny", (("lstm", ""),)),
    Paradigm("GRU language model", "gru:tiny", (("gru", ""),)),
    Paradigm("convolutional language model", "cnn:tiny", (("convolution", "torchs"),)),
    Paradigm("ELMo", "elmo:tiny", (("elmo", ""),)),
    Paradigm("Transformer of 2017", "transformer:tiny", (("bart", "2017"),)),
    Paradigm("GPT-1", "gpt:gpt1", (("gpt1", ""),), "none"),
    Paradigm("GPT-2", "gpt:tiny", (("gpt2", ""),), "small|gpt2"),
    Paradigm("GPT-3: bands", "gpt:gpt3_125m", (("bands", "alternating"),), "gpt3"),
    Paradigm("BERT", "bert:tiny", (("bert", ""),)),
    Paradigm("RoBERTa", "roberta:tiny", (("roberta", ""),)),
    Paradigm("ERNIE", "ernie:tiny", (("ernie", ""),)),
    Paradigm("ELECTRA", "electra:tiny", (("electra", ""),)),
    Paradigm("XLNet", "xlnet:tiny", (("xlnet", ""),)),
    Paradigm("UniLM", "unilm:tiny", (("unilm", ""),)),
    Paradigm("prefix LM", "unilm:prefix", (("unilm", "seq2seq"),), "none"),
    Paradigm("T5", "t5:tiny", (("t5", "states"),)),
    Paradigm("BART", "bart:tiny", (("bart", "states|classifier"),)),
    Paradigm("joint encoder-decoder", "joint:tiny", (("t5", "joint"),)),
)


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text(encoding="utf-8")
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            first = node.body[0]
            told.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and n not in told for n, line in lines
    )


def parts(objective: Objective[Any]) -> Iterator[type]:
    """The classes of an objective and of its members."""
    yield type(objective)
    for value in vars(objective).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Objective):
                yield from parts(one)


def files(name: str) -> dict[str, list[Path]]:
    """What a paradigm is written in: objectives, recipe, a network that is no Transformer, name table."""
    family, recipe = name.partition(":")[0], config.resolve(name)
    classes: list[type] = []
    networks: list[Path] = []
    models = [Path(inspect.getfile(part)) for part in COUNTED.get(family, ())]
    if isinstance(recipe, Pretraining):
        classes = [c for objective in stages.objectives(recipe) for c in parts(objective)]
        if not isinstance(recipe.model, TransformerConfig):
            networks = [Path(inspect.getfile(type(recipe.model)))]
    table = ROOT / "plume" / "models" / "interop" / f"{TABLES.get(family, family)}.py"
    return {
        "objective": list(dict.fromkeys(Path(inspect.getfile(c)) for c in classes)),
        "network": networks,
        "model": models,
        "recipe": [ROOT / "plume" / "recipes" / f"{family}.py"],
        "names": [table] if table.is_file() else [],
    }


def lines(name: str) -> dict[str, int]:
    """Lines of code of each part of a recipe's paradigm, parts without any left out."""
    counted = {what: sum(map(code_lines, paths)) for what, paths in files(name).items()}
    return {what: count for what, count in counted.items() if count}


def parity(paths: Sequence[Path]) -> list[tuple[str, str, str, str, float]]:
    """Every error that the tests recorded: test file, test, precision, kind, size."""
    found = []
    for case in (case for path in paths for case in ET.parse(path).getroot().iter("testcase")):  # noqa: S314 # our own
        module = re.search(r"test_(\w+)$", case.get("classname", "").replace(".Test", ""))
        told = [(str(p.get("name")), str(p.get("value"))) for p in case.iter("property")]
        if module is None:
            continue
        name = case.get("name", "")
        double = re.search(r"1e-(0?9|10)|float64|fp64|double", name) or ("precision", "fp64") in told
        precision = "fp64" if double else "fp32"
        found += [(module[1], name, precision, kind, float(value)) for kind, value in told if kind in KINDS]
    return found


def speeds(path: Path | None) -> dict[str, tuple[str, str]]:
    """recipe -> (tokens/s of its step, over a causal model's), from the rows of benchmarks/objectives.py."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path else ():
        cells = [cell.strip() for cell in line.strip("| \n").split("|")]
        if len(cells) >= 4 and re.fullmatch(r"`[\w:]+`", cells[0]):
            rows[cells[0].strip("`")] = (cells[1], cells[3])
    return rows


def errors_of(paradigm: Paradigm, found: Sequence[tuple[str, str, str, str, float]], precision: str) -> str:
    """The largest error of each kind."""
    mine = [
        (kind, error)
        for module, name, at, kind, error in found
        if at == precision and any(module == file and re.search(what, name) for file, what in paradigm.tests)
    ]
    largest = {kind: max(error for k, error in mine if k == kind) for kind in KINDS if kind in dict(mine)}
    return ", ".join(f"{kind} {error:.0e}" for kind, error in largest.items()) or "–"


def row(
    paradigm: Paradigm,
    errors: Sequence[tuple[str, str, str, str, float]],
    timed: dict[str, tuple[str, str]],
    pictures: Path,
    slots: int | None,
) -> str:
    """One line of the table; draws the picture too, unless ``slots`` is None."""
    name, family = paradigm.recipe, paradigm.family
    pictures.mkdir(parents=True, exist_ok=True)
    file = f"{name.replace(':', '-')}.html"
    if slots is not None:
        (pictures / file).write_text(show(name, slots=slots).html(), encoding="utf-8")
    picture = f"[look]({pictures.name}/{file})"
    rows = {p.recipe for p in PARADIGMS}
    variants = [
        n for n in config.recipes()[family] if f"{family}:{n}" not in rows and re.match(paradigm.also, n)
    ]
    others = ", ".join(f"`{n}`" for n in variants)
    counted = ", ".join(f"{what} {count}" for what, count in lines(name).items())
    speed, over = timed.get(name, ("–", "–"))
    double, single = (errors_of(paradigm, errors, precision) for precision in ("fp64", "fp32"))
    cells = (paradigm.title, f"`{name}`", others, counted, double, single, speed, over, picture)
    return f"| {' | '.join(cells)} |"


HEADER = """# Every paradigm

One objective and one recipe each, over the same trainer. The table is written by `python benchmarks/paradigms.py`
(its first lines name the commands that it reads from); no figure in it is typed in.

- **lines**: code without blank lines, comments and docstrings; objectives share a file where they share the noise.
  A network is counted where it is not the Transformer that the others have in common.
- **parity**: the largest difference from the reference that the tests measured, on tiny random models: `transformers`,
  AllenNLP's fixture for ELMo, `torch.nn` for the recurrent and the convolutional ones, gensim for Word2Vec, the dense
  mask for GPT-3's bands, T5's own parts for the joint model. What counts is compared by its probabilities (nltk's
  maximum likelihood; KenLM, which keeps fp32, on our ARPA files), counts and weights (scikit-learn).
- **tokens/s**: training steps of the small recipe, published sizes in its shape, and what that is of a causal model's
  over the same backbone in the same run (by CPU time in brackets), on the machine that made the table.
- **picture**: what `plume show` draws of it.

| paradigm | recipe | also | lines | parity, fp64 | parity, fp32 | tokens/s | over causal | picture |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parity", type=Path, nargs="*", default=(), help="junit xml of the tests")
    parser.add_argument("--speed", type=Path, help="what benchmarks/objectives.py printed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "paradigms.md")
    parser.add_argument("--slots", type=int, default=14)
    parser.add_argument("--only", nargs="*", help="write these recipes' rows anew, and leave the others")
    parser.add_argument("--rows-only", action="store_true", help="leave the pictures as they are")
    args = parser.parse_args()
    errors, timed = parity(args.parity), speeds(args.speed)
    slots = None if args.rows_only else args.slots
    before = {}
    if args.only:
        for line in args.out.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"\| [^|]+ \| `([\w:]+)` \|", line):
                before[found[1]] = line
    rows = [
        before[paradigm.recipe]
        if paradigm.recipe in before and paradigm.recipe not in args.only
        else row(paradigm, errors, timed, args.out.parent / "show", slots)
        for paradigm in PARADIGMS
    ]
    args.out.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(rows)} paradigms")


if __name__ == "__main__":
    main()
