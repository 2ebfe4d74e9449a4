"""What a stage refuses before anything expensive starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from tst_titan.config.parallel import check_parallel
from tst_titan.data.lanes import check_enough
from tst_titan.data.manifest import DataManifest
from tst_titan.data.shards import verify_here, verify_shards
from tst_titan.errors import UserError
from tst_titan.text import in_bytes
from tst_titan.tree.folder import StageFolder
from tst_titan.tree.heldout import tokens_to_score
from tst_titan.tree.plan import checkpoint_bytes, checkpoints_kept
from tst_titan.tree.resolve import Stage
from tst_titan.tree.start import start_folder


def check_job(folder: StageFolder, first_on_node: bool = True) -> DataManifest:
    """Check the corpus and the layout against the stage, and return the corpus's manifest.

    Args:
        folder: the stage.
        first_on_node: compare the corpus's hashes too; one process a machine does it for all.

    Raises:
        UserError: a missing, truncated or altered shard, a vocabulary smaller than the tokenizer's, too few tokens for
            the whole run, or degrees of parallelism that do not fit.
    """
    stage, runtime = folder.stage, folder.runtime
    where = str(folder.path / "stage.yaml")
    check_parallel(stage, runtime, where)
    manifest = verify_shards(folder.data_manifest, hashes=False)
    if first_on_node:
        verify_here(folder.data_manifest)
    if stage.model.vocab_size < manifest.tokenizer.vocab_size:
        raise UserError(
            f"{where}: key model.vocab_size: found {stage.model.vocab_size}; the tokenizer of corpus "
            f"{stage.data.corpus} has {manifest.tokenizer.vocab_size} entries, so it must be at least that"
        )
    tokens = manifest.train.tokens
    if runtime.heldout is not None:
        try:
            tokens_to_score(runtime.heldout, stage, manifest.heldout.tokens)
        except UserError as error:
            raise UserError(f"{folder.path / 'runtime.yaml'}: {error}") from None
    limit = stage.data.limit_tokens
    if limit is not None and limit > tokens:
        raise UserError(f"{where}: key data.limit_tokens: found {limit:,}; the corpus has {tokens:,} tokens")
    check_enough(
        manifest,
        runtime.run_tokens_per_lane,
        stage.data.batch_sequences,
        stage.data.allow_repeat,
        run=f"the longest run through {folder.recipe}/{folder.lineage}",
    )
    return manifest


def check_start(folder: StageFolder, data: DataManifest, first_on_node: bool) -> None:
    """Check what a root stage begins with: that it is what was hashed, of the stage's shape and the corpus's tokenizer.

    Args:
        folder: a root stage that does not begin with new weights.
        data: manifest of its corpus.
        first_on_node: compare hashes too.

    Raises:
        UserError: it is not.
    """
    from tst_titan.titan.start import check_files, check_model, check_tokenizer, place_of

    assert folder.start is not None
    place = place_of(folder.results, folder.start)
    manifest = start_folder(folder.results, str(folder.stage.start_from)) / "manifest.json"
    check_files(place, manifest, folder.start["files"], hashes=first_on_node)
    check_model(place, folder.start["kind"], folder.stage.model)
    check_tokenizer(place, folder.data_manifest.parent / data.tokenizer.path, data.corpus)


def check_space(folder: StageFolder, checkpoints: Path) -> None:
    """Check that the stage's checkpoints fit on the disk.

    Args:
        folder: the stage.
        checkpoints: where they are written; what lies there already is part of them.

    Raises:
        UserError: they do not.
    """
    stage = Stage(folder.recipe, folder.lineage, folder.stage, folder.runtime)
    there = sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file())
    one = checkpoint_bytes(stage)
    needed = one * checkpoints_kept(stage, more=1) - there
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise UserError(
            f"{folder.path}: checkpoints need {in_bytes(needed)} ({in_bytes(one)} each), but {in_bytes(free)} are free "
            "there. Free some (`snakemake prune`, docs/checkpoints.md), or keep fewer (keep_last_checkpoints)"
        )
