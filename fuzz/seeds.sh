#!/bin/sh
# Fills fuzz/corpus/TARGET with what the bounded run starts from: parts of the committed corpus, a journal, proofs.
# They are not committed twice.
set -eu
cd "$(dirname "$0")/.."
WRIT_FUZZ=1000 WRIT_FUZZ_SEEDS="$PWD/fuzz/corpus" cargo test -q -p authz --test fuzz_smoke
