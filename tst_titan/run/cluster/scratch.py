"""Whether jobs can write their temporary files where the site wants them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tst_titan.errors import UserError
from tst_titan.run.cluster.site import JobRequest


def check_scratch(request: JobRequest, source: str) -> None:
    """Make the scratch folder and write to it, if this machine should see it.

    Raises:
        UserError: that fails; jobs would fail one by one.
    """
    if not request.scratch or request.scratch_on_nodes_only or "$" in os.path.expandvars(request.scratch):
        return
    folder = Path(os.path.expandvars(request.scratch))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise UserError(
            f"{source}: key scratch: found {request.scratch}; cannot write there: {error.strerror}. Give a folder that "
            "you may write, or, if only the nodes have it, scratch_on_nodes_only: true"
        ) from None
