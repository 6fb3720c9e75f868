"""The monitors of process 0 and their helpers.

- `jsonlines`: metrics.jsonl and events.jsonl; `status`: status.json; `prometheus`: a file for node exporter; `files`:
  atomic writes
- `progress`, `text`, `pace`: the terminal; `alerts`: warnings of typical problems; `hardware`: the machine
- `tensorboard` with `eventlog`, `layout`, `images`; `log_owner`: the run that owns a log folder; `shipping`: uploads
  to a remote store
"""
