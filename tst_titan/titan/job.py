"""Translate a stage into a torchtitan trainer config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from torchtitan.components.loss import BaseLoss, ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.validate import Validator
from torchtitan.config.configs import (
    CommConfig,
    CompileConfig,
    DebugConfig,
    ParallelismConfig,
    TrainingConfig,
)
from torchtitan.distributed.activation_checkpoint import FullAC, MemoryBudgetAC, SelectiveAC
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.tools.utils import get_peak_flops

from tst_titan.config.parallel import data_parallel_ranks
from tst_titan.config.schema import RuntimeConfig, StageConfig
from tst_titan.data.manifest import load_manifest
from tst_titan.superposition import LOSSES
from tst_titan.titan import cpu
from tst_titan.titan.checkpoints import StageCheckpoints
from tst_titan.titan.documents import DocumentAttention
from tst_titan.titan.heldout import HeldoutLoss
from tst_titan.titan.initialization import draw_whole_tensors
from tst_titan.titan.keys import with_keys
from tst_titan.titan.loader import LaneLoader, NoTokenizer
from tst_titan.titan.metrics import ExpertLoad, StageMetrics
from tst_titan.titan.models import build_model_spec
from tst_titan.titan.optimizers import optimizer_config
from tst_titan.titan.quantize import quantized
from tst_titan.titan.schedule import scheduler_config
from tst_titan.titan.start import HUGGING_FACE, place_of
from tst_titan.titan.superposition import Superposition, superpose
from tst_titan.titan.trainer import StageTrainer
from tst_titan.tree.folder import StageFolder
from tst_titan.tree.heldout import measured_at, tokens_to_score


@dataclass(frozen=True)
class Job:
    """A stage ready to be trained.

    Attributes:
        folder: the stage's folder.
        identity: hash that names the checkpoint folder.
        parent: the parent's manifest, None for a root.
    """

    folder: StageFolder
    identity: str
    parent: dict[str, Any] | None
    device_name: str

    @property
    def stage(self) -> StageConfig:
        """What the stage computes."""
        return self.folder.stage

    @property
    def runtime(self) -> RuntimeConfig:
        """How it runs."""
        return self.folder.runtime

    @property
    def flops_per_latent(self) -> float:
        """Forward and backward, at the stage's latent sequence length."""
        return self.stage.model.flops_per_latent(self.stage.latents_per_sequence)

    def trainer_config(self) -> StageTrainer.Config:
        """The torchtitan config of the stage."""
        config = self._config_of_tokens()
        sup = self.stage.superposition
        if sup is None:
            return config
        weights = sup.relative_weights
        superposition = Superposition(
            bag_size=sup.bag_size,
            steps=None,
            sides=sup.sides,
            loss=sup.loss,
            weights="uniform" if weights is None else tuple(weights),
            fills_bags=self.stage.documents.bags_inside,
        )
        return cast(StageTrainer.Config, superpose(config, superposition))

    def _config_of_tokens(self) -> StageTrainer.Config:
        stage, runtime = self.stage, self.runtime
        on_cpu = not cpu.has_accelerator()
        spec = self._model_spec(on_cpu)
        where = str(self.folder.path / "stage.yaml")
        config = StageTrainer.Config(
            model_spec=spec,
            dump_folder=str(self.folder.path / "logs"),
            tokenizer=NoTokenizer.Config(),
            dataloader=LaneLoader.Config(stage=stage, manifest=str(self.folder.data_manifest)),
            optimizer=optimizer_config(stage.optimizer, spec.model, where),
            lr_scheduler=scheduler_config(stage.schedule, stage.optimizer.learning_rate),
            loss=self._loss(),
            metrics=self._metrics(),
            checkpoint=self._checkpoint(),
            training=TrainingConfig(
                local_batch_size=self._micro_batch() * stage.sequences_per_lane,
                global_batch_size=stage.data.batch_sequences * stage.sequences_per_lane,
                # Positions of the rotary caches: held-out windows are as long as data sequences, bags or not.
                seq_len=stage.data.sequence_length,
                max_norm=stage.optimizer.max_gradient_norm,
                steps=stage.end_step,
                dtype="float32",
                mixed_precision_param="float32" if stage.precision == "float32" else "bfloat16",
                disable_cuda_graphs=True,
            ),
            parallelism=self._parallelism(),
            activation_checkpoint=activation_checkpoint(runtime.activation_checkpoint),
            compile=CompileConfig(enable=runtime.compile),
            comm=CommConfig(
                init_timeout_seconds=runtime.init_timeout_s,
                train_timeout_seconds=runtime.train_timeout_s,
                trace_buf_size=0 if on_cpu else 20000,
            ),
            validator=self._heldout(),
            debug=DebugConfig(
                seed=stage.seed,
                deterministic=on_cpu or runtime.deterministic,
                enable_structured_logging=False,
            ),
            reinitialize=list(stage.handover.reinitialize) if stage.handover else [],
            stop_file=str(self.folder.stop_file),
        )
        return with_keys(config, stage.titan | runtime.titan, where)

    def _model_spec(self, on_cpu: bool) -> ModelSpec:
        stage, in_full = self.stage, self.stage.precision == "float32"
        spec = build_model_spec(stage.model, expert_precision="float32" if in_full else "bfloat16")
        if stage.documents.mask_attention:
            for layer in spec.model.layers:
                layer.attention.inner_attention = DocumentAttention.Config()
        spec.model = quantized(
            spec.model,
            stage.precision,
            compiled=self.runtime.compile,
            experts=stage.model.moe is not None,
            where=str(self.folder.path / "stage.yaml"),
        )
        draw_whole_tensors(spec.model)
        if on_cpu:
            cpu.parallelize_for_gloo(spec)
        if stage.model.moe is not None:
            ExpertLoad.attach_to(spec)
        return spec

    def _loss(self) -> BaseLoss.Config:
        inner = CrossEntropyLoss.Config()
        if self.runtime.loss_chunks == 1:
            return inner
        return ChunkedLossWrapper.Config(num_chunks=self.runtime.loss_chunks, loss_fn=inner)

    def _metrics(self) -> StageMetrics.Config:
        stage, runtime = self.stage, self.runtime
        parent = self.parent or {"data_tokens": 0, "flops": 0.0}
        return StageMetrics.Config(
            log_freq=runtime.log_every,
            disable_color_printing=True,
            path=str(self.folder.metrics_path),
            title=self.folder.title,
            phase=stage.phase,
            bag_size=stage.bag_size,
            start_step=stage.start_step,
            end_step=stage.end_step,
            checkpoint_every=runtime.checkpoint_every,
            latents_per_step=stage.latents_per_step,
            data_tokens_per_step=stage.data_tokens_per_step,
            data_tokens_before=parent["data_tokens"],
            flops_before=parent["flops"],
            flops_per_latent=self.flops_per_latent,
            expected_first_loss=self._expected_first_loss(),
            peak_flops=self.peak_flops(),
        )

    def _heldout(self) -> Validator.Config:
        folder, stage, config = self.folder, self.stage, self.runtime.heldout
        tokens = 0
        if config is not None:
            tokens = tokens_to_score(config, stage, load_manifest(folder.data_manifest).heldout.tokens)
        if config is None or not tokens:
            return Validator.Config(enable=False)
        before = folder.parent.stage.superposition if folder.parent else stage.superposition
        last = folder.parent.heldout.last() if folder.parent else None
        return HeldoutLoss.Config(
            enable=True,
            steps=1,  # of torchtitan's own loop, which has no part in it
            stage=stage,
            manifest=str(folder.data_manifest),
            path=str(folder.heldout.path),
            tokens=tokens,
            points=measured_at(stage.start_step, stage.end_step, config.every, before != stage.superposition),
            known=last is not None
            and (last["step"], last["tokens"]) == (stage.start_step, tokens)
            and not (stage.handover and stage.handover.reinitialize)
            and stage.superposition in (None, before),
            sequences=self._micro_batch(),
        )

    def _expected_first_loss(self) -> float | None:
        if self.stage.start_from is not None:
            return None
        sup = self.stage.superposition
        if self.stage.model.tied_embeddings:
            return None  # a narrow model that has learned nothing predicts the token that it reads
        if sup is None or sup.sides == "input_only":
            return math.log(self.stage.model.vocab_size)
        loss = LOSSES[sup.loss]
        return loss.initial(self.stage.model.vocab_size, sup.bag_size) if loss.is_cross_entropy else None

    def peak_flops(self) -> float | None:
        """FLOP/s of all devices at their peak; None where it is not known."""
        if self.runtime.peak_tflops is not None:
            return self.runtime.peak_tflops * 1e12 * self.runtime.world_size
        if not cpu.has_accelerator():
            return None
        return get_peak_flops(self.device_name) * self.runtime.world_size

    def _checkpoint(self) -> StageCheckpoints.Config:
        handover, start = self.stage.handover, self.folder.start
        load_path = None if start is None else str(place_of(self.folder.results, start))
        if self.parent is not None and self.folder.parent is not None:
            load_path = str(self.folder.parent.path / self.parent["checkpoint"])
        return StageCheckpoints.Config(
            enable=True,
            # An absolute folder: torchtitan joins it to dump_folder, where only its logs belong.
            folder=str(self.folder.checkpoint_folder(self.identity)),
            interval=self.runtime.checkpoint_every,
            keep_latest_k=self.runtime.keep_last_checkpoints,
            async_mode="async" if self.runtime.async_checkpoint else "disabled",
            initial_load_path=load_path,
            initial_load_in_hf=start is not None and start["kind"] == HUGGING_FACE,
            # Both default to True in torchtitan, which would drop Adam's moments at the switch.
            initial_load_model_only=start is not None,
            last_save_model_only=False,
            fresh_optimizer=handover is not None and handover.load == "model_only",
        )

    def _parallelism(self) -> ParallelismConfig:
        p = self.runtime.parallel
        return ParallelismConfig(
            data_parallel_replicate_degree=p.replicate or 1,
            data_parallel_shard_degree=p.shard or -1,
            tensor_parallel_degree=p.tensor,
            expert_parallel_degree=p.expert,
            context_parallel_degree=p.context,
            pipeline_parallel_degree=p.pipeline,
            # The one backend that works on gloo and reports the right loss (docs/architecture.md).
            spmd_backend="partial_dtensor",
        )

    def _micro_batch(self) -> int:
        """Sequences (lanes) per forward pass and data-parallel rank."""
        per_rank = self.stage.data.batch_sequences // data_parallel_ranks(self.runtime)
        return self.runtime.micro_batch_sequences or per_rank


def activation_checkpoint(kind: str) -> Any:
    """torchtitan's config of a kind of activation checkpointing."""
    kinds = {"full": FullAC, "selective": SelectiveAC, "memory_budget": MemoryBudgetAC}
    return None if kind == "none" else kinds[kind].Config()
