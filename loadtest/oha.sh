#!/bin/sh
# Loads any address with oha; with a rate, latencies count from when a request was due:
#   oha.sh [URL] [CONNECTIONS] [SECONDS] [REQUESTS_PER_SECOND]
set -eu
url=${1:-http://127.0.0.1:8080/}
connections=${2:-64}
seconds=${3:-10}
rate=${4:-}

if ! command -v oha >/dev/null 2>&1; then
    echo "oha.sh: oha is not installed (cargo install oha, or your system's package)" >&2
    exit 127
fi
set -- --no-tui -c "$connections" -z "${seconds}s"
[ -z "$rate" ] || set -- "$@" -q "$rate" --latency-correction
exec oha "$@" "$url"
