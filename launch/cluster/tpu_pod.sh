#!/usr/bin/env bash
# A launcher on a slice of Cloud TPUs, until it is done, however often the slice is preempted.
#
#   NAME=paper ZONE=us-east5-b \
#   SLICE='--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --spot' \
#     launch/cluster/tpu_pod.sh launch.NAME --config=... --workdir=gs://BUCKET/paper --distributed
#
# It asks for the slice as a queued resource, copies the commit that is checked out here to all hosts,
# and runs. SHARE=10.0.0.2:/runs (NFS, Filestore) is mounted there at /mnt/share, for a workdir or
# data that are in no bucket. At the end, good or bad, and at Ctrl-C it deletes the slice. The same
# command goes on, with the slice too where it is still there.
# docs/cluster.md says more.

set -uo pipefail
: "${NAME:?of the slice}" "${ZONE:?such as us-east5-b}"
: "${SLICE:?flags that say which slice to create}" "${1:?launch.NAME and its flags}"
SHARE=${SHARE:-}
case " $*" in
  *" --workdir=gs://"*) ;;
  *) : "${SHARE:?HOST:FOLDER of an NFS server, or --workdir=gs://...}" ;;
esac
PAUSE=${PAUSE:-60} # seconds between two looks; what gcloud says of a slice lags behind
TRIES=3            # failures after which to end: of the run on a slice that is there, of requests

tpu() { gcloud compute tpus "$@" --zone="$ZONE" --quiet; }

end() {
  echo "$*" >&2
  exit 1
}

state() { # of the queued resource
  local found
  found=$(tpu queued-resources list --filter="name~/$NAME\$" --format='value(state.state)') ||
    found=UNKNOWN
  echo "${found:-ABSENT}"
}

remove() { tpu queued-resources delete "$NAME" --force; }

obtain() { # wait until the slice is there
  local now before=
  while now=$(state) && [ "$now" != ACTIVE ]; do
    [ "$now" = "$before" ] || echo "$(date +%T) $NAME: $now"
    before=$now
    case $now in
      ABSENT)
        # shellcheck disable=SC2086 # SLICE is several flags
        tpu queued-resources create "$NAME" --node-id="$NAME" $SLICE ||
          end "$NAME: not to be had with $SLICE"
        ;;
      FAILED)
        remove
        ((++refused < TRIES)) || end "$NAME: the request failed $TRIES times in a row"
        ;;
      SUSPENDED) remove ;;
    esac
    sleep "$PAUSE"
  done
  refused=0
}

bundle=$(mktemp -d)/synthjax.bundle
git -C "$(dirname "$0")" bundle create --quiet "$bundle" HEAD || end "not in a checkout of synthjax"

# What a lost connection left running on a host still holds its TPU: it goes first. The image's own
# Python is too old.
on_each_host="
cd ~
if [ -s run.pid ]; then kill -KILL -- -\$(cat run.pid) 2>/dev/null; fi
echo \$\$ >run.pid
{
  { [ -z '$SHARE' ] || mountpoint -q /mnt/share || {
    sudo apt-get -qq install -y nfs-common >/dev/null && sudo mkdir -p /mnt/share &&
    sudo mount -t nfs $SHARE /mnt/share; }; } &&
  rm -rf synthjax && git clone -q synthjax.bundle synthjax && cd synthjax &&
  python3 -m pip install -q --user uv && uv=~/.local/bin/uv && \$uv venv -q --python 3.12 .venv &&
  \$uv pip install -q --python .venv -c constraints.txt -e '.[tpu,gcs]'
} || exit 1
.venv/bin/python -m launch.cluster.attempt $(printf '%q ' "$@")
code=\$?
rm ~/run.pid
exit \$code"

tpu queued-resources list --format='value(name)' >/dev/null || end "gcloud does not answer"
trap 'rm -r "$(dirname "$bundle")"; remove' EXIT
trap 'exit 130' INT TERM

refused=0 failed=0
while true; do
  obtain
  echo "$(date +%T) $NAME: runs"
  tpu tpu-vm scp "$bundle" "$NAME:synthjax.bundle" --worker=all &&
    tpu tpu-vm ssh "$NAME" --worker=all --command="$on_each_host"
  code=$?
  [ "$code" -ne 0 ] || break
  [ "$code" -ne 2 ] || end "$NAME: what was asked for cannot be run"
  sleep "$PAUSE"
  # Stopped (75) is no failure, nor is a slice that went away.
  if [ "$code" -ne 75 ] && [ "$(state)" = ACTIVE ]; then
    ((++failed < TRIES)) || end "$NAME: failed $TRIES times (code $code) with the slice there"
  fi
  echo "$(date +%T) $NAME: ended with $code; goes on"
done
