# Two commands do all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
OUT    ?= demo_output

.PHONY: demo test docs science benchmarks suites clean
.DEFAULT_GOAL := demo

# Without a GPU the small CPU build of torch spares some GB; the package itself pins nothing.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	@if ! command -v nvidia-smi >/dev/null 2>&1 && [ "$$(uname)" = Linux ]; then \
	  $(BIN)/pip install --quiet "torch==2.13.0+cpu" 2>/dev/null \
	  || $(BIN)/pip install --quiet --retries 0 --timeout 10 torch --index-url https://download.pytorch.org/whl/cpu 2>/dev/null \
	  || echo "no CPU build of torch found: installing the default one"; fi
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --group dev
	touch $@

demo: $(VENV)/.ready
	$(BIN)/scdisent demo --out $(OUT) --overwrite

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -m "not science" --numprocesses auto --dist loadfile

docs: $(VENV)/.ready-dev
	rm -rf docs/generated
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

science: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -m science

# Rows that are there are kept: remove docs/benchmarks/NAME.csv to make them again.
benchmarks: $(VENV)/.ready
	for name in invariance interferon response identifiability separation kang_cg two_colors toy \
	  speed score_speed prediction_speed; do \
	  $(BIN)/scdisent bench $$name --out docs/benchmarks || exit 1; done
	$(BIN)/python docs/kang_unseen.py

# Rows of another version of the code are made again: many hours.
suites: $(VENV)/.ready
	for name in synthetic tabular images single_cell; do \
	  $(BIN)/scdisent bench $$name --out docs/benchmarks || exit 1; done

clean:
	rm -rf $(VENV) $(OUT) build dist docs/_build docs/generated docs/tutorials
