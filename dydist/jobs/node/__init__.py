"""Code for the compute nodes.

- `task`: entry point; `context`: the job's data on one node; `preflight`, `checks`, `place_check`, `probe`: checks
  before training
- `supervise`, `watch`: starting and watching training processes; `rendezvous`: address and port; `scratch`: temporary
  folders
- `conclude`: the decision at the end of a start
"""
