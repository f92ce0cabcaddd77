#!/bin/sh
# gpumend's agent over the host's file system: with the host's python3, in the host's root directory, which is mounted read-only but
# for /var/lib/gpumend. Nothing runs between two audits but a sleep.
set -u
umask 077
home=/var/lib/gpumend/kubernetes
mkdir -p "/host$home"
while :; do
    cp /gpumend/agent "/host$home/.agent" && mv -f "/host$home/.agent" "/host$home/agent"
    cp /config/agent.json "/host$home/.agent.json" && mv -f "/host$home/.agent.json" "/host$home/agent.json"
    chroot /host /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR="$home" \
        /usr/bin/python3 -I -S -B "$home/agent" audit --config "$home/agent.json" --host "$NODE_NAME" --spread "$SPREAD"
    echo "audit: exit status $?"
    sleep "$INTERVAL"
done
