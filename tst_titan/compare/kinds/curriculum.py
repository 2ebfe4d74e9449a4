"""Several bag sizes in a row: the run of role "curriculum" against all others, those against the baselines."""

from __future__ import annotations

from collections.abc import Sequence

from tst_titan.compare.kinds import Pairwise
from tst_titan.compare.runs import RunData

ROLE = "curriculum"


class Curriculum(Pairwise):
    """Bag sizes one after the other."""

    def candidates(self, run: RunData, group: Sequence[RunData]) -> list[RunData]:
        """See ``Kind``."""
        if run.spec.role != ROLE:
            return super().candidates(run, group)
        return [other for other in group if other.spec.role != ROLE]


KIND = Curriculum()
