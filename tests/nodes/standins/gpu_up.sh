#!/bin/sh
# STAND-IN for tests: makes the node look as if the NVIDIA kernel module had been loaded. Runs early at boot and once
# when the GPU is given to a running node; a second run changes nothing.
set -eu
state=/var/lib/gpumend-standin
if [ ! -e /proc/driver/nvidia ]; then
  mount --bind $state/proc-driver /proc/driver
fi
# Root of a user namespace may not remount /sys: there it stays without.
if [ ! -e /sys/module/nvidia ] && mount -o remount,rw /sys 2>/dev/null; then
  # nspawn gives /sys read-only and without /sys/module
  mkdir -p /sys/module
  mount --bind $state/sys-module /sys/module
  mount -o remount,ro /sys
fi
node() {
  [ -e "/dev/$1" ] || mknod -m 666 "/dev/$1" c "$2" "$3"
  # Newer drivers see to it (NVIDIA/cloud-native-docs PR 186); gpumend explain GM509.
  mkdir -p /dev/char
  [ -L "/dev/char/$2:$3" ] || ln -s "../$1" "/dev/char/$2:$3"
}
node nvidia0 195 0
node nvidiactl 195 255
node nvidia-modeset 195 254
node nvidia-uvm 238 0
node nvidia-uvm-tools 238 1
