from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from plume.training import faults

Arm = Callable[[str | None], None]


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    """``arm("checkpoint.rename=fail")`` sets the faults of what follows, counted from here; ``arm(None)`` none."""

    def set_faults(plan: str | None) -> None:
        faults.reset()
        if plan is None:
            monkeypatch.delenv(faults.VARIABLE, raising=False)
        else:
            monkeypatch.setenv(faults.VARIABLE, plan)

    yield set_faults
    set_faults(None)
