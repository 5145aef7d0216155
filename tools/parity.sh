#!/bin/sh
# make parity: tools/parity.py with the Python that has torch, TRL, PEFT and transformers.
# PYTHON=... names it (default python3); arguments go to parity.py: --quick, --only TEXT, --list.
# Installs nothing: tools/requirements.txt says what is needed.
PYTHON=${PYTHON:-python3}
cd "$(dirname "$0")/.." || exit 1
for module in torch trl peft transformers; do
    if ! "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" \
        2>/dev/null; then
        echo "parity: $PYTHON has no $module; see tools/requirements.txt, then PYTHON=... make parity"
        echo "0 passed, 0 failed, parity skipped: no $module"
        exit 0
    fi
done
# Of two functions with one name Python keeps the second without a word.
for file in tools/*.py; do
    twice=$(grep -oE '^(def|class) [A-Za-z_0-9]+' "$file" | sort | uniq -d)
    [ -z "$twice" ] && continue
    echo "parity: $file has more than one: $twice"
    exit 1
done
exec "$PYTHON" tools/parity.py "$@"
