"""The shell lines of a job's batch script around srun: they name each start, and do what its nodes decided.

The nodes write their decision into `verdict` in the job's log folder: a line "START ACTION CODE [NODES]", where START
names this very start, so that a file of another start counts for nothing. The batch script outlives the nodes' tasks,
so it is what requeues or cancels the job; it tries again while SLURM's controller does not answer, as long as the
allocation lasts. Where no node could decide (killed, or ended before our code ran) it goes by srun's exit code and
srun's own words: its code is any number where it could not launch (22.05: 233, 140 or 1, of which 140 would be a
signal's).

An element of an array is addressed as ARRAY_TASK everywhere: SLURM gives one element the array's own number.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from dydist.errors import EXIT_ERROR, EXIT_STOPPED
from dydist.jobs.slurm import TRANSIENT
from dydist.jobs.spec import JobSpec

START = "DYDIST_START"
"""Variable with the name of this start: the job's number and the time."""
_ARRAY = (
    "SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_ARRAY_TASK_COUNT SLURM_ARRAY_TASK_MAX SLURM_ARRAY_TASK_MIN"
)

_LAUNCH = "(Task|Application) launch .*failed|Unable to confirm allocation"
"""srun's messages where it cannot reach its nodes or SLURM's controller, which is worth another start. A step that
asks for more than its job has is not."""
_BEFORE = "Node failure on"
"""srun's message about a lost node. It tells of the launch only if no task has started: it may come at any time."""

_FUNCTIONS = r"""
dydist_ask() {  # a command of SLURM's; again while its controller does not answer
  until dydist_answer=$("$@" 2>&1); do
    case $dydist_answer in TRANSIENT) ;; *) return 1 ;; esac
    if [ -z "$dydist_since" ]; then
      dydist_since=$(date +%T)
      echo "SLURM does not answer since $dydist_since; trying again"
    fi
    sleep 5
  done
  dydist_since=
}
dydist_record() {  # for dydist status: what no node could write. $1 action, $2 exit code, $3 reason
  echo "$3"
  local last count form='{"action": "%s", "code": %s, "reason": "%s", "time": %s, "saved_step": null}\n'
  last=$(ls -d "$dydist_logs"/attempt-* 2>/dev/null | tail -n 1)
  count=$(ls -d "$dydist_logs"/attempt-* 2>/dev/null | wc -l)
  grep -qsF "$DYDIST_START" "$last/start.json" || last=$dydist_logs/attempt-$(printf %03d "$count")
  mkdir -p "$last"
  [ -e "$last/decision.json" ] || printf "$form" "$1" "$2" "$3" "$(date +%s)" > "$last/decision.json"
  # or the next start would take the folder for an earlier job's
  [ -e "$dydist_logs/submission.json" ] || echo "$dydist_owner" > "$dydist_logs/submission.json"
}
dydist_unlaunched() {  # srun's first message in this start that matches $1: why it could not launch; or fails
  tail -c +"$((dydist_printed + 1))" "$dydist_output" 2>/dev/null |
    sed -nE "s/^srun: error: (.*($1).*)/\1/p" | head -n 1 | tr -d '"\\\000-\037' | grep .
}
dydist_end() {
  local code=$? start action result nodes count what began=
  trap - EXIT
  set +eu
  mkdir -p "$dydist_logs"
  for _ in 1 2 3 4 5; do  # what another node wrote may take a moment to be seen here
    { read -r start action result nodes < "$dydist_logs/verdict"; } 2>/dev/null
    [ "$start" = "$DYDIST_START" ] && break
    sleep 1
  done
  if [ "$start" != "$DYDIST_START" ]; then  # no node could decide
    action=fail result=$code nodes=
    if [ "$dydist_logs/cancel.json" -nt "$dydist_submission/snapshot.json" ]; then
      action=cancel result=STOPPED
    elif [ $code -eq 0 ]; then
      action=finish
    else
      grep -qsF "$DYDIST_START" "$dydist_logs"/attempt-*/start.json && began=yes
      if what=$(dydist_unlaunched 'LAUNCH') || { [ -z "$began" ] && what=$(dydist_unlaunched 'BEFORE'); }; then
        action=requeue what="that SLURM could not launch: $what" began=  # no task could train
      elif [ $code -eq STOPPED ] || { [ $code -gt 128 ] && [ $code -le 192 ]; }; then
        action=requeue what="that were killed at once (exit code $code)"  # by a signal, before they could listen
      else
        dydist_record fail "$code" "exit code $code before dydist could report; what was printed last says more"
      fi
      if [ $action = requeue ] && [ -z "$began" ]; then  # nobody else counts it
        count=$((dydist_unreported + 1))
        echo $count > "$dydist_logs/unreported"
        if [ "$count" -ge MAX_STALLED ]; then
          action=fail result=ERROR
          dydist_record fail ERROR "gave up after $count starts in a row $what"
        else
          what=${what#that }
          dydist_record requeue STOPPED "${what#were }"
        fi
      fi
    fi
  fi
  case $action in requeue | cancel) ;; *) exit "$result" ;; esac
  dydist_ask scontrol -o show job "$dydist_job"
  case $dydist_answer in
    *" JobState=RUNNING "*) ;;
    *) echo "no $action: the scheduler is ending the job already"; exit "$result" ;;
  esac
  trap "" TERM  # requeueing ends this script; what follows must still be done
  if [ "$action" = cancel ]; then
    dydist_ask scancel "$dydist_job" || echo "scancel failed: $dydist_answer"
  elif [ REQUEUE = no ]; then
    echo "not requeued: the profile says requeue: false; the same submission goes on"
  else
    if [ -n "$nodes" ]; then
      case $dydist_answer in
        *" ExcNodeList=(null) "*) ;;
        *" ExcNodeList="*) dydist_answer=${dydist_answer##* ExcNodeList=}; nodes=${dydist_answer%% *},$nodes ;;
      esac
    fi
    if ! dydist_ask scontrol requeue "$dydist_job"; then
      echo "requeue failed: $dydist_answer; submit it again by hand: it goes on from the newest checkpoint"
      exit ERROR
    fi
    # SLURM takes the excluded nodes of a waiting job alone.
    [ -z "$nodes" ] || dydist_ask scontrol update JobId="$dydist_job" ExcNodeList="$nodes" || echo "$dydist_answer"
  fi
  exit "$result"
}
trap dydist_end EXIT
trap : TERM INT USR1 USR2  # the tasks get them too: what they decide is awaited"""


def around_srun(specs: Sequence[JobSpec], *, tasks: Path, requeue: bool) -> list[str]:
    """Shell lines before everything else of the script: what is to be done at its end, however it ends.

    `specs`: one for a job, or one for each element of an array. `tasks`: submitit's folder.
    """
    submission = str(Path(specs[0].code).parent)
    folders = [shlex.quote(spec.log_dir.removesuffix("/{job}")) for spec in specs]
    if len(specs) > 1:
        lines = [
            'dydist_job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"',
            f"dydist_folders=({' '.join(folders)})",
            'dydist_logs="${dydist_folders[$SLURM_ARRAY_TASK_ID]}/$dydist_job"',
        ]
    else:
        lines = [
            f"unset {_ARRAY}  # of a job that submitted this one",
            'dydist_job="$SLURM_JOB_ID"',
            f'dydist_logs={folders[0]}/"$dydist_job"',
        ]
    functions = _FUNCTIONS.strip("\n")
    values = {
        "TRANSIENT": " | ".join(f'*"{sign}"*' for sign in TRANSIENT),
        "LAUNCH": f"{_LAUNCH}|Unable to create step .*({'|'.join(TRANSIENT)}|Requested nodes are busy)",
        "BEFORE": _BEFORE,
        "MAX_STALLED": specs[0].max_stalled,
        "STOPPED": EXIT_STOPPED,
        "ERROR": EXIT_ERROR,
        "REQUEUE": "yes" if requeue else "no",
    }
    for name, value in values.items():
        functions = functions.replace(name, str(value))
    return [
        *lines,
        f"dydist_submission={shlex.quote(submission)}",
        f"dydist_owner={shlex.quote(json.dumps({'submission': submission}))}",
        f'export {START}="$dydist_job.$(date +%s%N)"',
        f'dydist_output={shlex.quote(str(tasks))}/"$dydist_job"_0_log.out',
        'dydist_printed=$(stat -c %s "$dydist_output" 2>/dev/null || echo 0)  # by earlier starts',
        "# Files of an earlier job that had the same number are none of ours.",
        f'for file in {shlex.quote(str(tasks))}/"$dydist_job"_submitted.pkl "$dydist_logs/unreported"; do',
        '  if [ "$file" -ot "$dydist_submission/snapshot.json" ]; then rm -f "$file"; fi',
        "done",
        'dydist_unreported=$(cat "$dydist_logs/unreported" 2>/dev/null || echo 0)  # starts in a row',
        *functions.split("\n"),
    ]
