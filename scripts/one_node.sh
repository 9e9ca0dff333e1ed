#!/usr/bin/env bash
# One chapter on all GPUs of this machine.
#
#   scripts/one_node.sh 04_brain_jepa --profile full -p cohort_folder=/data/mine.zarr
#
# GPUS      processes (default: one for each GPU; without a GPU say GPUS=2 for two CPU processes)
# RESTARTS  how often all processes are started again after one has died (default 3)
# PYTHON    the interpreter (default: .venv/bin/python where there is one)
#
# Everything after the script's name goes to helpers.run. A run that was interrupted goes on from its last
# checkpoint (--continue); rank 0 alone writes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $# -ge 1 && $1 != -* ]] || { echo "usage: GPUS=8 $0 CHAPTER [options of helpers.run]" >&2; exit 2; }
if [[ -z ${PYTHON:-} ]]; then PYTHON=python; [[ ! -x .venv/bin/python ]] || PYTHON=$PWD/.venv/bin/python; fi

# A store of its own for each start: in a shared one, processes that start again find addresses of the dead.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "$PYTHON" -m torch.distributed.run --standalone \
    --nproc-per-node "${GPUS:-gpu}" --max-restarts "${RESTARTS:-3}" \
    --no-python "$PYTHON" -m helpers.run "$@" --continue
