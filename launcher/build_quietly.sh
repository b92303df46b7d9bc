#!/bin/sh
# Runs a build with its whole output in a file, and on stderr a line for every tenth of ninja's steps that is done.
#
#   launcher/build_quietly.sh LOG COMMAND...
#
# Ends as the command does; when it fails, the end of its output is shown too.
set -u
log=$1
shift
code=$({
  { "$@" 2>&1; echo "exit code $?"; } | {
    code=1 said=0
    while IFS= read -r line; do
      case "$line" in
        "exit code "*) code=${line#exit code } && continue ;;
        \[[0-9]*/[0-9]*\]*)
          step=${line#\[} all=${line#*/}
          step=${step%%/*} all=${all%%\]*}
          tenth=$((10 * step / all))
          if [ "$tenth" -gt "$said" ]; then
            said=$tenth
            echo "  $((10 * tenth)) % built ($step of $all steps)" >&2
          fi
          ;;
      esac
      printf '%s\n' "$line" >&3
    done
    echo "$code"
  }
} 3>"$log")
[ "$code" = 0 ] || tail -n 30 "$log" >&2
exit "$code"
