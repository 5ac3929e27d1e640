# Everything that a person or CI does here, in one command each; 'make' lists them.
# Without make: README.md gives the same as plain commands.

# portable, native, cuda, metal, vulkan, hip or sycl: see bootstrap.py. Left empty, the engine that .venv
# has is kept, so that 'make sweep' after 'make setup ENGINE=cuda' measures the CUDA engine;
# a fresh .venv gets the portable one.
ENGINE ?=
PRESET ?= quick
# More parameters for papermill, such as ARGS="-p n_batch 1024 -p model ~/models/some.gguf"
ARGS ?=

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif
PY := $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help setup sweep everything test lint types calibration gpu-test format lab doctor clean

help: ## list these targets
	@$(PYTHON) -c "import re; [print(f'make {t:<10}{d}') for t, d in re.findall(r'^([a-z-]+):.*?## (.*)', open('Makefile').read(), re.M)]"

setup: ## make .venv, compile llama.cpp (ENGINE=portable|native|cuda|metal|vulkan|hip|sycl), install the lock
	@$(PYTHON) bootstrap.py $(if $(ENGINE),--engine $(ENGINE))

# In a terminal that papermill writes to, a new line of progress every five seconds is enough.
sweep: export TQDM_MININTERVAL = 5
sweep: setup ## run the main job: outputs/sweep.ipynb and outputs/sweep.html (PRESET=quick, ARGS=)
	$(PY) -m llm_latency run notebooks/sweep.ipynb outputs/sweep.ipynb \
		--log-output --log-level WARNING --no-progress-bar -f params/$(PRESET).yaml $(ARGS)

everything: export TQDM_MININTERVAL = 5
everything: setup ## ask all questions in one go: outputs/everything.html (PRESET=quick, ARGS=)
	$(PY) -m llm_latency run notebooks/everything.ipynb outputs/everything.ipynb \
		--log-output --log-level WARNING --no-progress-bar -p preset $(PRESET) $(ARGS)

test: lint types ## check style and types, then run the tests (all but those that need a GPU)
	$(PY) -m pytest

lint: setup ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## mypy --strict on the library, bootstrap.py and the notebooks
	$(BIN)/mypy
	$(BIN)/nbqa mypy notebooks

calibration: setup ## compare the lab with llama-bench, built from the same source (ARGS=)
	$(PY) -m benchmarks.calibration $(ARGS)

gpu-test: setup ## run the tests that need an NVIDIA card (and ENGINE=cuda)
	$(PY) -m pytest -m gpu

format: setup ## write the notebooks' parameters anew, let ruff and nbstripout tidy the rest
	$(PY) -m llm_latency.questions.notebook notebooks/*.ipynb
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout --extra-keys "metadata.papermill cell.metadata.papermill" notebooks/*.ipynb

lab: setup ## open JupyterLab
	$(BIN)/jupyter lab

doctor: setup ## say what this engine supports, and whether it really runs
	$(PY) -m llm_latency doctor

clean: ## delete caches; never .venv, outputs/ or the compiled engines
	@$(PYTHON) -c "import pathlib, shutil; [shutil.rmtree(p) for t in 'lib tests notebooks benchmarks'.split() for p in pathlib.Path(t).rglob('__pycache__')]"
	@$(PYTHON) -c "import shutil; [shutil.rmtree(f'.{t}', True) for t in 'mypy_cache pytest_cache ruff_cache hypothesis'.split()]"
