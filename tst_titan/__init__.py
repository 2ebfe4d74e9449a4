"""TST-Titan: Token Superposition Training on torchtitan, as a reproducible pipeline."""
