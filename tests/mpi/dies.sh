#!/usr/bin/env bash
# usage: dies.sh RANK COMMAND...
# Passes when the command ends by itself within 30 s, with a non-zero code and exactly one "error: " line, which names RANK.
rank=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
timeout -k 5 30 "$@" >"$log" 2>&1
code=$?
cat "$log"
[ $code -eq 77 ] && exit 77  # skipped
if [ $code -eq 0 ] || [ $SECONDS -ge 30 ]; then
  echo "expected a non-zero exit within 30 s, found code $code after $SECONDS s"
  exit 1
fi
if [ "$(grep -c 'error: ' "$log")" -ne 1 ] || ! grep -q "^error: .*rank ${rank}[ :]" "$log"; then
  echo "expected exactly one 'error: ' line, naming rank $rank"
  exit 1
fi
