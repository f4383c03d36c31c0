#!/usr/bin/env bash
# Run a command inside the stack's environment, with signals reaching it: `docker stop` must bring the robot to rest.
set -euo pipefail
cd "${WAM_HOME:-/opt/wam}"
if [ "$#" -eq 0 ]; then
  exec ./wam shell
fi
exec ./wam shell -c "exec $(printf '%q ' "$@")"
