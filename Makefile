# make demo: install and run everything on the bundled genomes. make test: install and run the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
STAMP  := $(VENV)/.installed
APT    := apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
# glibc does not count 127.0.0.1 as an address; Slurm resolves no name on a network that has only that one.
ALONE  := unshare --net --pid --fork --kill-child --mount --mount-proc \
          sh -c 'ip link set lo up && ip address add 127.0.0.2/8 dev lo && exec "$$0" "$$@"'

.PHONY: demo test test-all test-gpu test-slurm test-k8s test-postgres test-s3 check bench-encoders bench-training bench-sequences bench-change bench-decision bench-coverage bench-peers soak screenshots up setup clean iproute2

demo: $(RUNTIME)
	$(BIN)/virnuc setup
	$(BIN)/virnuc demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup \
	    -m "not (gpu or network or slurm or kubernetes or postgres or s3)"

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q -m gpu

iproute2:
	which ip > /dev/null || { $(APT) iproute2; }

# Real servers on the loopback of a separate network; the test stops everything that it started. Needs root.
test-slurm: $(STAMP) iproute2
	which slurmctld slurmd sbatch munged > /dev/null || { $(APT) slurmctld slurmd slurm-client munge; }
	ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || { $(APT) postgresql; }
	$(ALONE) $(BIN)/python -m pytest -q -m slurm -n 2 --dist loadscope

test-k8s: $(STAMP) iproute2
	$(ALONE) $(BIN)/python -m pytest -q -m kubernetes

test-postgres: $(STAMP) iproute2
	ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || { $(APT) postgresql; }
	$(ALONE) $(BIN)/python -m pytest -q -m postgres

test-s3: $(STAMP) iproute2
	$(ALONE) $(BIN)/python -m pytest -q -m s3

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Half an hour or less; ARGS=--help shows how to run a part of it.
bench-encoders: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# Some minutes; best on a machine that does nothing else.
bench-training: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# Minutes, and 1 GB of disk; ARGS=--long adds a record of 1 Gb.
bench-sequences: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# Some 20 minutes: real servers whose processes are killed; ARGS=--help shows how to run less of it.
soak: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# Half an hour, with servers on loopback, on a machine that does nothing else; ARGS="--only bundled" runs a part of it.
bench-change: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# A quarter of an hour of simulation; ARGS=--help shows how to run less of it.
bench-decision: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# Some ten minutes; ARGS="--only kmer" runs a part of it.
bench-coverage: $(STAMP)
	$(BIN)/python -m benchmarks $@ $(ARGS)

# Half an hour, and 3.3 GB of disk for geNomad, which comes from PyPI; ARGS="--only predict" runs a part of it.
bench-peers: $(STAMP) demo
	$(BIN)/python -m benchmarks $@ $(ARGS)

# The pictures of README and docs, from the real servers; minutes.
screenshots: demo
	which chromium > /dev/null || { $(APT) chromium; }
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[screenshots]'
	$(BIN)/python docs/screenshots.py

setup: $(RUNTIME)
	$(BIN)/virnuc setup

up: setup
	exec $(BIN)/virnuc up

clean:
	rm -rf var .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(RUNTIME): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(RUNTIME) $@
