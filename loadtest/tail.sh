#!/usr/bin/env bash
# How long requests on keepalive connections take while a worker makes 500 full handshakes a second,
# and without them: the handshakes and the requests have ports of their own, and the same worker.
#
# usage: loadtest/tail.sh PROXY_BINARY [SECONDS] [HANDSHAKES_PER_SECOND]
# PROXY_BINARY is a ringway or an nginx; it has one worker on core 0, the load is on core 1. As root
# all of it runs before whatever else the machine does, and the requests before the handshakes, so
# that what they wait for is the worker. 0 handshakes per second means as many as 64 clients make.
set -euo pipefail

alone=() first=()
if [ "$(id -u)" = 0 ]; then
    alone=(chrt -r 10) first=(chrt -r 20)
fi
proxy=$1 seconds=${2:-10} rate=${3:-500}
load=${LOADTEST:-target/release/ringway-loadtest}
dir=$(mktemp -d)
plain=$((20000 + RANDOM % 10000)) tls=$((plain + 1))
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; rm -rf "$dir"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -keyout "$dir/k.pem" -out "$dir/c.pem" 2>/dev/null
body=$(printf 'x%.0s' {1..100})
cat >"$dir/p.conf" <<CONF
daemon off; worker_processes 1; pid $dir/pid; error_log $dir/error.log;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 100000000; ssl_protocols TLSv1.2 TLSv1.3;
    client_body_temp_path $dir/body; proxy_temp_path $dir/proxy;
    ssl_certificate $dir/c.pem; ssl_certificate_key $dir/k.pem;
    server { listen 127.0.0.1:$plain; location / { return 200 $body; } }
    server { listen 127.0.0.1:$tls ssl; location / { return 200 $body; } }
}
CONF
"${alone[@]}" taskset -c 0 "$proxy" -p "$dir" -c "$dir/p.conf" & pid=$!
for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$tls") 2>/dev/null && break
    sleep 0.05
done

echo "== $proxy: requests alone"
"${first[@]}" "$load" load "http://127.0.0.1:$plain/100" --connections 16 --rate 2000 --seconds "$seconds" --core 1
echo "== $proxy: requests beside $rate handshakes a second"
[ "$rate" = 0 ] && pace=() || pace=(--rate "$rate")
"${alone[@]}" "$load" load "https://127.0.0.1:$tls/100" --new-connections --connections 64 "${pace[@]}" \
    --seconds $((seconds + 2)) --core 1 >"$dir/handshakes" &
handshakes=$!
sleep 1
"${first[@]}" "$load" load "http://127.0.0.1:$plain/100" --connections 16 --rate 2000 --seconds "$seconds" --core 1
wait "$handshakes"
echo "-- the handshakes"
cat "$dir/handshakes"
