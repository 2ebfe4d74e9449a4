"""Final loss over how often the baseline reads its data: runs of the same number of epochs are compared."""

from tst_titan.compare.kinds.lr_sweep import Sweep

KIND = Sweep("epochs", "epochs", "Epochs of the baseline over the data", is_tuned=False)
