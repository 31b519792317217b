#!/usr/bin/env bash
# Runs a Kubernetes node with its control plane, in namespaces of its own, for as long as the caller holds standard
# input open: when that ends, also because the caller was killed, nothing is left of the node or of its folder.
# Usage: up.sh FOLDER PROGRAMS [IMAGE.tar]...     (PROGRAMS: what `get.sh node` prints)
# Says `up PID` when it takes pods; /proc/PID/ns/net is its network, FOLDER/admin.kubeconfig opens it.
#
# Namespaces do most of the work. Network: every address and rule is the node's own and there is no way out, so nodes
# can stand side by side with the same addresses. Mount: what is mounted goes with the node. PID: the death of its first
# process is the death of all. Only control groups have no such end; down.sh removes them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(cd "$1" && pwd)
programs=$(cd "$2" && pwd)
shift 2
cgroup=grantsmith-node.$$
node_ip=10.88.0.1

mkdir "$folder"/{pki,cni,log}
echo "$cgroup" >"$folder/cgroup"

# Who is who: a token each, and the rights that Kubernetes gives to that name.
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
identity() {
    local file=$1 user=$2 group=$3 token
    token=$(random)
    echo "$token,$user,$user,$group" >>"$folder/pki/tokens.csv"
    cat >"$folder/$file.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: node
contexts: [{name: node, context: {cluster: node, user: node}}]
clusters: [{name: node, cluster: {server: "https://$node_ip:6443", certificate-authority: "$folder/pki/ca.crt"}}]
users: [{name: node, user: {token: "$token"}}]
END
}
identity admin admin system:masters
identity kube-controller-manager system:kube-controller-manager ''
identity kube-scheduler system:kube-scheduler ''
identity kube-proxy system:kube-proxy ''
identity kubelet system:node:node system:nodes
chmod -R go= "$folder"/{pki,*.kubeconfig}

# Only what pods ask is audited: the rest is Kubernetes talking to itself.
cat >"$folder/audit-policy.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: None, userGroups: ["system:masters", "system:nodes", "system:serviceaccounts:kube-system"]}
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
END

cat >"$folder/containerd.toml" <<END
version = 4
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE nobody may lower the score of a process, and no pod would start.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["$programs/cni"]
  conf_dir = "$folder/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "$programs/runc"
  SystemdCgroup = false
END

# Point to point, not a bridge: every packet between pods is routed, so a Service works between two of them without
# the kernel's bridge filter.
cat >"$folder/cni/node.conflist" <<END
{"cniVersion": "1.0.0", "name": "node", "plugins": [
  {"type": "ptp", "mtu": 1500, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END

# Whoever can reach the kubelet is in the node's network, and so a test. Nothing is evicted: the disk is the machine's.
cat >"$folder/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_ip
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failSwapOn: false
makeIPTablesUtilChains: false
seccompDefault: true
clusterDNS: [$node_ip]
clusterDomain: cluster.local
resolvConf: "$folder/resolv.conf"
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "1Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
serializeImagePulls: false
syncFrequency: 10s
END

# The limits of connection tracking are the machine's, not the network's.
cat >"$folder/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: "$folder/kube-proxy.kubeconfig"}
conntrack: {maxPerCore: 0, min: 0}
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
END

cat >"$folder/Corefile" <<END
.:53 {
  bind $node_ip
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $folder/admin.kubeconfig
  }
  cache 5
}
END
# Nobody is asked further: a name that the cluster does not know fails at once.
echo '# no way out' >"$folder/resolv.conf"

# The kubelet wants the group that its pods' are in to be there.
shopt -s nullglob
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    for controller in cpu cpuset io memory pids hugetlb; do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
    mkdir "/sys/fs/cgroup/$cgroup"
else
    for tree in /sys/fs/cgroup/*/; do
        [[ $tree == */unified/ || ! -e $tree/cgroup.procs ]] && continue
        mkdir -p "$tree$cgroup"
        for file in cpuset.cpus cpuset.mems; do
            if [[ -e $tree$file ]]; then cat "$tree$file" >"$tree$cgroup/$file"; fi
        done
    done
fi

unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc --propagation private \
    "$here/init.sh" "$folder" "$programs" "$@" <&0 >"$folder/log/init.log" 2>&1 &
namespaces=$!
end() {
    kill -KILL "$namespaces" 2>/dev/null || true
    wait "$namespaces" 2>/dev/null || true
    "$here/down.sh" "$folder"
}
trap end EXIT
trap 'exit 1' INT TERM HUP

until [[ -e $folder/ready ]]; do
    if ! kill -0 "$namespaces" 2>/dev/null; then
        { echo "the node did not start:"; tail -n 20 "$folder"/log/*.log; } >&2
        exit 1
    fi
    sleep 0.05
done
# The first process in there is the only child of the one that made the namespaces.
first=$(<"/proc/$namespaces/task/$namespaces/children")
echo "up ${first% }" 2>/dev/null || exit 1
wait "$namespaces" || true
