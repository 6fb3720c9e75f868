"""Shell code around srun in a job's batch script: it names each start and carries out what the nodes decided.

The nodes write their decision to the file `verdict` in the job's log folder, as one line "START ACTION CODE [NODES]".
START is the name of the start, so a verdict of an earlier start is ignored. The batch script outlives the nodes'
tasks, and therefore it requeues or cancels the job. While SLURM's controller does not answer, it retries as long as
the allocation lasts.

If no node could decide (it was killed, or ended before dydist's code ran), the script uses srun's exit code and
messages. The exit code alone is not enough: if srun cannot launch a step, the code can be any number. SLURM 22.05
gives 233, 140 or 1, and 140 is also the code of a signal.

Array elements are always addressed as ARRAY_TASK, because SLURM gives one of them the array's own number.
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
"""Environment variable with the name of this start: the job's number and the time."""
_ARRAY = (
    "SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_ARRAY_TASK_COUNT SLURM_ARRAY_TASK_MAX SLURM_ARRAY_TASK_MIN"
)

_LAUNCH = "(Task|Application) launch .*failed|Unable to confirm allocation"
"""srun's messages if it cannot reach its nodes or SLURM's controller; then another start may succeed. Not included:
the message about a step that asks for more than its job has."""
_BEFORE = "Node failure on"
"""srun's message about a lost node. It may come at any time, so it means a failed launch only
if no task has started."""

_FUNCTIONS = r"""
dydist_ask() {  # run a SLURM command; retry while the controller does not answer
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
dydist_record() {  # write the decision that no node could write. $1 action, $2 exit code, $3 reason
  echo "$3"
  local last count form='{"action": "%s", "code": %s, "reason": "%s", "time": %s, "saved_step": null}\n'
  last=$(ls -d "$dydist_logs"/attempt-* 2>/dev/null | tail -n 1)
  count=$(ls -d "$dydist_logs"/attempt-* 2>/dev/null | wc -l)
  grep -qsF "$DYDIST_START" "$last/start.json" || last=
  grep -qs '"action": "restart"' "$last/decision.json" && last=  # that start has ended
  last=${last:-$dydist_logs/attempt-$(printf %03d "$count")}
  mkdir -p "$last"
  [ -e "$last/decision.json" ] || printf "$form" "$1" "$2" "$3" "$(date +%s)" > "$last/decision.json"
  # without it the next start would move the folder aside, as an earlier job's
  [ -e "$dydist_logs/submission.json" ] || echo "$dydist_owner" > "$dydist_logs/submission.json"
}
dydist_unlaunched() {  # print srun's first message of this start that matches $1; fail if there is none
  tail -c +"$((dydist_printed + 1))" "$dydist_output" 2>/dev/null |
    sed -nE "s/^srun: error: (.*($1).*)/\1/p" | head -n 1 | tr -d '"\\\000-\037' | grep .
}
dydist_end() {
  local code=$? start action result nodes count what began=
  trap - EXIT
  set +eu
  mkdir -p "$dydist_logs"
  for _ in 1 2 3 4 5; do  # a file of another node may take a moment to appear here
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
        action=requeue what="that were killed at once (exit code $code)"  # by a signal, before they handled signals
      else
        dydist_record fail "$code" "exit code $code before dydist could report; what was printed last says more"
      fi
      if [ $action = requeue ] && [ -z "$began" ]; then  # no node counts this start
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
    echo "not requeued: the profile says requeue: false; submit it again to resume"
  else
    if [ -n "$nodes" ]; then
      case $dydist_answer in
        *" ExcNodeList=(null) "*) ;;
        *" ExcNodeList="*) dydist_answer=${dydist_answer##* ExcNodeList=}; nodes=${dydist_answer%% *},$nodes ;;
      esac
    fi
    if ! dydist_ask scontrol requeue "$dydist_job"; then
      echo "requeue failed: $dydist_answer; submit it again to resume from the newest checkpoint"
      exit ERROR
    fi
    # SLURM accepts excluded nodes only for a waiting job.
    [ -z "$nodes" ] || dydist_ask scontrol update JobId="$dydist_job" ExcNodeList="$nodes" || echo "$dydist_answer"
  fi
  exit "$result"
}
trap dydist_end EXIT
trap : TERM INT USR1 USR2  # the tasks get these signals too; wait for their decision"""


def around_srun(specs: Sequence[JobSpec], *, tasks: Path, requeue: bool) -> list[str]:
    """The first shell lines of the script. They determine what happens at its end, however it ends.

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
            f"unset {_ARRAY}  # inherited from the job that submitted this one",
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
        'dydist_printed=$(stat -c %s "$dydist_output" 2>/dev/null || echo 0)  # bytes that earlier starts printed',
        "# Remove the files of an earlier job that had the same number.",
        f'for file in {shlex.quote(str(tasks))}/"$dydist_job"_submitted.pkl "$dydist_logs/unreported"; do',
        '  if [ "$file" -ot "$dydist_submission/snapshot.json" ]; then rm -f "$file"; fi',
        "done",
        'dydist_unreported=$(cat "$dydist_logs/unreported" 2>/dev/null || echo 0)  # unreported starts in a row',
        *functions.split("\n"),
    ]
