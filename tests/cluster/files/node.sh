#!/bin/bash
# The first process of one node: node.sh FOLDER [KUBELET FLAG...]; without flags containerd alone.
# It runs in a mount and a process namespace of its own (tests/cluster/node.py), in which /var is the node's own folder and
# /run is empty: so containerd and the kubelet use the paths that they use everywhere, and when this process dies, all
# processes and mounts of the node are gone, as when a machine loses power.
set -euo pipefail
folder=$1
shift
mount --bind "$folder/var" /var
mount --types tmpfs --options mode=755 tmpfs /run
containerd --config "${BASH_SOURCE%/*}/containerd.toml" >> "$folder/containerd.log" 2>&1 &
if (($#)); then
  mount --options loop "$folder/disk.img" /var/lib/kubelet
  until [[ -S /run/containerd/containerd.sock ]]; do kill -0 $!; sleep 0.1; done
  kubelet "$@" >> "$folder/kubelet.log" 2>&1 &
fi
# A node without one of the two is none: the first that ends is the end of all.
wait -n
exit 1
