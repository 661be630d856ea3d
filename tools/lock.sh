#!/usr/bin/env bash
# Writes requirements/*.txt anew: pinned with hashes, a 7-day cool-down, no download host in the file.
# Needs `uv` (any recent version) on PATH, or its path in $UV.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
cutoff=$(date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z)
compile() {
  env UV_FIND_LINKS= "$uv" pip compile pyproject.toml --extra build --extra chip --extra demo "${@:2}" --quiet --upgrade \
    --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
    --exclude-newer "$cutoff" --output-file "requirements/$1.txt"
}
compile run
compile dev --extra dev
