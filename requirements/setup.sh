#!/bin/sh
# Bring .venv to what one of requirements/*.txt says; quick when it is there already. Called by the Makefile.
#   requirements/setup.sh demo|test|dev        PYTHON and TORCH_INDEX: see `make help`
set -eu
cd "$(dirname "$0")/.."
name=$1 venv=.venv torch=$(grep '^torch==' constraints.txt)

usable='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
if ! "$venv/bin/python" -c "import pip; $usable" 2>/dev/null; then
    for python in "${PYTHON:-}" python3.11 python3.12 python3.13 python3.14 python3 python; do
        [ -n "$python" ] && "$python" -c "$usable" 2>/dev/null && break
        python=
    done
    if [ -z "$python" ]; then
        echo "Plume needs Python 3.11 to 3.14 with venv (Debian and Ubuntu: apt install python3-venv)." >&2
        echo "If yours has another name, say: make PYTHON=/path/to/python3 ..." >&2
        exit 2
    fi
    if [ -e "$venv" ]; then echo "$venv does not run, or its Python is too old: making it anew."; fi
    "$python" -m venv --clear "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# Done before, from just these files, in this folder?
key=$({ pwd; cat pyproject.toml constraints.txt "requirements/$name.txt"; } | cksum)
wanted_index=${TORCH_INDEX:-$(cat "$venv/torch-index" 2>/dev/null || true)}
if [ "$key" = "$(cat "$venv/has-$name" 2>/dev/null)" ] && [ "$wanted_index" = "$(cat "$venv/torch-index" 2>/dev/null)" ]; then
    exit 0
fi

case $name in demo) small=0.1 disk=0.6 ;; test) small=0.2 disk=0.9 ;; *) small=0.3 disk=1.2 ;; esac
goal=${GOAL:-$name}
echo "Installing what 'make $goal' needs into $venv: about $small GB to download, $disk GB on disk, and"
if "$venv/bin/python" -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch").split("+")[0] != sys.argv[1])' \
    "${torch#torch==}" 2>/dev/null && [ -z "${TORCH_INDEX:-}" ]; then
    echo "  torch, which is there already."
else
    build=$(pip install --dry-run --ignore-installed --no-deps --quiet ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        --report - "$torch" 2>/dev/null |
        "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])') ||
        build=$torch
    case $build-$(uname -s) in
    *+cpu-* | *-Darwin) echo "  torch $build: about 0.2 GB to download, 0.7 GB on disk." ;;
    *)
        echo "  torch $build with its CUDA libraries: about 3 GB to download, 6 GB on disk."
        if ! command -v nvidia-smi >/dev/null; then
            echo "  This machine shows no NVIDIA GPU. To save that, press Ctrl-C and say"
            echo "    make $goal TORCH_INDEX=https://download.pytorch.org/whl/cpu"
        fi
        ;;
    esac
fi

# On a terminal pip shows its progress; in a log only what goes wrong.
quiet=--quiet; if [ -t 1 ]; then quiet=; fi
rm -f "$venv/has-$name"
pip install $quiet --require-hashes --no-deps -r "requirements/$name.txt"
if [ -n "${TORCH_INDEX:-}" ] && [ "$TORCH_INDEX" != "$(cat "$venv/torch-index" 2>/dev/null)" ]; then
    # The build that is there may have the same version and be another build.
    pip install $quiet --force-reinstall --no-deps --index-url "$TORCH_INDEX" "$torch"
fi
pip install $quiet -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$torch"
pip install $quiet --no-deps --no-build-isolation -e .
pip check
echo "$wanted_index" >"$venv/torch-index"
echo "$key" >"$venv/has-$name"
