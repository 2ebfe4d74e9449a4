# make demo   set everything up, run the whole DAG on the `cpu` scale; it ends with what was found and the page's path
#             TORCH=cpu takes PyTorch's build without CUDA, PYTHON=python3.12 another Python than the newest
# make results  run the paper at the scale of configs/results.yaml and keep each finished experiment in docs/results/;
#             TARGET=figure_3a: that one; it first says what it would take
# make test   set everything up if needed, run the whole test suite
# make plan   what a target costs, before anything runs: make plan TARGET=figure_3a SCALE=paper MFU=0.4 PEAK=989 [JSON=1]
# make test-slurm  real jobs on a private two-node Slurm, up to a quarter of an hour (docs/slurm.md)
# make status  state, step, speed and time left of every stage
# make lint   style, types and the workflow's lint
# make bench  the numbers of docs/performance.md, as ratios, into results/bench/*.json

SHELL := /bin/bash
# The newest that is there and can make an environment: pyenv's shims stand there without a version behind them.
PYTHON ?= $(eval PYTHON := $(shell for version in 3.13 3.12 3.11; do \
	python$$version -c 'import ensurepip, venv' 2>/dev/null && echo python$$version && break; done))$(PYTHON)
TORCH ?= cuda
CORES ?= $(shell nproc)
VENV := .venv
READY := $(VENV)/.ready
TORCH_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
# Rules call `python` and `tst-titan`: the environment's own, as under conda or in a container.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# `make status | head`: a reader that leaves early (141) is no failure.
WHOLE := || [ $$? -eq 141 ]

.PHONY: demo results plan test test-slurm status lint format bench lock setup clean

setup: $(READY)

# Without `--clear` an environment of another Python, or pins that are gone, would stay.
$(READY): envs/requirements.txt pyproject.toml
	$(if $(filter cpu cuda,$(TORCH)),,$(error TORCH=$(TORCH): valid are cuda (the default, runs without a GPU too) and cpu))
	@$(or $(PYTHON),false) -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		2>/dev/null || { echo "make: $(if $(PYTHON),PYTHON=$(PYTHON) is not,there is no) Python 3.11 to 3.13 with venv here: install" \
		"one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r envs/requirements.txt $(TORCH_INDEX)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)
	$(RUN) snakemake --cores $(CORES)

results: $(READY)
	$(RUN) tst-titan results $(TARGET) --cores $(CORES)

plan: $(READY)
	@$(RUN) tst-titan plan $(TARGET) $(if $(SCALE),--scale $(SCALE)) $(if $(MFU),--mfu $(MFU)) \
		$(if $(PEAK),--peak-tflops $(PEAK)) $(if $(JSON),--json) $(WHOLE)

test: $(READY)
	$(RUN) python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

test-slurm: $(READY)
	$(RUN) python -m pytest -m slurm tests/slurm

status: $(READY)
	@$(RUN) tst-titan status $(WHOLE)

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow/rules

format: $(READY)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) snakefmt Snakefile workflow/rules

bench: $(READY)
	$(RUN) python -m benchmarks

# Pins that still fit are kept; `make lock UPGRADE=--upgrade` resolves anew.
lock:
	rm -rf .lock && $(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet uv packaging
	.lock/bin/python envs/lock.py $(UPGRADE)
	rm -rf .lock

clean:
	rm -rf $(VENV) .snakemake
