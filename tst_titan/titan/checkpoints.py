"""torchtitan's checkpoint manager with what a stage adds: checked files, exclusions at the hand-over, stops."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.checkpointer.base import MODEL

from tst_titan.titan.start import load_expert_biases
from tst_titan.tree.checkpoint import damage, list_path, set_aside, write_list
from tst_titan.tree.folder import StageFolder

OPTIMIZER_STATE = "optimizer"
TRAIN_STATE = "train_state"


class StageCheckpoints(CheckpointManager):
    """Loads the stage's own newest checkpoint, else the parent's; never a half-written or damaged one."""

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
        self._set_damaged_aside()
        self.handed_over = self._find_load_step() == -1 and self.initial_load_path is not None
        # torchtitan applies exclusions at every load; a restart must take back everything.
        self.exclude_from_loading = [OPTIMIZER_STATE] if self.handed_over and self.fresh_optimizer else []
        if self.handed_over and not self.initial_load_model_only:
            self._check_parent()
        loaded = super()._load(step)
        if self.handed_over and self.initial_load_in_hf:
            load_expert_biases(self.states[MODEL].model, Path(self.initial_load_path or ""))
        return loaded

    def _set_damaged_aside(self) -> None:
        while (step := self._find_load_step()) != -1:
            checkpoint = Path(self._create_checkpoint_id(step))
            if (problem := _damage(checkpoint)) is None:
                return
            if dist.get_rank() == 0:
                aside = set_aside(checkpoint)
                older = self._find_load_step()
                title = StageFolder.at(checkpoint.parents[2]).title
                then = f"the one of step {older} is used" if older != -1 else "the stage begins anew"
                print(
                    f"{title}  the checkpoint of step {step} is damaged: {problem}; it is now {aside}, {then}",
                    file=sys.stderr,
                )
            dist.barrier()

    def _check_parent(self) -> None:
        assert self.initial_load_path is not None
        checkpoint = Path(self.initial_load_path)
        if (problem := _damage(checkpoint)) is not None:
            parent = StageFolder.at(checkpoint.parents[2])
            raise parent.lost_checkpoint(parent.manifest(), problem)

    def _should_save(self, curr_step: int, last_step: bool = False) -> bool:
        return self.save_next or super()._should_save(curr_step, last_step)

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if self._should_save(curr_step, last_step) and not self.states[TRAIN_STATE].parameters_are_finite():
            raise FloatingPointError(f"the weights are not finite after step {curr_step}; nothing was saved")
        rank, checkpoint = dist.get_rank(), Path(self._create_checkpoint_id(curr_step))
        if self._should_save(curr_step, last_step):
            list_path(checkpoint, rank).unlink(missing_ok=True)  # of a checkpoint that is written again
        saved = super()._save(curr_step, last_step)
        if saved and self.save_future is not None:

            def listed(future: Future) -> None:
                if future.exception() is None:
                    write_list(checkpoint, rank)

            self.save_future.add_done_callback(listed)  # in the thread that has saved
        elif saved:
            write_list(checkpoint, rank)
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


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, the same on all ranks; each reads its share of the files."""
    rank, world = dist.get_rank(), dist.get_world_size()
    found: list[str | None] = [None] * world
    dist.all_gather_object(found, damage(checkpoint, contents=True, share=(rank, world)))
    return next(filter(None, found), None)
