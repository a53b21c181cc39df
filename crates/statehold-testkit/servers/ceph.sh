#!/bin/sh
# One Ceph node in memory with its S3 gateway, on loopback only, for as long as standard input stays
# open. Says "ready" on standard output.
# usage: ceph.sh FOLDER GATEWAY_PORT MONITOR_PORT MONITOR_PORT_OLD KEY SECRET
set -eu
cd "$1"
folder=$PWD gateway=$2 monitor=$3 monitor_old=$4 key=$5 secret=$6

daemons=""
trap 'kill -9 $daemons 2>/dev/null || true; wait' EXIT
start() {
    "$@" -c ceph.conf -f </dev/null >>daemons.log 2>&1 &
    daemons="$daemons $!"
}

mkdir -p mon mgr osd run
cluster=$(cat /proc/sys/kernel/random/uuid)
disk=$(cat /proc/sys/kernel/random/uuid)
cat > ceph.conf <<END
[global]
fsid = $cluster
mon initial members = a
mon host = [v2:127.0.0.1:$monitor,v1:127.0.0.1:$monitor_old]
public network = 127.0.0.0/8
ms bind ipv6 = false
keyring = $folder/keyring
run dir = $folder/run
admin socket = $folder/run/\$name.asok
pid file = $folder/run/\$name.pid
log file = $folder/run/\$name.log
# One copy on one disk is all there is.
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd crush update on start = false
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
osd objectstore = memstore
memstore device bytes = 4294967296
# A full disk elsewhere on the machine is not ours to mind.
mon data avail warn = 1
mon data avail crit = 1
[mon]
mon data = $folder/mon
[mgr]
mgr data = $folder/mgr
[osd]
osd data = $folder/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$gateway
rgw data = $folder/run
END

grant() {
    name=$1
    shift
    ceph-authtool keyring --gen-key -n "$name" "$@" >/dev/null
}
ceph-authtool --create-keyring keyring --gen-key -n mon. --cap mon 'allow *' >/dev/null
grant client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
grant mgr.x --cap mon 'allow profile mgr' --cap osd 'allow *'
grant osd.0 --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
grant client.rgw --cap mon 'allow rw' --cap osd 'allow rwx' --cap mgr 'allow rw'

monmaptool --create --clobber --fsid "$cluster" \
    --addv a "[v2:127.0.0.1:$monitor,v1:127.0.0.1:$monitor_old]" monmap >/dev/null
ceph-mon -c ceph.conf --mkfs -i a --monmap monmap --keyring keyring >>daemons.log 2>&1
start ceph-mon -i a
# The disk knows its id before the monitors do, or it never joins.
timeout 60 ceph -c ceph.conf osd create "$disk" >>daemons.log 2>&1
ceph-osd -c ceph.conf -i 0 --mkfs --osd-uuid "$disk" >>daemons.log 2>&1
timeout 60 ceph -c ceph.conf osd crush add osd.0 1.0 host=localhost root=default >>daemons.log 2>&1
start ceph-osd -i 0
start ceph-mgr -i x
start radosgw -n client.rgw
timeout 90 radosgw-admin -c ceph.conf user create --uid=test --display-name=test \
    --access-key="$key" --secret="$secret" >>daemons.log 2>&1
echo ready
read -r _ || true
