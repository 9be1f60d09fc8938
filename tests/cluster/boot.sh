# Becomes the first process of a host, in namespaces of its own: makes them its own machine.
#   boot.sh DIRECTORY NAME RESOLV_CONF    the host's files, its name, what /etc/resolv.conf leads to
set -eu
# The process id as the outside counts, from the /proc that was mounted there.
read -r pid rest < /proc/self/stat
mount -t proc proc /proc
echo "$2" > /proc/sys/kernel/hostname
mount --bind "$1" /srv
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /run/cgroup /run/netns
mkdir -m 1777 /run/tmp
# What TCP still wants to send when all processes are dead keeps the namespace for a second at most.
echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
case $3 in
  /run/*) mkdir -p "${3%/*}" && cp /srv/resolv.conf "$3" ;;
  *) mount --bind /srv/resolv.conf "$3" ;;
esac
echo "$pid" > /srv/run/init.new
mv /srv/run/init.new /srv/run/init
exec /usr/bin/tini-static -- sleep infinity
