# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with the pinned requirements, once.
#
# ACCELERATOR=cpu (default), cuda12, cuda13 or tpu picks the JAX wheel. EXTRAS names
# further optional dependencies of pyproject.toml, for example EXTRAS=test.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
accelerator="${ACCELERATOR:-cpu}"
case "$accelerator" in
  cpu) jax_wheel="" ;;
  cuda12 | cuda13 | tpu) jax_wheel="jax[$accelerator]==$(sed -n 's/^jax==//p' requirements.txt)" ;;
  *) echo "ACCELERATOR=$accelerator is unknown; use cpu, cuda12, cuda13 or tpu" >&2; exit 2 ;;
esac

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1)." \
    "Set PYTHON to a newer one" >&2
  exit 2
fi

# Install again only when what is wanted has changed.
wanted="$accelerator ${EXTRAS:-} $(cat requirements.txt pyproject.toml)"
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
  echo "Installing into .venv (about a minute)"
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --requirement requirements.txt ${jax_wheel:+"$jax_wheel"} --editable ".${EXTRAS:+[$EXTRAS]}"
  printf '%s' "$wanted" > .venv/installed
fi

# Memory in pages of 2 MB where the kernel leaves that to the program: XLA on a CPU takes
# and returns hundreds of megabytes in each step, 4 KB at a time otherwise (glibc 2.35).
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
