#!/usr/bin/env bash
# The first process of a node: starts everything in it, and by its end ends everything. up.sh runs it.
# Usage: init.sh FOLDER PROGRAMS [IMAGE.tar]...
set -euo pipefail

folder=$1
programs=$2
shift 2
node_ip=10.88.0.1
services=10.96.0.0/16
export PATH=$programs:/usr/sbin:/usr/bin:/sbin:/bin
export KUBECONFIG=$folder/admin.kubeconfig

trap exit TERM
# The other end of standard input is the test's.
{ cat >/dev/null; kill -TERM 1; } <&0 &

# The kubelet's volumes have to reach the pods' namespaces.
mount --make-rshared /
# Folders that every machine has, and whose contents nothing here needs; so none has to be made on the machine.
for place in /var/lib /var/log /run; do
    mkdir -p "$folder/fs$place"
    mount --bind "$folder/fs$place" "$place"
done
mount --bind "$folder/resolv.conf" /etc/resolv.conf

# The kubelet insists on settings of the whole machine. It is shown files that have them already.
mkdir "$folder/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$folder/sysctl/${setting//\//.}
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done
# One without these covers must exist, or the kernel gives no fresh one to pods with users of their own.
mkdir /run/proc
mount -t proc proc /run/proc

# A bridge without ports carries the node's address, which must not be one of loopback. The route lets the node itself
# reach Services: their addresses are replaced after a route was found.
hostname node
ip link set lo up
ip link add node0 type bridge
ip address add "$node_ip/24" dev node0
ip link set node0 up
ip route add "$services" dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward

start() {
    local name=$1
    shift
    "$name" "$@" >"$folder/log/$name.log" 2>&1 </dev/null &
}
await() {
    local tries
    for ((tries = 0; tries < 1200; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    echo "in vain for a minute: $*"
    exit 1
}
answers() {
    local words
    exec 9<>"/dev/tcp/127.0.0.1/$1" || return
    printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&9
    read -r words <&9
    [[ $words == *" 200 "* ]]
}

start etcd --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
start containerd --config "$folder/containerd.toml"
start kube-apiserver --etcd-servers http://127.0.0.1:2379 \
    --bind-address 0.0.0.0 --secure-port 6443 --advertise-address "$node_ip" \
    --cert-dir "$folder/pki" --token-auth-file "$folder/pki/tokens.csv" \
    --service-account-key-file "$folder/pki/apiserver.key" \
    --service-account-signing-key-file "$folder/pki/apiserver.key" \
    --service-account-issuer https://kubernetes.default.svc \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --service-cluster-ip-range "$services" --kubelet-preferred-address-types InternalIP \
    --audit-policy-file "$folder/audit-policy.yaml" --audit-log-path "$folder/audit.log" --audit-log-maxsize 4096

await ctr version
for image in "$programs/pause.tar" "$@"; do ctr --namespace k8s.io images import "$image"; done

# The server writes its own certificate and the authority's into one file; clients trust the second.
certified() { (($(grep -c 'END CERTIFICATE' "$folder/pki/apiserver.crt") == 2)); }
await certified
awk '/BEGIN CERTIFICATE/ { count++ } count == 2' "$folder/pki/apiserver.crt" >"$folder/pki/ca.crt"
await kubectl get --raw /readyz

# The limit that the controllers and the scheduler set themselves would be most of a test's time.
start kube-controller-manager --kubeconfig "$folder/kube-controller-manager.kubeconfig" \
    --bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials \
    --kube-api-qps 1000 --kube-api-burst 1000 \
    --service-account-private-key-file "$folder/pki/apiserver.key" --root-ca-file "$folder/pki/ca.crt" \
    --allocate-node-cidrs --cluster-cidr 10.244.0.0/16 --service-cluster-ip-range "$services"
start kube-scheduler --kubeconfig "$folder/kube-scheduler.kubeconfig" \
    --bind-address 127.0.0.1 --leader-elect=false --kube-api-qps 1000 --kube-api-burst 1000
start kubelet --config "$folder/kubelet.yaml" --kubeconfig "$folder/kubelet.kubeconfig" \
    --hostname-override node --node-ip "$node_ip"
start kube-proxy --config "$folder/kube-proxy.yaml"
start coredns -conf "$folder/Corefile"

await answers 8181 /ready
await answers 10256 /healthz
await kubectl wait --for=condition=Ready node/node --timeout=1s
touch "$folder/ready"

# Stay while anything runs, and bury the orphans that end up here.
while wait -n || (($? != 127)); do :; done
