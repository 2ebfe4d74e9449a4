"""torchtitan's checkpoint manager with what a stage adds: exclusions at the hand-over only, saves on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchtitan.components.checkpointer import CheckpointManager

OPTIMIZER_STATE = "optimizer"
TRAIN_STATE = "train_state"


class StageCheckpoints(CheckpointManager):
    """Loads the stage's own newest checkpoint, else the parent's; never a half-written one."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        fresh_optimizer: bool = False
        """Leave the parent's optimizer state out at the hand-over, but not at a later restart."""

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.fresh_optimizer = config.fresh_optimizer
        self.handed_over = False
        self.save_next = False

    def _load(self, step: int = -1) -> bool:
        self.handed_over = self._find_load_step() == -1 and self.initial_load_path is not None
        # torchtitan applies exclusions at every load; a restart must take back everything.
        self.exclude_from_loading = [OPTIMIZER_STATE] if self.handed_over and self.fresh_optimizer else []
        return super()._load(step)

    def _should_save(self, curr_step: int, last_step: bool = False) -> bool:
        return self.save_next or super()._should_save(curr_step, last_step)

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if self._should_save(curr_step, last_step) and not self.states[TRAIN_STATE].parameters_are_finite():
            raise FloatingPointError(f"the weights are not finite after step {curr_step}; nothing was saved")
        saved = super()._save(curr_step, last_step)
        if saved and last_step:
            self._purge_stale_checkpoints()  # torchtitan leaves one more than keep_latest_k behind here
        return saved

    def save_now(self, step: int) -> None:
        """Write a full checkpoint of ``step`` whatever the interval, unless it is already there."""
        if self._find_load_step() == step:
            return
        self.save_next = True
        try:
            self.save(step)
        finally:
            self.save_next = False
        self.maybe_wait_for_saving()
