#!/usr/bin/env bash
# A real Slurm on one machine: munged, slurmctld and two slurmd, each node with a network, a host name and an address of
# its own. Debian or Ubuntu, as root; missing packages are installed.
#
#   tests/slurm/cluster.sh up FOLDER      start what is not running; then: export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm/cluster.sh down FOLDER    end all that `up` started there, jobs included
#
# FOLDER holds all state: configuration, key, logs, spool. Outside it there are, until `down`, a network bridge and two
# network namespaces. Exits with 77 and a message if this machine cannot have such a cluster.
set -euo pipefail

NODES=(imnode1 imnode2)
BRIDGE=imbridge0
SUBNET=10.93.17
CONTROLLER_PORT=17817
NODE_PORT=17818
CPUS=4 # claimed by each node, whatever the machine has
GPUS=2 # same for these: /dev/null under other names
CANNOT=77

cannot() {
  echo "no Slurm here: $1" >&2
  exit "$CANNOT"
}

# is PROCESS a COMMAND that runs? (one that ended but was not waited for keeps its name, and has no exe)
is_command() {
  [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "$2" ] && readlink "/proc/$1/exe" >/dev/null
}

# is the process whose number FILE holds a COMMAND that runs?
runs() {
  [ -s "$1" ] && is_command "$(cat "$1")" "$2"
}

# daemons get nothing of the caller's environment: jobs would inherit it, and SLURM_* would mislead the daemons
clean() {
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    SLURM_CONF="$folder/slurm.conf" "$@" </dev/null >>"$folder/log/daemons.out" 2>&1
}

install_packages() {
  local package missing=()
  for package in munge slurmctld slurmd slurm-client iproute2; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    </dev/null >"$folder/log/apt.log" 2>&1 ||
    cannot "${missing[*]} cannot be installed: $(tail -n 1 "$folder/log/apt.log")"
}

start_network() {
  local owner node number=0
  owner=$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null || true)
  if [ -e "/sys/class/net/$BRIDGE" ] && [ "$owner" != "$folder" ]; then
    echo "error: a cluster is up in $owner; end it with: $0 down $owner" >&2
    exit 1
  fi
  if [ ! -e "/sys/class/net/$BRIDGE" ]; then
    ip link add "$BRIDGE" type bridge 2>/dev/null || cannot "it is not permitted to create a network bridge"
    ip link set "$BRIDGE" alias "$folder"
  fi
  ip address replace "$SUBNET.254/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  printf '%s\n' "127.0.0.1 localhost" "$SUBNET.254 $(hostname -s)" >"$folder/hosts"
  for node in "${NODES[@]}"; do
    number=$((number + 1))
    if [ ! -e "/run/netns/$node" ]; then
      ip netns add "$node" 2>/dev/null || cannot "it is not permitted to create a network namespace"
      ip link add "$node" type veth peer name eth0 netns "$node"
      ip link set "$node" master "$BRIDGE" up
      ip -n "$node" address add "$SUBNET.$number/24" dev eth0
      ip -n "$node" link set eth0 up
      ip -n "$node" link set lo up
    fi
    echo "$SUBNET.$number $node" >>"$folder/hosts"
  done
}

# with accounting, cgroups and affinity off: they need a database or a systemd. A requeued job
# waits for cred_expire, 120 s by default and at least 5
write_configuration() {
  local node number=0
  {
    cat <<CONFIGURATION
ClusterName=imglish
SlurmctldHost=$(hostname -s)($SUBNET.254)
SlurmctldPort=$CONTROLLER_PORT
SlurmdPort=$NODE_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/pid/slurmctld
SlurmdPidFile=$folder/pid/slurmd-%n
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
MailProg=/bin/true
ReturnToService=1
KillWait=10
GresTypes=gpu
CONFIGURATION
    for node in "${NODES[@]}"; do
      number=$((number + 1))
      echo "NodeName=$node NodeAddr=$SUBNET.$number CPUs=$CPUS RealMemory=16000 Gres=gpu:$GPUS"
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60"
  } >"$folder/slurm.conf"
  for number in $(seq 0 $((GPUS - 1))); do
    [ -e "$folder/nvidia$number" ] || mknod "$folder/nvidia$number" c 1 3 || cannot "it is not permitted to create device files"
  done
  echo "Name=gpu File=$folder/nvidia[0-$((GPUS - 1))]" >"$folder/gres.conf"
}

start_daemons() {
  local node in_own_mounts="mount --bind $folder/hosts /etc/hosts && exec"
  if ! runs "$folder/pid/munged" munged; then
    [ -s "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    # --force: the folder may be one that not everyone can enter
    clean munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
      --pid-file="$folder/pid/munged" --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
  fi
  runs "$folder/pid/slurmctld" slurmctld || clean unshare --mount sh -c "$in_own_mounts slurmctld"
  for node in "${NODES[@]}"; do
    runs "$folder/pid/slurmd-$node" slurmd && continue
    clean nsenter --net="/run/netns/$node" unshare --mount --uts \
      sh -c "hostname $node && $in_own_mounts slurmd -N $node"
  done
}

wait_for_nodes() {
  local deadline=$((SECONDS + 30))
  while [ "$SECONDS" -lt "$deadline" ] && runs "$folder/pid/slurmctld" slurmctld; do
    [ "$(timeout 5 sinfo -h -N -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated)$')" != "${#NODES[@]}" ] || return 0
    sleep 0.3
  done
  echo "error: the nodes do not come up; the logs:" >&2
  tail -n 5 "$folder"/log/* >&2
  exit 1
}

up() {
  [ "$(id -u)" = 0 ] || cannot "this needs root"
  [ -x "$(command -v apt-get)" ] || cannot "this needs Debian packages"
  mkdir -p "$folder"/{log,pid,spool,state}
  install_packages
  unshare --mount --uts --net true 2>/dev/null || cannot "namespaces are not allowed"
  start_network
  write_configuration
  export SLURM_CONF=$folder/slurm.conf
  start_daemons
  wait_for_nodes
}

# end the process of PID_FILE if it is a COMMAND; a daemon removes the file before it has ended
end() {
  local process _
  if runs "$1" "$2"; then
    process=$(cat "$1")
    kill "$process"
    for _ in $(seq 100); do
      is_command "$process" "$2" || break
      sleep 0.1
    done
    ! is_command "$process" "$2" || kill -KILL "$process"
  fi
  rm -f "$1"
}

down() {
  local node process _
  [ -e "$folder/slurm.conf" ] || return 0
  export SLURM_CONF=$folder/slurm.conf
  if runs "$folder/pid/slurmctld" slurmctld; then
    squeue -h -o %A | sort -u | xargs -r scancel || true
    for _ in $(seq 50); do
      [ -n "$(squeue -h)" ] || break
      sleep 0.3
    done
  fi
  end "$folder/pid/slurmctld" slurmctld
  for node in "${NODES[@]}"; do
    end "$folder/pid/slurmd-$node" slurmd
  done
  end "$folder/pid/munged" munged
  [ "$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null)" = "$folder" ] || return 0
  for node in "${NODES[@]}"; do
    [ -e "/run/netns/$node" ] || continue
    for process in $(ip netns pids "$node"); do # processes left by a job
      kill -KILL "$process" 2>/dev/null || true
    done
    ip netns delete "$node"
  done
  ip link delete "$BRIDGE"
}

case "${1:-} $#" in
  "up 2" | "down 2")
    folder=$(realpath -m "$2")
    "$1"
    ;;
  *)
    echo "usage: $0 up|down FOLDER" >&2
    exit 2
    ;;
esac
