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
exec "$PYTHON" tools/parity.py "$@"
