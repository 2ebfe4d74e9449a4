"""How the tokens of a bag phase are fed: every run against those before it."""

from __future__ import annotations

from collections.abc import Sequence

from tst_titan.compare.kinds import Pairwise
from tst_titan.compare.runs import RunData


class FeedingKind(Pairwise):
    """Runs in their order."""

    def candidates(self, run: RunData, group: Sequence[RunData]) -> list[RunData]:
        """See ``Kind``."""
        before = list(group)[: [other is run for other in group].index(True)]
        return [other for other in before if other.spec.label != run.spec.label]


KIND = FeedingKind()
