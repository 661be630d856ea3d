#!/usr/bin/env bash
# Installs the Debian packages that tests drive as real clients, where that is possible.
# Never fails: a test that lacks its client skips and says why.
set -u
missing=()
for package in "$@"; do
  command -v "$package" >/dev/null 2>&1 || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
  echo "not installed, and no apt or root to install it: ${missing[*]} (their tests will skip)"
  exit 0
fi
case " ${missing[*]} " in *" chromium "*) missing+=(fonts-dejavu-core) ;; esac # pages are drawn with some font
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null 2>&1
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
  echo "apt-get could not install ${missing[*]} (their tests will skip)"
exit 0
