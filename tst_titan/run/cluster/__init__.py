"""What the jobs of the pipeline ask a cluster for, whether it has that, and how far they are."""
