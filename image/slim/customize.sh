#!/bin/sh
# Turn a fresh Debian into the default snapshot. A hook of mmdebstrap, run as root of the host:
#   customize.sh ROOT STAGE
# STAGE holds files for ROOT: Node in usr/local, and what the site's network asks for.
set -eu
root=$1
stage=$2

cp -R --preserve=mode,links "$stage/." "$root/"

chroot "$root" sh -eu <<'INSIDE'
groupadd --gid 1000 daytona
useradd --uid 1000 --gid 1000 --groups sudo,staff --create-home --shell /bin/bash daytona
echo 'daytona ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/daytona
chmod 0440 /etc/sudoers.d/daytona
# `sudo pip` and `sudo npm` need the site's certificates and proxies, too.
cat >/etc/sudoers.d/site-network <<'SUDOERS'
Defaults env_keep += "SSL_CERT_FILE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS PIP_CERT CURL_CA_BUNDLE GIT_SSL_CAINFO"
Defaults env_keep += "http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
SUDOERS
chmod 0440 /etc/sudoers.d/site-network
install -d -o daytona -g daytona /workspace
# Nobody sits at the terminal: a question of a package's installer would wait for ever.
echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections

# Else each sandbox would compile them at its first use.
python3 -m compileall -q /usr/local/lib/language-servers/python

# The group staff may change /usr/local (an old Debian convention), so that `pip install` and
# `npm install -g` of the user work and what they install is on the PATH.
chown -R root:staff /usr/local
find /usr/local -type d -exec chmod 2775 {} +
find /usr/local -type f -perm /u+x -exec chmod 0775 {} +
find /usr/local -type f ! -perm /u+x -exec chmod 0664 {} +

update-ca-certificates
INSIDE

# The host's, which mmdebstrap put there to have a network; the runner gives a sandbox its own.
: >"$root/etc/resolv.conf"
: >"$root/etc/hostname"
chmod 0644 "$root/etc/resolv.conf" "$root/etc/hostname"
