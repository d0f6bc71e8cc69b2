#!/bin/sh
# Fills fuzz/corpus/TARGET with the files of the committed corpus that the target reads. They are not committed twice.
set -eu
cd "$(dirname "$0")"
for target in armor:sig.asc payload:payload word:payload policy:policy.json case_file:host.json; do
    folder=corpus/${target%%:*} name=${target#*:}
    mkdir -p "$folder"
    find ../crates/authz/corpus -name "$name" -size -40 | while read -r file; do
        case_name=$(dirname "$file" | sed 's|.*/corpus/||; s|/|-|g')
        cp "$file" "$folder/$case_name"
    done
done
mkdir -p corpus/blob corpus/certificate corpus/key_line corpus/journal
for file in corpus/armor/*; do
    sed '/^-----/d' "$file" | base64 -d >"corpus/blob/$(basename "$file")" 2>/dev/null || rm -f "corpus/blob/$(basename "$file")"
done
for file in corpus/policy/good-keys-*; do
    grep -o '"[a-z0-9@.-]* AAAA[^"]*"' "$file" | tr -d '"' | head -n 1 >"corpus/key_line/$(basename "$file")"
done
