"""One command, a verb each. A verb's module is imported only when it is called, so ``--help`` never imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from plume.errors import UserError


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0, 1 for a crash of ours, 2 for a user's error, 130 for Ctrl-C)."""
    raise UserError("not there yet")


if __name__ == "__main__":
    sys.exit(main())
