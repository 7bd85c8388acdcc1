#!/bin/sh
# Before every start of Trunkline's agent, as root and outside the agent's own restrictions: puts an upgrade that the
# agent has fetched and checked in its place, on trial, and brings the version before back when the trial fails. Nothing
# here is taken from the version on trial. It guards against versions that fail, damaged files and cut power; an agent that
# somebody took over is root on this host and needs no upgrade to do harm.
#
#   gate            before a start (ExecStartPre)
#   gate deadline   the trial's time is up (a timer that the gate sets)
#
# In /var/lib/trunkline/upgrade, key=value a line: `request` by the agent; `trial` and `returned` by the gate. The agent
# removes `trial` when the control plane has confirmed the new version: that is the commit. Every step can be cut off by
# the power and is done again at the next start.
set -eu
export LC_ALL=C PATH="${TRUNKLINE_PATH:+$TRUNKLINE_PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
umask 077

OPT=${TRUNKLINE_OPT:-/opt/trunkline}
STATE=${TRUNKLINE_STATE:-/var/lib/trunkline}
UP=$STATE/upgrade
UNIT=trunkline-agent.service
TIMER=trunkline-upgrade-deadline
# How often a version on trial may be started. A reboot counts: a version that takes the machine down goes as well.
MOST_STARTS=3
# A request is for the restart that follows it at once, or for the next boot when the power was cut there. One that is older,
# or of a clock that was set since, is of a rollout that may be over.
REQUEST_LASTS=600

main() {
  case "${1:-start}" in
    start) start ;;
    deadline) deadline ;;
    *) exit 2 ;;
  esac
}

say() { printf 'upgrade: %s\n' "$*"; }
# get FILE KEY
get() { sed -n "s/^$2=//p" "$UP/$1" | head -n 1; }
# put FILE: standard input becomes its content, whole or not at all. (Joined by &&: where a caller looks at the status,
# the shell would go on after a failure.)
put() { cat >"$UP/$1.new" && sync "$UP/$1.new" && mv -f "$UP/$1.new" "$UP/$1" && sync "$UP"; }
boot() { cat /proc/sys/kernel/random/boot_id; }
# Seconds since boot: unlike the clock it never jumps.
uptime() { sed 's/\..*//' /proc/uptime; }
is_version() { printf '%s\n' "$1" | grep -Eqx '[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?' && [ "${#1}" -le 64 ]; }
is_number() { printf '%s\n' "$1" | grep -Eqx '[0-9]{1,9}'; }
in_use() { basename "$(readlink "$OPT/current")"; }

start() {
  if [ -f "$UP/trial" ]; then
    rm -f "$UP/request" "$UP/staged.mjs"
    go_on
  elif [ -f "$UP/request" ]; then begin
  else tidy; fi
}

begin() {
  attempt=$(get request attempt)
  to=$(get request version)
  sha=$(get request sha256)
  limit=$(get request limit)
  asked=$(get request asked)
  from=$(in_use || :)
  starts=1
  is_version "$to" && is_version "$from" && is_number "$limit" || refuse "the request can't be read"
  [ "$to" != "$from" ] || refuse "$to is in use already"
  ! is_installing || refuse "the installer is bringing a version"
  is_fresh "$asked" || refuse "it was asked for too long ago"
  new=$OPT/versions/$to.new
  rm -rf "$new" || refuse "what was left of $to could not be removed"
  (umask 022 && mkdir -p "$new" && cp "$UP/staged.mjs" "$new/agent.mjs") || refuse "$to could not be copied into $OPT"
  # Of the copy: what was checked is what runs.
  [ "$(sha256sum <"$new/agent.mjs")" = "$sha  -" ] || refuse "what lies on disk is not what was signed (SHA-256 differs)"
  { chmod 644 "$new/agent.mjs" && sync "$new/agent.mjs" "$new" && rm -rf "$OPT/versions/$to" &&
    mv -T "$new" "$OPT/versions/$to" && sync "$OPT/versions"; } || refuse "$to could not be put into $OPT/versions"
  keep_state || refuse "the state directory could not be copied"
  boot=$(boot)
  until=$(($(uptime) + limit))
  arm "$limit" || refuse "no timer could be set to end the trial"
  ended=''
  put_trial || refuse "the trial could not be noted down"
  rm -f "$UP/request" "$UP/staged.mjs" "$UP/returned" "$UP/lastwords"
  point previous "$from"
  point current "$to"
  say "$to is on trial for $limit s, $from comes back otherwise"
}

# is_fresh SECONDS: agents of before there was such a note leave it out.
is_fresh() {
  [ -n "$1" ] || return 0
  printf '%s\n' "$1" | grep -Eqx '[0-9]{1,12}' || return 1
  age=$(($(date +%s) - $1))
  [ "$age" -ge "-$REQUEST_LASTS" ] && [ "$age" -le "$REQUEST_LASTS" ]
}

# The agent hears of it as it hears of a version that came back. Should the gate itself die before it comes to an end, the
# agent finds its request where it left it, and takes it back.
refuse() {
  say "refused: $1"
  # The note may be in its place although it could not be made durable; the next start would take it for a trial.
  rm -f "$UP/trial" "$UP/trial.new" || :
  sync "$UP" || :
  rm -rf "$OPT"/versions/*.new || :
  put_returned "$1" || :
  rm -rf "$UP/request" "$UP/staged.mjs"
  [ -f "$UP/trial" ] || rm -rf "$UP/before"
  exit 0
}

go_on() {
  attempt=$(get trial attempt)
  to=$(get trial to)
  from=$(get trial from)
  limit=$(get trial limit)
  boot=$(get trial boot)
  until=$(get trial until)
  starts=$(get trial starts)
  ended=$(get trial ended)
  is_number "$starts" && is_number "$limit" && is_number "$until" || ended="the note of the trial can't be read"
  [ -z "$ended" ] || give_back
  now=$(uptime)
  if [ "$boot" != "$(boot)" ]; then
    boot=$(boot)
    until=$((now + limit))
  fi
  if [ "$starts" -ge "$MOST_STARTS" ]; then ended="it was started $starts times and did not stay"
  elif [ "$now" -ge "$until" ]; then ended="it was not linked, in sync and confirmed within $limit s"
  else
    starts=$((starts + 1))
    arm $((until - now)) || ended="no timer could be set to end the trial"
  fi
  put_trial || ended=${ended:-"the trial could not be noted down"}
  [ -z "$ended" ] || give_back
  point previous "$from"
  point current "$to"
  say "$to is on trial, start $starts of $MOST_STARTS"
}

put_trial() {
  printf '%s\n' "attempt=$attempt" "to=$to" "from=$from" "limit=$limit" "boot=$boot" "until=$until" \
    "starts=$starts" "ended=$ended" | put trial
}
put_returned() {
  printf '%s\n' "attempt=$attempt" "to=$to" "from=$from" "starts=$starts" "reason=$1" | put returned
}

give_back() {
  is_version "$from" && [ -f "$OPT/versions/$from/agent.mjs" ] || from=$(basename "$(readlink "$OPT/previous" || :)")
  [ -n "$from" ] && [ -f "$OPT/versions/$from/agent.mjs" ] || { say "there is no version to go back to" && exit 1; }
  timeout 5 journalctl -q --no-pager -o cat -n 20 -u "$UNIT" 2>/dev/null | cut -c 1-300 | tail -c 3500 >"$UP/lastwords" || :
  # Without its state the version before would not start: then this one goes on, and the next start tries again.
  give_back_state || { say "the state directory could not be given back to $from" && exit 1; }
  point current "$from"
  put_returned "$ended" || :
  rm -f "$UP/trial"
  rm -rf "$UP/before"
  systemctl stop "$TIMER*.timer" >/dev/null 2>&1 || :
  say "$from is back: $to was given up ($ended)"
  exit 0
}

# point NAME VERSION: a link of /opt/trunkline, replaced by rename.
point() {
  [ "$(readlink "$OPT/$1" || :)" != "versions/$2" ] || return 0
  ln -sfn "versions/$2" "$OPT/$1.new"
  mv -fT "$OPT/$1.new" "$OPT/$1"
  sync "$OPT"
}

form() { sed -n 's/.*"stateSchema":\([0-9]*\).*/\1/p' "$1/schema.json" 2>/dev/null || :; }

# The new version may write the state in a form that the one before can't read.
keep_state() {
  rm -rf "$UP/before" "$UP/before.new"
  mkdir "$UP/before.new" || return 1
  for file in "$STATE"/*.json "$STATE"/*.key; do
    [ ! -f "$file" ] || cp -p "$file" "$UP/before.new/" || return 1
  done
  sync "$UP"/before.new/* "$UP/before.new" && mv -T "$UP/before.new" "$UP/before"
}

# Only when the form is another now: otherwise what the host learnt meanwhile is worth more. The form itself comes last.
give_back_state() {
  [ -d "$UP/before" ] && [ "$(form "$UP/before")" != "$(form "$STATE")" ] || return 0
  for file in "$UP"/before/*; do
    name=${file##*/}
    [ -f "$file" ] && [ "$name" != schema.json ] || continue
    cp -p "$file" "$STATE/$name.new" && sync "$STATE/$name.new" && mv -f "$STATE/$name.new" "$STATE/$name" || return 1
  done
  if [ -f "$UP/before/schema.json" ]; then
    cp -p "$UP/before/schema.json" "$STATE/schema.json.new" && mv -f "$STATE/schema.json.new" "$STATE/schema.json" || return 1
  else rm -f "$STATE/schema.json"; fi
  sync "$STATE" || return 1
  say "the state directory is in the form of $from again"
}

# arm SECONDS: a timer outside of the agent ends the trial, even of a version that hangs.
arm() {
  systemctl stop "$TIMER*.timer" >/dev/null 2>&1 || :
  timeout 20 systemd-run --quiet --collect --unit="$TIMER-$$" --on-active="$1" --timer-property=AccuracySec=100ms \
    "$OPT/gate" deadline
}

deadline() {
  [ -f "$UP/trial" ] && [ "$(uptime)" -ge "$(get trial until)" ] || return 0
  # Killed and not asked: it had its time. systemd starts the unit again, and the gate sees that the time is up.
  systemctl kill --kill-who=main --signal=SIGKILL "$UNIT"
}

# The installer is at work here: for an hour at most, should it have been cut off.
is_installing() { [ -n "$(find "$OPT/installing" -mmin -60 2>/dev/null)" ]; }

# Nothing is on trial: only the version in use and the one before stay. Not while the installer brings another, and never all
# of them.
tidy() {
  [ -f "$OPT/current/agent.mjs" ] && ! is_installing || return 0
  rm -rf "$UP/before" "$UP/before.new" "$UP/staged.mjs" "$UP"/*.new
  for old in "$OPT"/versions/*; do
    name=${old##*/}
    [ "$name" = "$(in_use)" ] || [ "versions/$name" = "$(readlink "$OPT/previous" || :)" ] || rm -rf "$old"
  done
}

main "$@"
