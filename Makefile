# make demo   set everything up, run the whole DAG on the `cpu` scale, print the comparison and the report's path
# make test   set everything up if needed, run the whole test suite
# make plan   what a target costs, before anything runs: make plan TARGET=figure_3a SCALE=paper MFU=0.4 PEAK=989 [JSON=1]
# make test-slurm  real jobs on a private two-node Slurm, up to a quarter of an hour (docs/slurm.md)
# make status  state, step, speed and time left of every stage
# make lint   style, types and the workflow's lint
# make bench  the numbers of docs/performance.md, as ratios, into results/bench/*.json

SHELL := /bin/bash
PYTHON ?= python3.11
CORES ?= $(shell nproc)
VENV := .venv
READY := $(VENV)/.ready
# Rules call `python` and `tst-titan`: the environment's own, as under conda or in a container.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: demo plan test test-slurm status lint format bench lock setup clean

setup: $(READY)

$(READY): envs/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)
	$(RUN) snakemake --cores $(CORES)
	$(RUN) python -m tst_titan.report.terminal --report results/report/index.html results/compare/cpu/figure_3a

plan: $(READY)
	@$(RUN) tst-titan plan $(TARGET) $(if $(SCALE),--scale $(SCALE)) $(if $(MFU),--mfu $(MFU)) \
		$(if $(PEAK),--peak-tflops $(PEAK)) $(if $(JSON),--json)

test: $(READY)
	$(RUN) python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

test-slurm: $(READY)
	$(RUN) python -m pytest -m slurm tests/slurm

status: $(READY)
	@$(RUN) tst-titan status

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

# The pins are what a fresh resolution of requirements.in gives; the local version of torch's CPU build is dropped.
lock:
	rm -rf .lock && $(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet -r envs/requirements.in
	.lock/bin/pip check
	.lock/bin/pip freeze | sed 's/+cpu$$//' > envs/requirements.txt
	.lock/bin/python envs/conda.py
	rm -rf .lock

clean:
	rm -rf $(VENV) .snakemake
