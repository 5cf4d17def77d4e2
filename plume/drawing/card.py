"""A run on a card, for a notebook."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path


def card(name: str, facts: Mapping[str, str], can: Sequence[str], *, curve: Path | None = None) -> str:
    """HTML: what the run is, what can be called on it, and its loss curve where there is one."""
    rows = "".join(
        f"<tr><th style='text-align:left;padding:.1rem .8rem .1rem 0;opacity:.65;font-weight:500'>{escape(key)}</th>"
        f"<td style='text-align:left;padding:.1rem 0'>{escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    methods = " ".join(
        f"<code style='border:1px solid #8885;border-radius:99px;padding:.05rem .5rem'>{escape(method)}</code>"
        for method in can
    )
    picture = ""
    if curve is not None and curve.is_file():
        data = base64.b64encode(curve.read_bytes()).decode()
        picture = (
            f"<img alt='loss curve' style='max-width:min(100%,34rem)' src='data:image/png;base64,{data}'>"
        )
    return (
        "<div style='border:1px solid #8885;border-radius:12px;padding:.8rem 1.1rem;display:inline-block'>"
        f"<b style='font-family:monospace;font-size:1.1em'>{escape(name)}</b>"
        f"<table style='margin:.5rem 0;border-collapse:collapse'>{rows}</table>"
        f"<p style='margin:.5rem 0 0;line-height:2'>{methods}</p>{picture}</div>"
    )
