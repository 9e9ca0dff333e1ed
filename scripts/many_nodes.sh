#!/usr/bin/env bash
# One chapter on several machines: start this same line on each of them.
#
#   NODES=4 HEAD=node01 scripts/many_nodes.sh 04_brain_jepa --profile full
#
# NODES     number of machines, or MIN:MAX
# HEAD      name of one of them that all can reach; PORT there (default 29500)
# JOB       a name that belongs to this run alone (default: the chapter)
# GPUS, RESTARTS, PYTHON  as in one_node.sh
#
# The folder of the book (or BOOK_RUNS) and the data must be the same on all machines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $# -ge 1 && $1 != -* ]] || { echo "usage: NODES=4 HEAD=node01 $0 CHAPTER [options of helpers.run]" >&2; exit 2; }
: "${NODES:?say how many machines: NODES=4}" "${HEAD:?say where they meet: HEAD=node01}"
if [[ -z ${PYTHON:-} ]]; then PYTHON=python; [[ ! -x .venv/bin/python ]] || PYTHON=$PWD/.venv/bin/python; fi

# A store of its own for each start: in a shared one, processes that start again find addresses of the dead.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "$PYTHON" -m torch.distributed.run \
    --nnodes "$NODES" --nproc-per-node "${GPUS:-gpu}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${JOB:-$1}" \
    --no-python "$PYTHON" -m helpers.run "$@" --continue
