# make demo    set up a torch-free environment and write demo.mp4
# make test    set up the development environment, then ruff, import-linter, mypy and pytest
# make networks set up the development environment, then trace networks of published size and compare them with PyTorch
# make attack  set up the development environment, then hundreds of faults and kills, then damaged files for MINUTES (60)
# make mutation set up the development environment, then count small wrong changes that no test notices (hours)
# make lowest  the fast tests, in an environment of the lowest version of everything that pyproject.toml allows
# make film    set up the development environment, then train on real film and build build/film/bundle (hours; goes on)
# make docs    set up the development environment, then build the site; warnings are errors
# Set-up runs once; it runs again when pyproject.toml changes.

PYTHON ?= python3
PIP = -m pip install -q --disable-pip-version-check
PYTEST = .venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --durations=15
PROMPT ?= a red circle moving right on a black background
SEED ?= 7
MINUTES ?= 60
FILM = build/film

.PHONY: demo test lint fast networks attack mutation lowest film docs clean check-python

demo: .venv-demo/ready
	.venv-demo/bin/ffrt generate "$(PROMPT)" --seed $(SEED) -o demo.mp4

test: lint
	$(PYTEST) -m "not slow and not attack"
	$(PYTEST) -m "slow and not networks"

fast: lint
	$(PYTEST) -m "not slow and not attack"

networks: .venv/ready
	$(PYTEST) -m networks

attack: .venv/ready
	$(PYTEST) -m attack
	.venv/bin/python -m tests.attack.campaign --minutes $(MINUTES) $(if $(ATTACK_SEED),--seed $(ATTACK_SEED))

mutation: .venv/ready
	.venv/bin/python $(PIP) "cosmic-ray>=8.7" "coverage>=7.17"
	test -e build/watched.json || { mkdir -p build && .venv/bin/python -m tests.mutation.watch build/watched.json; }
	.venv/bin/python -m tests.mutation --watched build/watched.json --out build/mutation.json $(if $(SAMPLE),--sample $(SAMPLE))

lowest: .venv-lowest/ready
	$(subst .venv/,.venv-lowest/,$(PYTEST)) -m "not slow and not attack"

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/mypy

film: .venv/ready
	OMP_NUM_THREADS=1 .venv/bin/python -m export.training.film --run $(FILM)/run --weights $(FILM)/weights --threads 1
	cp graphs/demo/text_encoder.safetensors graphs/demo/keyframe_unet.safetensors graphs/demo/tokenizer.json $(FILM)/weights
	.venv/bin/python -m export film --weights $(FILM)/weights --out $(FILM)/bundle

docs: .venv/ready
	.venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo build/docs/index.html

.venv-demo/ready: pyproject.toml $(shell find runtime graphs/demo -type f -not -name '*.pyc' 2>/dev/null) | check-python
	test -e $@ || { rm -rf .venv-demo && $(PYTHON) -m venv .venv-demo; }
	.venv-demo/bin/python $(PIP) ".[cpu]"
	touch $@

.venv/ready: pyproject.toml | check-python
	test -e $@ || { rm -rf .venv && $(PYTHON) -m venv .venv; }
	.venv/bin/python $(PIP) -e ".[cpu,export,dev]"
	touch $@

.venv-lowest/ready: pyproject.toml | check-python
	rm -rf .venv-lowest && $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python $(PIP) uv
	.venv-lowest/bin/uv pip compile -q --resolution lowest-direct --extra cpu --extra export --extra dev \
	  pyproject.toml -o .venv-lowest/constraints.txt
	.venv-lowest/bin/python $(PIP) -c .venv-lowest/constraints.txt -e ".[cpu,export,dev]"
	touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'ffrt needs Python 3.11 or newer; "$(PYTHON)" is' \
	    "$$($(PYTHON) --version 2>/dev/null || echo 'not found'). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo '"$(PYTHON)" cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv' >&2; exit 1; }

clean:
	rm -rf .venv .venv-demo .venv-lowest build dist demo.mp4
