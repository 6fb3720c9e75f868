"""Where records go, on process 0.

- `jsonlines`: metrics.jsonl and events.jsonl; `status`: status.json; `prometheus`: a file for node exporter;
  `files`: how they are written
- `progress`, `text`, `pace`: the terminal; `alerts`: what a person would want to know; `hardware`: the machine
- `tensorboard` with `eventlog`, `layout`, `images`; `log_owner`: whose log it is; `shipping`: a log on a remote store
"""
