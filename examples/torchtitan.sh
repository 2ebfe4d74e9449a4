#!/usr/bin/env bash
# Token superposition in stock torchtitan: its own command, debug model, text loader and flags; bags, then tokens.
#
#     [PROCESSES=2] examples/torchtitan.sh [STEPS] [any flag of torchtitan]
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-30}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A tokenizer and a data set in the formats that torchtitan reads: yours come from --hf_assets_path and --dataloader.dataset.
python - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

folder = Path(sys.argv[1])
texts = [path.read_text(encoding="utf8") for path in sorted(Path("docs").glob("*.md"))]
tokenizer = ByteLevelBPETokenizer()
tokenizer.train_from_iterator(texts, vocab_size=2000, special_tokens=["<eos>"], show_progress=False)
(folder / "tokenizer").mkdir()
(folder / "text").mkdir()
tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
(folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
(folder / "text" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
PYTHON

OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node "${PROCESSES:-1}" -m torchtitan.train \
    --module tst_titan.recipes --config llama3.llama3_debugmodel \
    --superposition.bag_size 4 --superposition.steps $((steps * 3 / 10)) \
    --training.steps "$steps" --training.seq_len 64 --training.local_batch_size 4 \
    --hf_assets_path "$folder/tokenizer" --dataloader.dataset_path "$folder/text" --dump_folder "$folder/out" \
    --metrics.disable_color_printing "${@:2}"
