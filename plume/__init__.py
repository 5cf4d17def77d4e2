"""Plume: from a folder of text to a language model of one's own.

    import plume
    from plume.recipes import bert

    run = plume.pretrain(bert.tiny(), data="my_texts", out="runs/bert-1")
    run.fill_mask("The film was [MASK].")

Every verb of the command line is a function here. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plume.commands.adapt import adapt as adapt
    from plume.commands.chat import chat as chat
    from plume.commands.check import check as check
    from plume.commands.evaluate import evaluate as evaluate
    from plume.commands.export_folder import export as export
    from plume.commands.generate import generate as generate
    from plume.commands.import_folder import import_folder as import_folder
    from plume.commands.pretrain import pretrain as pretrain
    from plume.commands.search import search as search
    from plume.commands.show import show as show
    from plume.commands.tokenizer import tokenizer as tokenizer
    from plume.errors import UserError as UserError
    from plume.runs import Run as Run
    from plume.runs import load as load

_HOMES = {
    "Run": "plume.runs",
    "UserError": "plume.errors",
    "adapt": "plume.commands.adapt",
    "chat": "plume.commands.chat",
    "check": "plume.commands.check",
    "evaluate": "plume.commands.evaluate",
    "export": "plume.commands.export_folder",
    "generate": "plume.commands.generate",
    "import_folder": "plume.commands.import_folder",
    "load": "plume.runs",
    "pretrain": "plume.commands.pretrain",
    "search": "plume.commands.search",
    "show": "plume.commands.show",
    "tokenizer": "plume.commands.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plume' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
