#!/usr/bin/env bash
# Cloud TPU VMs, one slice or several, from the creation to the last log line.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat << 'END'
bash launch/tpu_vm.sh VERB --name NAME --zone ZONE [--project PROJECT] [--slices N] [--dry-run] …

  create  --type TYPE --version VERSION [--spot] [-- GCLOUD_WORDS]
          asks for the TPU as a queued resource; TYPE and VERSION are, for example, v5litepod-16 and
          v2-alpha-tpuv5-lite, v5p-32 and v2-alpha-tpuv5, v6e-16 and v2-alpha-tpuv6e. Words behind -- go to
          gcloud as they are: --reserved --network=my-net --subnetwork=my-subnet --service-account=me@…
          Cloud TPU VMs end with v6e: for Ironwood (tpu7x) take launch/gke_jobset.yaml
  status  WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED (a spot TPU that was taken away) …
  setup   copies this working tree to every host and installs it there; again after each change
  mount   --bucket BUCKET
          mounts a Cloud Storage bucket at /mnt/bucket on every host; the workdir must be shared by all
          hosts. Take a bucket with hierarchical namespace: a checkpoint is finished by renaming a folder
  run     -- VERB CONFIG --workdir=/mnt/bucket/… [--section.field=value …]
          launch/preflight.py, then `scalingnote VERB`, on every host; it goes on when you log out
  logs    [--worker K]
          follows the log of host K (0) of the first slice; its last line is the exit code
  stop    ends the run on every host; the same `run` goes on from the last checkpoint
  delete  gives the TPU back

--slices N is said to every verb, as N > 1 slices are N nodes, NAME-0 … NAME-(N-1).
--dry-run prints the gcloud commands and runs none.
END
}

fail() {
  echo "launch/tpu_vm.sh: $1; see bash launch/tpu_vm.sh --help" >&2
  exit 2
}

# Where things lie on the hosts, below the home of the user there.
code=scalingnote_jax
log=scalingnote.log
pid=scalingnote.pid

cloud() {
  local word
  if $dry_run; then
    printf gcloud
    for word in "$@"; do
      [[ $word =~ ^[A-Za-z0-9_.,:/=-]+$ ]] || word=${word@Q}
      printf ' %s' "$word"
    done
    echo
  else
    gcloud "$@"
  fi
}

nodes() {
  if [ "$slices" = 1 ]; then
    echo "$name"
  else
    seq -f "$name-%.0f" 0 $((slices - 1))
  fi
}

# The same command on all hosts of all slices; one slice after the other, all hosts of it at once.
everywhere() {
  local node
  for node in $(nodes); do
    cloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command="$1"
  done
}

create() {
  [ -n "$type" ] && [ -n "$version" ] || fail "create needs --type and --version"
  [[ $type != tpu7x* ]] || fail "Cloud TPU VMs have no $type: start it on GKE, with launch/gke_jobset.yaml"
  local shape=(--node-id="$name")
  [ "$slices" = 1 ] || shape=(--node-count="$slices" --node-prefix="$name")
  # The scope lets the hosts write to buckets.
  cloud compute tpus queued-resources create "$name" "${place[@]}" "${shape[@]}" \
    --accelerator-type="$type" --runtime-version="$version" "${spot[@]}" \
    --scopes=https://www.googleapis.com/auth/cloud-platform "$@"
}

setup() {
  local archive node
  archive=$(mktemp -d)/scalingnote_jax.tgz
  # What git tracks or would track, as it is now: uncommitted edits travel, environments and runs do not.
  git ls-files -z --cached --others --exclude-standard \
    | while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done \
    | tar --null --files-from=- -czf "$archive"
  for node in $(nodes); do
    cloud compute tpus tpu-vm scp "$archive" "$node:scalingnote_jax.tgz" "${place[@]}" --worker=all
  done
  # The hosts' own Python is older than 3.11; uv brings one. Files that are gone here go there too.
  everywhere "set -e; mkdir -p $code; cd $code
find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
tar -xzf ../scalingnote_jax.tgz
python3 -m pip install -q --user 'uv>=0.9'
[ -x .venv/bin/python ] || ~/.local/bin/uv venv -q --seed --python 3.13 .venv
PYTHON=.venv/bin/python; . launch/environment.sh; make_environment index,pretrained,tpu"
}

mount() {
  [ -n "$bucket" ] || fail "mount needs --bucket"
  local key=/usr/share/keyrings/cloud.google.asc host=https://packages.cloud.google.com/apt
  everywhere "set -e; mountpoint -q /mnt/bucket && exit 0
if ! command -v gcsfuse > /dev/null; then
curl -fsS $host/doc/apt-key.gpg | sudo tee $key > /dev/null
echo \"deb [signed-by=$key] $host gcsfuse-\$(lsb_release -cs) main\" | sudo tee /etc/apt/sources.list.d/gcsfuse.list
sudo apt-get -q update; sudo apt-get -qy install gcsfuse
fi
sudo mkdir -p /mnt/bucket; sudo chown \$(id -u):\$(id -g) /mnt/bucket
gcsfuse --implicit-dirs $(printf '%q' "$bucket") /mnt/bucket"
}

run() {
  [ $# -ge 2 ] || fail "run needs -- VERB CONFIG"
  local verb=$1 words inner
  shift
  printf -v words ' %q' "$@"
  inner="{ python launch/preflight.py$words && scalingnote $(printf '%q' "$verb")$words; }; echo \"exit code \$?\""
  # A group of its own outlives the ssh session, and is ended as a whole.
  everywhere "cd $code; export PATH=\$PWD/.venv/bin:\$PATH
if kill -0 -- -\$(cat ~/$pid 2> /dev/null) 2> /dev/null; then echo 'a run is alive here: stop it first'; exit 1; fi
setsid nohup bash -c ${inner@Q} > ~/$log 2>&1 < /dev/null &
echo \$! > ~/$pid"
}

main() {
  local verb=${1:-}
  case $verb in
    create | status | setup | mount | run | logs | stop | delete) shift ;;
    "" | -h | --help) usage && exit 0 ;;
    *) fail "no verb $verb" ;;
  esac
  name='' zone='' slices=1 type='' version='' bucket='' worker=0 dry_run=false
  spot=() place=()
  while [ $# -gt 0 ]; do
    case $1 in
      --name | --zone | --slices | --type | --version | --bucket | --worker)
        [ $# -ge 2 ] || fail "$1 needs a value"
        declare -g "${1#--}=$2" && shift 2
        ;;
      --project)
        [ $# -ge 2 ] || fail "$1 needs a value"
        place+=(--project="$2") && shift 2
        ;;
      --spot) spot=(--spot) && shift ;;
      --dry-run) dry_run=true && shift ;;
      --) shift && break ;;
      *) fail "unknown option $1" ;;
    esac
  done
  [ -n "$name" ] && [ -n "$zone" ] || fail "--name and --zone are needed"
  [[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices $slices is not a number"
  # These become words of commands here and on the hosts: no pattern, no option, no blank in them
  [[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || fail "--name ${name@Q} is not small letters, digits and hyphens"
  [[ $zone =~ ^[a-z][a-z0-9-]*$ ]] || fail "--zone ${zone@Q} is no zone"
  [[ $worker =~ ^([0-9]+|all)$ ]] || fail "--worker ${worker@Q} is no number"
  [[ $bucket =~ ^([a-z0-9][a-z0-9._-]*)?$ ]] || fail "--bucket ${bucket@Q} is no name of a bucket"
  [[ $type$version =~ ^[a-z0-9.-]*$ ]] || fail "--type ${type@Q} or --version ${version@Q} is no such name"
  place+=(--zone="$zone")
  case $verb in
    run) run "$@" ;;
    status)
      cloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)'
      ;;
    logs)
      cloud compute tpus tpu-vm ssh "$(nodes | head -n 1)" "${place[@]}" --worker="$worker" \
        --command="tail -n 200 -F $log"
      ;;
    stop) everywhere "kill -TERM -- -\$(cat $pid)" ;;
    delete) cloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet ;;
    create) create "$@" ;;
    *) "$verb" ;;
  esac
}

main "$@"
