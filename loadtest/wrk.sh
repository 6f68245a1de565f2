#!/bin/sh
# Loads any address with wrk over keepalive connections:
#   wrk.sh [URL] [CONNECTIONS] [SECONDS] [THREADS]
set -eu
url=${1:-http://127.0.0.1:8080/}
connections=${2:-64}
seconds=${3:-10}
threads=${4:-1}

if ! command -v wrk >/dev/null 2>&1; then
    echo "wrk.sh: wrk is not installed (Debian and Ubuntu: apt install wrk)" >&2
    exit 127
fi
# wrk refuses fewer connections than threads.
[ "$threads" -le "$connections" ] || threads=$connections
exec wrk --latency --threads "$threads" --connections "$connections" \
    --duration "${seconds}s" "$url"
