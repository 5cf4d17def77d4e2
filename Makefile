# Plume's tasks. Each first brings .venv to what it needs (requirements/setup.sh), which is quick when it is there.
#
#   make demo       the whole story on real English text: about 8 minutes on 2 cores after installation
#   make demo-zh    the same on Chinese text, with its report in Chinese
#   make test       the tests of every change          make test-all   the longer proofs too
#   make lint       ruff and mypy                      make format     let ruff format
#   make docs       the documentation, into site/      make bench      the benchmarks, one after the other
#   make lock       write requirements/*.txt again from pyproject.toml and constraints.txt
#
# Variables:  PYTHON=python3.12          which Python makes .venv (else the first of 3.11 to 3.14 that is found)
#             TORCH_INDEX=URL            take torch from here: https://download.pytorch.org/whl/cpu on a Linux without
#                                        an NVIDIA GPU, .../whl/cu126 for an older one (pytorch.org lists them)
#             TESTS="tests/text -k zh"   what `make test` gives to pytest

PY := .venv/bin/python
SETUP = @GOAL=$@ PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" sh requirements/setup.sh

.PHONY: help demo demo-zh test test-all lint format docs bench lock
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo demo-zh:
	$(SETUP) demo
	$(PY) -m plume demo --language $(if $(filter demo-zh,$@),zh,en) --out runs/$@

test:
	$(SETUP) test
	$(PY) -m pytest -q -n 2 -m "not slow" $(TESTS)

test-all:
	$(SETUP) test
	$(PY) -m pip install --quiet "kenlm==0.3.0"  # has no wheel: takes cmake and a C++ compiler
	$(PY) -m pytest -q -n 2 $(TESTS)

lint:
	$(SETUP) dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format:
	$(SETUP) dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs:
	$(SETUP) dev
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

bench:
	$(SETUP) dev
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

LOCK = $(PY) -m uv pip compile --quiet --universal --python-version 3.11.7 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --overrides requirements/without-torch.txt -c constraints.txt \
	requirements/base.in pyproject.toml
lock:
	$(SETUP) dev
	$(PY) -m pip install --quiet uv
	$(LOCK) --extra demo -o requirements/demo.txt
	$(LOCK) --extra test -o requirements/test.txt
	$(LOCK) --extra all -o requirements/dev.txt
