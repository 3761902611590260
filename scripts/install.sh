#!/bin/sh
# Installs what a bare Debian with Rust and make lacks.
#
#   scripts/install.sh build   what building needs: cmake, a C compiler
#   scripts/install.sh test    what the tests need besides: Debian packages, and pinned Python and
#                              Node packages under .tools/ and tests/node_modules
#
# Runs as root, or with sudo. Says what it does only when it does something; starts no service.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "install: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else say "these need root, and there is no sudo: $*"; exit 1
    fi
}

# apt_for PROGRAM=PACKAGE...: installs the packages whose program is missing.
apt_for() {
    missing=
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || missing="$missing ${pair#*=}"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here; install these yourself:$missing"
        exit 1
    fi
    say "apt-get install$missing"
    # policy-rc.d keeps packages such as nginx from starting their service.
    policy=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
        as_root chmod 755 /usr/sbin/policy-rc.d
    fi
    log=$(mktemp)
    status=0
    # shellcheck disable=SC2086  # one word a package
    { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
      as_root env DEBIAN_FRONTEND=noninteractive \
          apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null || status=$?
    [ -z "$policy" ] || as_root rm -f /usr/sbin/policy-rc.d
    [ "$status" = 0 ] || { cat "$log" >&2; rm -f "$log"; say "apt-get failed"; exit 1; }
    rm -f "$log"
    # Nor shall they start with the next boot.
    if [ -d /run/systemd/system ]; then
        for package in $missing; do
            case $package in
                nginx-light) as_root systemctl disable -q nginx.service ;;
                prometheus) as_root systemctl disable -q prometheus.service ;;
            esac
        done
    fi
}

# unless_done STAMP FILE COMMAND...: runs the command unless it succeeded with this same FILE before.
unless_done() {
    stamp=$1 file=$2
    shift 2
    now=$(cksum <"$file")
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$now" ]; then return 0; fi
    say "$(basename "$file")"
    rm -f "$stamp"
    "$@"
    printf '%s\n' "$now" >"$stamp"
}

python_packages() {
    rm -rf .tools/venv
    python3 -m venv .tools/venv
    .tools/venv/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/requirements.txt
}

node_packages() {
    (cd tests && PATH="$PWD/../.tools/venv/bin:$PATH" \
        npm ci --silent --no-audit --no-fund --ignore-scripts)
}

build() {
    apt_for cc=build-essential cmake=cmake
}

tests() {
    # nginx and promtool come in packages that hold services as well; see apt_for.
    apt_for curl=curl nginx=nginx-light promtool=prometheus chromium=chromium \
        openssl=openssl python3=python3 slowhttptest=slowhttptest \
        ip=iproute2 hping3=hping3 tcpdump=tcpdump sysctl=procps \
        clang-14=clang-14 llvm-strip-14=llvm-14 nft=nftables
    [ -e /usr/include/bpf/bpf_helpers.h ] || apt_for no-such-program=libbpf-dev
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_for no-such-program=python3-venv
    mkdir -p .tools
    unless_done .tools/python.stamp tests/requirements.txt python_packages
    # A fresh venv has no node_modules to go with it, and the other way round.
    [ -d tests/node_modules ] || rm -f .tools/node.stamp
    unless_done .tools/node.stamp tests/package-lock.json node_packages
}

case ${1:-} in
    build) build ;;
    test) build; tests ;;
    *) say "usage: scripts/install.sh build|test"; exit 2 ;;
esac
