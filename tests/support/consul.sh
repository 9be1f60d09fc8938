#!/usr/bin/env bash
# Put Consul into the directory $1: Debian 12 has none, so the package of the release before, unpacked.
# Nothing is installed; the lists that apt reads for it are its own and thrown away.
set -euo pipefail

target=$1
[ ! -x "$target/consul" ] || exit 0
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(grep -rhoE '(https?|mirror\+file):[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d |
  head -n 1 | tr -d ' ' || :)
[ -n "$mirror" ] || { echo "no Debian mirror in apt's sources" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$target"
echo "deb [signed-by=$keyring] $mirror bullseye main" >"$work/sources.list"
options=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
cd "$work"
apt-get "${options[@]}" update
apt-get "${options[@]}" download consul
dpkg-deb -x consul_*.deb unpacked
install -m 755 unpacked/usr/bin/consul "$target/consul.new"
mv "$target/consul.new" "$target/consul"
