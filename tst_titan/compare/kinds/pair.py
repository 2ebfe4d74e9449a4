"""Every run against the baselines of its group (figures 1, 3, 6 and 9, tables 1 and 2)."""

from tst_titan.compare.kinds import Pairwise

KIND = Pairwise()
