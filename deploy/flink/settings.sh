# Sourced by the scripts beside it: where things are, and the cluster's addresses.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
source "$here/versions.env"

# What install fetched; kept between clusters.
cache="${DRF_FLINK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/drf-flink}/$FLINK_VERSION-$BEAM_FLINK_VERSION"
# What a running cluster writes; gone when it is down.
state="${DRF_FLINK_STATE:-${TMPDIR:-/tmp}/drf-flink}"
# The interpreter that has this package; the workers run it, too.
if [[ -z "${PYTHON:-}" && -x "$repository/.venv/bin/python" ]]; then
    PYTHON="$repository/.venv/bin/python"
fi
python="$(command -v "${PYTHON:-python3}")" || {
    echo "deploy/flink: there is no ${PYTHON:-python3}" >&2
    exit 1
}

# A namespace for the JobManager and one for each TaskManager, on one bridge.
bridge=drf-flink
network=10.213.47
jobmanager="$network.1"
taskmanagers="${DRF_FLINK_TASKMANAGERS:-2}"

die() {
    echo "deploy/flink/$(basename "$0"): $*" >&2
    exit 1
}
