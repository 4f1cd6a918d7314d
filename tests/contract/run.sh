#!/usr/bin/env bash
# tests/contract on several releases of transformers, each installed beside the environment's own, which stays as it is.
#     tests/contract/run.sh PYTHON [VERSION...]
# PYTHON is an environment's that `make test` has filled. Without versions: the oldest that pyproject.toml allows, one
# between, and the newest tested, which is the lock's.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
if (($# == 0)); then
    oldest=$(sed -n 's/^ *"transformers>=\([0-9.]*\),<.*/\1/p' pyproject.toml)
    newest=$(sed -n 's/^transformers==\([0-9.]*\).*/\1/p' requirements/lock.txt | sort -V | tail -1)
    set -- "${oldest:?pyproject.toml names no oldest}" '5.23.*' "${newest:?the lock has none}"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for version; do
    beside="$scratch/$version"
    # Alone: the environment's own tokenizers and huggingface-hub do; transformers says so itself where they do not.
    "$python" -m pip install --quiet --no-deps --no-compile --target "$beside" "transformers==$version"
    echo "tests/contract on $(cd "$beside" && ls -d transformers-*.dist-info)"
    PYTHONPATH="$beside" "$python" -m pytest -p no:cacheprovider tests/contract
done
