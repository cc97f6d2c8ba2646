# Each target sets up what it needs in .venv; a second call finds the stamp files and starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/base.stamp
DEV := $(VENV)/dev.stamp
# uv takes a quarter of pip's time, and is told of the places that pip is told of; where it fails, pip installs.
COMMA := ,
install = @UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(BIN)/python \
	--editable "$(1)" || $(BIN)/python -m pip install --quiet --editable "$(1)"
# uv compiles no bytecode: what is used is compiled when it is first imported, and kept for the next process.
export PYTHONDONTWRITEBYTECODE :=
# One more than processors, as each waits now and then; each takes up to 4.5 GB.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(4, 1 + (os.cpu_count() or 1)))")

.PHONY: setup demo test lint clean

setup: $(BASE)

$(BASE): pyproject.toml
	@echo "Installing into $(VENV), once; this takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet uv
	$(call install,.)
	touch $@

# What the tests need on top of it (torch among them) is not installed for the demo.
$(DEV): $(BASE)
	@echo "Installing what the tests need into $(VENV), once; this takes a minute or two"
	$(call install,.[dev$(COMMA)eval])
	touch $@

demo: $(BASE)
	$(BIN)/pure restore pure_jax/assets/demo/sample.png demo.png --overwrite
	@echo "The restored picture is $(CURDIR)/demo.png (before: pure_jax/assets/demo/sample.png)"

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy

# Most of the tests' time is compilation, one thread each; files stay together, for what their tests compile in common,
# in the order of tests/conftest.py. Types are checked meanwhile; what is wrong with them is told at the end.
test: $(DEV)
	$(BIN)/ruff check .
	@$(BIN)/mypy >$(VENV)/types.txt 2>&1 & types=$$!; \
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder; status=$$?; \
	wait $$types || { cat $(VENV)/types.txt; exit 1; }; exit $$status

clean:
	rm -rf $(VENV) build *.egg-info demo.png .pytest_cache .mypy_cache .ruff_cache .hypothesis
