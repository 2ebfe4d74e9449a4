"""A pair over several seeds."""

from tst_titan.compare.kinds import Pairwise

KIND = Pairwise()
