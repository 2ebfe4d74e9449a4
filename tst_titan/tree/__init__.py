"""From an experiment and a scale to runs and stages: drafting, cutting, sharing, lineage, identity, plan."""
