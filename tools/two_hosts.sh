#!/usr/bin/env bash
# Starts a program as two ranks on two hosts: network namespaces of this machine with a link between them, of a given
# rate. Needs root, Open MPI and iproute2.
#
#   tools/two_hosts.sh [--rate 1gbit] PROGRAM ARGUMENT…
set -euo pipefail

rate=
if [ "${1:-}" = --rate ]; then
    rate="${2:-}"
    shift 2
fi
if [ $# = 0 ]; then
    echo "usage: $0 [--rate RATE] PROGRAM ARGUMENT…" >&2
    exit 2
fi

host="lat-$$"
agent="$(mktemp)"
stop() {
    for side in a b; do ip netns del "$host-$side" 2>/dev/null || true; done
    rm -f "$agent"
}
trap stop EXIT
for side in a b; do ip netns add "$host-$side"; done
ip link add lat-a netns "$host-a" type veth peer name lat-b netns "$host-b"
number=0
for side in a b; do
    number=$((number + 1))
    ip -n "$host-$side" link set lo up
    ip -n "$host-$side" address add "10.77.0.$number/24" dev "lat-$side"
    ip -n "$host-$side" link set "lat-$side" up
    if [ -n "$rate" ]; then
        ip netns exec "$host-$side" tc qdisc add dev "lat-$side" root tbf rate "$rate" burst 256kb latency 50ms
    fi
done

# In place of ssh: runs a command line on a host, under the host's name.
cat >"$agent" <<'AGENT'
#!/usr/bin/env bash
host="$1"
shift
exec ip netns exec "$host" unshare --uts bash -c "hostname $host; $*"
AGENT
chmod +x "$agent"

options=(--allow-run-as-root -H "$host-a,$host-b" -n 2 --bind-to none)
options+=(--mca plm_rsh_agent "$agent" --mca btl tcp,self)
options+=(--mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24)
for name in VK_DRIVER_FILES VK_ICD_FILENAMES XDG_RUNTIME_DIR LP_NUM_THREADS LAT_TUNED; do
    if [ -n "${!name:-}" ]; then options+=(-x "$name"); fi
done
ip netns exec "$host-a" unshare --uts bash -c 'hostname "$0"; exec "$@"' "$host-a" mpirun "${options[@]}" "$@"
