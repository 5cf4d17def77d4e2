"""One command, a verb each. A verb's module is imported only when it is called, so ``--help`` never imports torch."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

from plume.errors import UserError


class Verb(NamedTuple):
    """A command: where it is written, and what it does in a few words."""

    module: str
    usage: str
    does: str


VERBS = {
    "Make a model": {
        "tokenizer": Verb("tokenizer", "DATA --out DIR", "train a tokenizer on text"),
        "pretrain": Verb(
            "pretrain", "RECIPE --data DATA --out RUN", "train a model on text, or go on with it"
        ),
        "adapt": Verb("adapt", "RUN --data FILE --out RUN2", "teach a pretrained model to classify texts"),
    },
    "Use it": {
        "evaluate": Verb("evaluate", "RUN --data DATA", "bits per byte; accuracy and F1; BLEU and chrF"),
        "generate": Verb("generate", "RUN --prompt TEXT", "continue a text, fill its [MASK], translate it"),
        "chat": Verb("chat", "RUN", "write with a model, line by line"),
        "search": Verb("search", "DATA QUERY", "find the documents that answer a query"),
    },
    "Look and exchange": {
        "demo": Verb("demo", "--language en|zh --out DIR", "the whole story on real text, in 8 minutes"),
        "show": Verb("show", "RECIPE...", "draw what a recipe asks of a model; needs no data"),
        "check": Verb("check", "my_objective.py", "put an objective to the laws; draws what breaks one"),
        "import": Verb("import_folder", "HF_FOLDER --out RUN", "make a run of a published model"),
        "export": Verb("export_folder", "RUN --to DIR", "write a folder that transformers loads"),
    },
}
_ALL = {name: verb for group in VERBS.values() for name, verb in group.items()}

_REMEDIES = {  # for what the system refuses wherever a verb reads or writes
    errno.EEXIST: "a folder is wanted here, and this is a file: name another",
    errno.ENOTDIR: "a folder is wanted here, and this is a file: name another",
    errno.EISDIR: "a file is wanted here, and this is a folder: name a file in it",
    errno.ENOENT: "look how it is written",
    errno.EACCES: "name one that you may read, or a place where you may write",
    errno.EROFS: "name a place where you may write",
    errno.ENOSPC: "make room, or name another place",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code: 0, 1 (a check failed), 2 (what the user can mend), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if words is None else words)
    _spin_briefly()
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(words)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `plume generate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise  # none of the system's: a defect of ours, which needs its traceback
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = _REMEDIES.get(error.errno or 0)
        return _fail(f"{where}{error.strerror or error}" + (f" ({remedy})" if remedy else ""))


def _spin_briefly() -> None:
    """Let OpenMP's threads wait for each other asleep sooner than by default, unless the user has said how.

    While they spin, on cores that other programs want too, the thread that they wait for does not run: a small network
    then trains at a fraction of its speed (benchmarks/busy.py). Read once, when torch is loaded: hence here.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(_version())
        return 0
    verb = _ALL.get(words[0])
    if verb is None:
        from plume.config.sentences import nearest

        raise UserError(f"there is no command {words[0]!r}{nearest(words[0], _ALL)}")
    module = importlib.import_module(f"plume.commands.{verb.module}")
    from plume.commands.words import call

    return call(module.command, name=f"plume {words[0]}", usage=f"{words[0]} {verb.usage}", words=words[1:])


def overview() -> str:
    """What ``plume --help`` prints. Written here, since a help that takes no time is read more often."""
    width = max(len(name) + 1 + len(verb.usage) for name, verb in _ALL.items())
    lines = ["Plume: from a folder of text to a language model of one's own.", ""]
    for group, verbs in VERBS.items():
        lines += [f"{group}:"]
        lines += [f"  plume {f'{name} {verb.usage}':<{width}}  {verb.does}" for name, verb in verbs.items()]
        lines += [""]
    return "\n".join(
        [
            *lines,
            *wrap(
                "RECIPE is a family and a size such as bert:tiny, or my_file.py:function, or a run's config.json; "
                f"RUN is a folder. The families: {', '.join(_families())}.",
                100,
            ),
            "Words like training.steps=1000 or model.num_layers=4 change a recipe.",
            "",
            "Begin with:  plume show gpt:tiny bert:tiny",
            "More about a command:  plume pretrain --help",
        ]
    )


def _families() -> list[str]:
    """Every file of recipes is one."""
    return sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("[a-z]*.py"))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("plume-lm")
    except PackageNotFoundError:
        return "unknown (run from a folder that was not installed)"


def _fail(sentence: str) -> int:
    print(f"plume: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
