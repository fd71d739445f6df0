# make demo   installs fastgrad into .venv and draws the pictures
# make test   installs the test extra into .venv and runs every test
# PYTHON=python3.12 make ...   chooses the interpreter (3.11 or newer) that .venv is made from

PYTHON ?= python3
VENV   := .venv
SOURCE := pyproject.toml setup.py $(wildcard csrc/*)

.PHONY: demo test clean

demo: $(VENV)/.installed-demo
	$(VENV)/bin/fastgrad demo --out demo_output
	@echo "The pictures are in $(CURDIR)/demo_output"

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

# An editable install, which builds the C extension in place; the stamp makes it happen again only when the
# requirements or the C sources change.
$(VENV)/.installed-%: $(SOURCE) | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install --editable '.[$*]'
	@ls fastgrad/_native*.so >/dev/null 2>&1 \
	  || echo "Installed without the C extension (no compiler?): Numba does its work, somewhat slower." >&2
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fastgrad needs Python 3.11 or newer: PYTHON=python3.12 make ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "No virtual environment could be made: on Debian, apt-get install python3-venv" >&2; exit 1; }

clean:
	rm -rf $(VENV) .venv-wheel build dist fastgrad/_native*.so
