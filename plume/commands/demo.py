"""``plume demo``: the whole story on real text, from a corpus to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from plume.commands.words import Json, tell


def demo(*, language: Literal["en", "zh"] = "en", out: str | Path) -> Path:
    """Train a GPT and a BERT on real text beside models that count; returns the report (HTML).

    Raises:
        UserError: anything the user can mend; the sentence says how.
    """
    from plume.studies import demo as study

    return study.demo(language, Path(out))


def command(*, language: Literal["en", "zh"] = "en", out: Path, json: Json = False) -> None:
    """From a corpus to a GPT, a BERT and a report, in about 8 minutes on two cores. The same call goes on.

    Parameters
    ----------
    language
        en: English film reviews; zh: Chinese news and shop reviews, and a Chinese report.
    out
        Folder for the corpus, the runs and report.html.
    """
    page = demo(language=language, out=out)
    if json:
        tell({"report": str(page)}, "", as_json=True)
