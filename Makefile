# Everything installs itself into VENV on first use.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints-cpu.txt
RUN = $(VENV)/bin/python

.PHONY: demo test lint bench report evaluate calibrate train clean

demo: $(VENV)/.installed
	$(RUN) demo/demo.py

# One process per core. Each begins with a stretch of files, whose tests share what is dear, and helps the other at the end.
test: $(VENV)/.installed
	$(RUN) -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/.installed
	$(RUN) benchmarks/decoder.py --json docs/benchmarks/decoder.json --markdown docs/benchmarks/decoder.md

# fastv-bench on the demo checkpoint and on a random model of 0.5B, and how well predictions do. For an idle machine.
report: $(VENV)/.installed
	$(RUN) benchmarks/report.py --picture docs/bench.png
	$(RUN) benchmarks/prediction.py --json docs/benchmarks/prediction.json --markdown docs/benchmarks/prediction.md

# The demo checkpoint's accuracy for every K, keep and ranker, written into its model card.
evaluate: $(VENV)/.installed
	$(RUN) demo/evaluate.py

# Which plan the demo checkpoint bears, chosen on one split of questions and tried on another.
calibrate: $(VENV)/.installed
	$(RUN) benchmarks/calibration.py

train: $(VENV)/.installed
	$(RUN) demo/train.py

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	# Tests do without the torchvision that timm asks for: its wheels do not always meet a CPU build of torch.
	$(RUN) -m pip install --quiet --no-deps 'timm>=1.0.20'
	# TensorRT-RTX has wheels for x86-64 alone; where there is none, its tests are skipped.
	-$(RUN) -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[rtx-build]'
	touch $@

clean:
	rm -rf $(VENV) demo/out
