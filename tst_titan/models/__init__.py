"""Model families: shape, parameter and FLOPs counts."""
