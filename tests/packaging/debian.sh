#!/bin/sh
# Runs as root in a minimal Debian that may be changed: installs the packages in a folder, tests them, removes and purges them,
# and fails if anything is left. scripts/check-suites calls it.
#
#   tests/packaging/debian.sh FOLDER
set -eu
packages=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
passed=0
ok() {
    passed=$((passed + 1))
    echo "ok $passed - $*"
}
fail() {
    echo "not ok - $*"
    echo "$passed passed, 1 failed"
    exit 1
}

everything() {
    find / -xdev \( -path /tmp -o -path /run -o -path /root -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/log \
        -o -path /var/lib/systemd -o -path /var/backups \) -prune -o -print | grep -v -e '/__pycache__' -e '^/etc/.*-$' | sort
    cut -d : -f 1 /etc/passwd /etc/group | sort
}

apt-get install -y -qq --no-install-recommends gcc libc6-dev pkg-config libjansson4 libmicrohttpd12 libcurl4 libedit2 libpcre2-8-0 \
    liburing2 libutf8proc2 adduser python3 >/dev/null
everything >"$work/before"

set --
for package in "$packages"/*.deb; do
    case $package in *-dbgsym_*) ;; *) set -- "$@" "$package" ;; esac
done
apt-get install -y -qq --no-install-recommends "$@" >"$work/install" 2>&1 || { cat "$work/install"; fail "the packages install"; }
ok "$# packages install"

answer=$(cd / && hypura run --temperature 0 --max-tokens 12 --prompt "What does the ls command do?" 2>"$work/errors") || fail "hypura answers: $(cat "$work/errors")"
case $answer in *"list directory contents"*) ok "the packaged model answers" ;; *) fail "the packaged model answers: $answer" ;; esac

pkg-config --exists hypura || fail "pkg-config finds the library"
model=/usr/share/hypura/models/manpage-moe-24m-Q4_K_M.gguf
# shellcheck disable=SC2046
gcc -std=c17 -Wall -Werror /usr/share/doc/libhypura-dev/examples/chat.c -o "$work/chat" $(pkg-config --cflags --libs hypura) ||
    fail "an example compiles"
echo "What does the ls command do?" | "$work/chat" "$model" | grep -q "list directory contents" || fail "an example answers"
ok "an example compiles against the library, and runs"

(cd / && python3 -c "
import hypura
with hypura.Model('$model', context=256) as model:
    print(model.answer('What does the ls command do?', temperature=0, max_tokens=12).text)") | grep -q "list directory contents" ||
    fail "the Python module answers"
ok "the Python module answers"

getent passwd hypura | grep -q ':/var/lib/hypura:.*nologin$' || fail "the server has a user: $(getent passwd hypura)"
ok "the server has a user of its own"
install -d -o hypura -g hypura -m 750 /var/lib/hypura /var/cache/hypura # systemd makes these
su -s /bin/sh hypura -c "HOME=/var/lib/hypura HYPURA_MODELS=/var/lib/hypura/models XDG_STATE_HOME=/var/lib/hypura/state \
    XDG_CACHE_HOME=/var/cache/hypura exec hypura serve --port 0" >"$work/address" 2>"$work/log" &
server=$!
for _ in $(seq 100); do
    [ ! -s "$work/address" ] || break
    sleep 0.3
done
HYPURA_HOST=$(cat "$work/address") hypura ps >/dev/null || fail "the server answers its user: $(cat "$work/log")"
kill "$server"
wait "$server" || true
ok "the server answers as that user"

for directive in User=hypura ProtectSystem=strict NoNewPrivileges=yes; do
    grep -q "^$directive\$" /lib/systemd/system/hypura.service || fail "the unit has $directive"
done
[ ! -e /etc/systemd/system/multi-user.target.wants/hypura.service ] || fail "the server is not enabled by default"
ok "the unit is hardened and not enabled"

apt-get remove -y -qq hypura hypura-model libhypura0 >"$work/remove" 2>&1 || { cat "$work/remove"; fail "the packages can be removed"; }
[ -f /etc/default/hypura ] || fail "removal keeps the settings"
ok "the packages can be removed, and settings stay"
# shellcheck disable=SC2046
dpkg --purge $(dpkg-query -W -f '${Package}\n' 'hypura*' 'libhypura*' 'python3-hypura*') >"$work/purge" 2>&1 || { cat "$work/purge"; fail "the packages can be purged"; }
everything >"$work/after"
diff "$work/before" "$work/after" || fail "nothing is left after purging"
ok "nothing is left after purging"
echo "$passed passed, 0 failed"
