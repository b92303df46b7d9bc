#!/usr/bin/env bash
# usage: [HOST_LINK=100mbit] hosts.sh HOSTS RANKS COMMAND...
# Runs COMMAND under mpirun on HOSTS hosts with RANKS ranks each. The hosts are network namespaces of this machine, with
# addresses 10.77.0.1, .2, .. and host names host1, host2, .. of their own, joined by a bridge: mpirun starts its daemons
# there through an agent as it would through ssh, and MPI crosses them over TCP. HOST_LINK limits what a host
# sends to the others by a token bucket (tc-tbf). Needs root and iproute2; exits with 77 (skipped) without. The exit code is mpirun's.
hosts=$1 ranks=$2
shift 2
tag=duo$$
# Called again by mpirun as its ssh: AGENT ADDRESS WORDS...
agent=$(mktemp)
# A host goes with all that runs on it: mpirun's daemons outlive an mpirun that was killed.
remove() {
  # shellcheck disable=SC2046  # as many words as there are processes
  kill -9 $(ip netns pids "$1" 2>/dev/null) 2>/dev/null
  ip netns del "$1" 2>/dev/null
}
cleanup() {
  for ((i = 0; i <= hosts; ++i)); do remove $tag-$i; done
  rm -f "$agent"
}
trap cleanup EXIT
trap 'exit 143' TERM INT

# What a run left that was killed.
for name in $(ip netns list 2>/dev/null | sed -n 's/^\(duo[0-9]*-[0-9]*\).*/\1/p'); do
  owner=${name#duo}
  [ -e "/proc/${owner%-*}" ] || remove "$name"
done

# Namespace 0 is the switch.
if ! ip netns add $tag-0 2>/dev/null || ! ip -n $tag-0 link add name switch type bridge; then
  echo "skipped: network namespaces cannot be made here"
  exit 77
fi
ip -n $tag-0 link set switch up
list=
for ((i = 1; i <= hosts; ++i)); do
  ip netns add $tag-$i &&
    ip -n $tag-$i link set lo up &&
    ip -n $tag-$i link add eth0 type veth peer name port$i netns $tag-0 &&
    ip -n $tag-0 link set port$i master switch up &&
    ip -n $tag-$i addr add 10.77.0.$i/24 dev eth0 &&
    ip -n $tag-$i link set eth0 up || exit 1
  if [ -n "$HOST_LINK" ]; then
    ip netns exec $tag-$i tc qdisc add dev eth0 root tbf rate "$HOST_LINK" burst 128kb latency 100ms || exit 1
  fi
  list+=${list:+,}10.77.0.$i:$ranks
done

cat >"$agent" <<END
#!/usr/bin/env bash
i=\${1##*.}
shift
exec ip netns exec $tag-\$i unshare --uts bash -c "hostname host\$i && exec \$*"
END
chmod +x "$agent"

ip netns exec $tag-1 unshare --uts bash -c 'hostname host1 && exec "$@"' mpirun \
  mpirun -n $((hosts * ranks)) -H $list --allow-run-as-root --mca plm_rsh_agent "$agent" \
  --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 --mca btl self,vader,tcp "$@" &
wait $!  # not in the foreground: a signal ends the waiting at once
